"""The embedded engine: continuous batching around the learner's own model, without a copy of its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from meowtea.errors import ConfigError, ModelError
from meowtea.rollout.engine import Completion, Sampling, batch_problems, check_fits
from meowtea.seeds import derive_seed

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class Transformers:
    """Engine around a causal LM of transformers (full attention; any of Llama, Qwen2, Qwen3, SmolLM and the like).

    policy: the module to run, shared with the learner. seed: for requests that bring none.
    deterministic: replies depend on no timing (see pump.py).
    max_context: most tokens of one conversation. max_sequences: conversations kept in the cache, and rows of a step.
    max_batch_tokens: most tokens of one model step; longer prompts are read in pieces.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        export: Callable[[], Path],
        tokenizer: Any,
        seed: int,
        deterministic: bool,
        *,
        max_context: Annotated[int, Ge(2)],
        max_sequences: Annotated[int, Ge(1)],
        max_batch_tokens: Annotated[int, Ge(1)],
    ):
        from meowtea.rollout.batcher import Batcher
        from meowtea.rollout.pump import Pump

        if problems := self.problems(max_sequences=max_sequences, max_batch_tokens=max_batch_tokens):
            raise ConfigError([f"engine.{problem}" for problem in problems])
        limit = getattr(policy.config, "max_position_embeddings", None)
        if limit is not None and max_context > limit:
            raise ModelError(f"engine.max_context: {max_context}, but the model reads at most {limit} tokens; lower it")
        self.policy, self.seed = policy, seed
        self.max_context = max_context
        self.policy_version = 0
        self._unseeded = 0
        self._batcher = Batcher(policy, max_context, max_sequences, max_batch_tokens)
        self._pump = Pump(self._batcher, deterministic)

    @staticmethod
    def problems(**keys: Any) -> list[str]:
        return batch_problems(**keys)

    async def generate(self, prompt_ids: list[int], sampling: Sampling, session: str = "") -> Completion:
        check_fits(prompt_ids, sampling, self.max_context)
        if sampling.seed is None:
            self._unseeded += 1
            sampling = replace(sampling, seed=derive_seed(self.seed, session, self._unseeded))
        return await self._pump.submit(prompt_ids, sampling, session)

    def enter(self, session: str) -> None:
        self._pump.enter(session)

    def leave(self, session: str) -> None:
        self._pump.leave(session)

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """The module's own tensors need no copying; any others are copied into it."""
        self._pump.call(self._batcher.clear)
        copy_weights(self.policy, weights)
        self.policy_version = version

    def sleep(self) -> None:
        self._pump.call(self._batcher.cache.free)

    def wake(self) -> None:
        """The cache takes its memory again with the next request."""

    def close(self) -> None:
        self.sleep()
        self._pump.close()


def copy_weights(policy: PreTrainedModel, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Copy weights into the module, except those that are its own storage already.

    Errors: ModelError for a name or a shape that is not the module's.
    """
    import torch

    own = dict(policy.named_parameters(remove_duplicate=False)) | dict(policy.named_buffers(remove_duplicate=False))
    with torch.no_grad():
        for name, tensor in weights:
            target = own.get(name)
            if target is None or target.shape != tensor.shape:
                has = "no such weight" if target is None else f"shape {tuple(target.shape)}"
                raise ModelError(f"engine: cannot load {name} {tuple(tensor.shape)}: the model has {has}")
            if target.data_ptr() != tensor.data_ptr():
                target.copy_(tensor)
