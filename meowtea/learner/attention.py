"""Causal attention over a Packing, registered with transformers as the attention implementation 'meowtea_packed'.

Scores are materialised per bucket (at most 128 queries of a few sequences), and those of long sequences are recomputed
in the backward pass, so memory does not grow with the square of the length. Plain matrix products rather than
torch.nn.functional.scaled_dot_product_attention: its bf16 backward on CPUs is several times slower.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from meowtea.errors import ModelError
from meowtea.learner.packing import Bucket, Packing

NAME = "meowtea_packed"
KEEP_KEYS = 512  # up to this many keys, the weights of a bucket are kept for the backward pass rather than recomputed


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    packing: Packing,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query (1, heads, U, D), key and value (1, kv heads, U, D) -> (1, U, heads, D).

    Raises ModelError for what this attention does not do: windows shorter than the sequences, capped scores, sinks.
    """
    asked = [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if (kwargs.get("sliding_window") or packing.longest) < packing.longest:
        asked.append("sliding_window")
    if asked:
        raise ModelError(
            f"{type(module).__name__}: the learner's attention has no {' and no '.join(asked)}; choose a model with "
            "full attention (Llama, Qwen2, Qwen3), or shorter episodes than its window"
        )
    q_UHD, k_UGD, v_UGD = (states[0].transpose(0, 1) for states in (query, key, value))
    return PackedAttention.apply(q_UHD, k_UGD, v_UGD, packing, scaling)[None], None


AttentionInterface.register(NAME, packed_attention)


@contextmanager
def packed(model: PreTrainedModel) -> Iterator[None]:
    """Within the block, `model` attends by the `packing` given to its forward; the rollout engine's choice is put
    back afterwards, since engine and learner share the module."""
    before = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Keep no activations inside the layers (in train mode): they are recomputed in the backward pass, which must
    attend as the forward pass did."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), packed(model)

    model.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": contexts})


class PackedAttention(torch.autograd.Function):
    """softmax(q k^T * scaling) v for every query of every bucket; grouped kv heads are not repeated in memory.

    H heads, G kv heads (H a multiple of G), R = H / G heads per kv head. A padding query reads a row of zeros, in the
    backward pass a gradient of zeros: it adds nothing to the keys, and its own output is picked by nobody.
    """

    @staticmethod
    def forward(ctx: Any, q_UHD: Tensor, k_UGD: Tensor, v_UGD: Tensor, packing: Packing, scaling: float) -> Tensor:
        q_UHD = pad(q_UHD * scaling)
        parts, kept = [], []
        for bucket in packing.buckets:
            q, k, v = gather(q_UHD, k_UGD, v_UGD, bucket)
            p = weights(q, k, bucket)
            kept.append(p if bucket.key_IM.shape[1] <= KEEP_KEYS else None)
            parts.append(queries_first(p @ v, bucket))
        ctx.save_for_backward(q_UHD, k_UGD, v_UGD, *kept)
        ctx.packing, ctx.scaling = packing, scaling
        return torch.cat(parts).index_select(0, packing.owner_U)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q_UHD, k_UGD, v_UGD, *kept = ctx.saved_tensors
        packing: Packing = ctx.packing
        groups = k_UGD.shape[1]
        grad_UHD = pad(grad_outputs[0])
        parts = []
        # a shared key gets gradients from many sequences: add them in fp32
        dk_UGD, dv_UGD = (torch.zeros(k_UGD.shape, dtype=torch.float32, device=k_UGD.device) for _ in range(2))
        for bucket, p in zip(packing.buckets, kept, strict=True):
            q, k, v = gather(q_UHD, k_UGD, v_UGD, bucket)
            grad = gather_queries(grad_UHD, bucket, groups)
            p = weights(q, k, bucket) if p is None else p
            add_keys(dv_UGD, p.transpose(-1, -2) @ grad, bucket)
            # dS = P * (dP - sum(dP * P)), in one pass
            ds = torch._softmax_backward_data(grad @ v.transpose(-1, -2), p, -1, p.dtype)
            parts.append(queries_first(ds @ k, bucket))
            add_keys(dk_UGD, ds.transpose(-1, -2) @ q, bucket)
        dq_UHD = torch.cat(parts).index_select(0, packing.owner_U) * ctx.scaling
        return dq_UHD, dk_UGD.to(k_UGD.dtype), dv_UGD.to(v_UGD.dtype), None, None


def pad(x_UHD: Tensor) -> Tensor:
    """One more row, of zeros, for the padding queries."""
    return nn.functional.pad(x_UHD, (0, 0, 0, 0, 0, 1))


def gather_queries(x_UHD: Tensor, bucket: Bucket, groups: int) -> Tensor:
    """(I, G, R*L, D): the heads of one kv head lie one after the other, to meet its keys in one product."""
    items, length = bucket.query_IL.shape
    x = x_UHD.index_select(0, bucket.query_IL.flatten()).view(items, length, groups, -1, x_UHD.shape[-1])
    return x.permute(0, 2, 3, 1, 4).flatten(2, 3)


def queries_first(x: Tensor, bucket: Bucket) -> Tensor:
    """(I, G, R*L, D) -> (I*L, H, D), the inverse of gather_queries' layout."""
    items, length = bucket.query_IL.shape
    x = x.view(items, x.shape[1], -1, length, x.shape[-1]).permute(0, 3, 1, 2, 4)
    return x.reshape(items * length, -1, x.shape[-1])


def gather(q_UHD: Tensor, k_UGD: Tensor, v_UGD: Tensor, bucket: Bucket) -> tuple[Tensor, Tensor, Tensor]:
    """q (I, G, R*L, D), k and v (I, G, M, D) of a bucket."""
    items, length = bucket.key_IM.shape
    index = bucket.key_IM.flatten()
    k, v = (x.index_select(0, index).view(items, length, *x.shape[1:]).transpose(1, 2) for x in (k_UGD, v_UGD))
    return gather_queries(q_UHD, bucket, k_UGD.shape[1]), k, v


def weights(q: Tensor, k: Tensor, bucket: Bucket) -> Tensor:
    """(I, G, R*L, M) attention weights in the dtype of q; softmax computes in fp32 and rounds once."""
    scores = q @ k.transpose(-1, -2)
    items, length, keys = bucket.bias_ILM.shape
    scores.view(items, -1, length, keys).add_(bucket.bias_ILM[:, None])
    return scores.softmax(-1)


def add_keys(sum_UGD: Tensor, x: Tensor, bucket: Bucket) -> None:
    """Add x (I, G, M, D) to the slots of the keys. Padding keys are slot 0, and their rows of x are 0."""
    sum_UGD.index_add_(0, bucket.key_IM.flatten(), x.transpose(1, 2).flatten(0, 1).float())
