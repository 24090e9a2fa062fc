"""Log-probabilities of the action tokens: hidden states for every token, the vocabulary only where an action stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from meowtea.batch import TokenBatch
from meowtea.errors import ModelError
from meowtea.learner.attention import packed
from meowtea.learner.packing import Packing

LOGITS_AT_ONCE = 1 << 24  # fp32 logits alive at a time: 64 MiB, whatever the vocabulary


def state_before_actions(backbone: Any, batch: TokenBatch, packing: Packing) -> Tensor:
    """(A, hidden size) last hidden state of the token before each action token, in compute dtype."""
    with packed(backbone):
        hidden_UH = backbone(
            input_ids=packing.token_U[None],
            position_ids=packing.position_U[None],
            use_cache=False,
            packing=packing,
        ).last_hidden_state[0]
    return hidden_UH.index_select(0, packing.slot_T[batch.action_index_A - 1])


def action_logprobs(
    policy: PreTrainedModel, batch: TokenBatch, packing: Packing, with_entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """(A,) log-probability of each action token and, if asked, (A,) entropy of its distribution; nats, fp32.

    The distribution is the one sampled from: logits over batch.temperature (greedy batches count as temperature 1).
    With more logits than LOGITS_AT_ONCE, each chunk's are recomputed in the backward pass instead of kept.
    """
    state_AH = state_before_actions(policy.base_model, batch, packing)
    head = policy.get_output_embeddings()
    temperature = batch.temperature if batch.temperature > 0 else 1.0
    target_A = batch.token_T[batch.action_index_A]
    rows = max(1, LOGITS_AT_ONCE // head.weight.shape[0])
    if len(target_A) <= rows:
        return chunk_logprobs(head, state_AH, target_A, temperature, with_entropy)
    parts = [
        checkpoint(chunk_logprobs, head, state_CH, target_C, temperature, with_entropy, use_reentrant=False)
        for state_CH, target_C in zip(state_AH.split(rows), target_A.split(rows), strict=True)
    ]
    logprob_A = torch.cat([logprob for logprob, _ in parts])
    return logprob_A, torch.cat([entropy for _, entropy in parts]) if with_entropy else None


@torch.no_grad()
def check_architecture(policy: PreTrainedModel) -> None:
    """Raise ModelError unless the model's logits are its vocabulary projection of its last hidden states.

    Some architectures scale or cap their logits; action_logprobs would be silently wrong for them.
    """
    ids = torch.arange(3, 15, device=policy.device)[None]
    hidden = policy.base_model(input_ids=ids, use_cache=False).last_hidden_state
    projected = policy.get_output_embeddings()(hidden)
    if not torch.allclose(projected, policy(input_ids=ids, use_cache=False).logits, rtol=0.01, atol=0.01):
        raise ModelError(
            f"{type(policy).__name__}: it changes its logits after the vocabulary projection, which the learner does "
            "not do; choose a Llama, Qwen2 or Qwen3 model"
        )


def chunk_logprobs(
    head: Callable[[Tensor], Tensor], state_CH: Tensor, target_C: Tensor, temperature: float, with_entropy: bool
) -> tuple[Tensor, Tensor | None]:
    """The same for a chunk C of the action axis, all its logits at once."""
    logprob_CV = (head(state_CH).float() / temperature).log_softmax(-1)
    logprob_C = logprob_CV.gather(-1, target_C[:, None])[:, 0]
    entropy_C = -(logprob_CV.exp() * logprob_CV).sum(-1) if with_entropy else None
    return logprob_C, entropy_C
