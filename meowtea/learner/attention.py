"""Causal attention over a Packing, registered with transformers as the attention implementation 'meowtea_packed'.

Scores are materialised per bucket (at most 128 queries of a few sequences) and recomputed in the backward pass, so
memory does not grow with the square of the length. Plain matrix products rather than
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


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    packing: Packing,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query (1, heads, U, D), key and value (1, kv heads, U, D) -> (1, U, heads, D).

    Raises ModelError for what this attention does not do: a window shorter than the sequences, capped scores.
    """
    if softcap is not None or (sliding_window is not None and sliding_window < packing.longest):
        raise ModelError(
            f"{type(module).__name__}: sliding windows shorter than the sequences and capped attention scores are not "
            "supported by the learner; choose a model with full attention (Llama, Qwen2, Qwen3)"
        )
    q_UHD, k_UGD, v_UGD = (states[0].transpose(0, 1) for states in (query, key, value))
    return PackedAttention.apply(q_UHD, k_UGD, v_UGD, packing.buckets, scaling)[None], None


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

    H heads, G kv heads (H a multiple of G), R = H / G heads per kv head.
    """

    @staticmethod
    def forward(ctx: Any, q_UHD: Tensor, k_UGD: Tensor, v_UGD: Tensor, buckets: list[Bucket], scaling: float) -> Tensor:
        out_UHD = torch.empty(q_UHD.shape, dtype=q_UHD.dtype, device=q_UHD.device)
        for bucket in buckets:
            q, k, v = gather(q_UHD, k_UGD, v_UGD, bucket)
            p = probabilities(q, k, bucket, scaling)
            scatter(out_UHD, p @ v, bucket)
        ctx.save_for_backward(q_UHD, k_UGD, v_UGD, out_UHD)
        ctx.buckets, ctx.scaling = buckets, scaling
        return out_UHD

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q_UHD, k_UGD, v_UGD, out_UHD = ctx.saved_tensors
        grad_UHD = grad_outputs[0]
        # rows of the softmax Jacobian: dS = P * (dP - rowsum(dO * O))
        inner_UH1 = (grad_UHD.float() * out_UHD.float()).sum(-1, keepdim=True)
        dq_UHD = torch.empty_like(out_UHD)
        # a shared key gets gradients from many sequences: add them in fp32
        dk_UGD, dv_UGD = (torch.zeros(k_UGD.shape, dtype=torch.float32, device=k_UGD.device) for _ in range(2))
        for bucket in ctx.buckets:
            q, k, v = gather(q_UHD, k_UGD, v_UGD, bucket)
            # padding queries repeat slot 0: they must add nothing to the keys
            padding = padding_rows(bucket, q)
            grad = gather_queries(grad_UHD, bucket, k_UGD.shape[1]).masked_fill_(padding, 0)
            inner = gather_queries(inner_UH1, bucket, k_UGD.shape[1]).masked_fill_(padding, 0)
            p = probabilities(q, k, bucket, ctx.scaling)
            add_keys(dv_UGD, p.transpose(-1, -2) @ grad, bucket)
            ds = (grad @ v.transpose(-1, -2)).float().sub_(inner).mul_(p).mul_(ctx.scaling).to(q.dtype)
            scatter(dq_UHD, ds @ k, bucket)
            add_keys(dk_UGD, ds.transpose(-1, -2) @ q, bucket)
        return dq_UHD, dk_UGD.to(k_UGD.dtype), dv_UGD.to(v_UGD.dtype), None, None


def gather_queries(x_UHD: Tensor, bucket: Bucket, groups: int) -> Tensor:
    """(I, G, R*L, D): the heads of one kv head lie one after the other, to meet its keys in one product."""
    items, length = bucket.query_IL.shape
    x = x_UHD.index_select(0, bucket.query_IL.flatten()).view(items, length, groups, -1, x_UHD.shape[-1])
    return x.permute(0, 2, 3, 1, 4).flatten(2, 3)


def gather(q_UHD: Tensor, k_UGD: Tensor, v_UGD: Tensor, bucket: Bucket) -> tuple[Tensor, Tensor, Tensor]:
    items, length = bucket.key_IM.shape
    index = bucket.key_IM.flatten()
    k, v = (x.index_select(0, index).view(items, length, *x.shape[1:]).transpose(1, 2) for x in (k_UGD, v_UGD))
    return gather_queries(q_UHD, bucket, k_UGD.shape[1]), k, v


def probabilities(q: Tensor, k: Tensor, bucket: Bucket, scaling: float) -> Tensor:
    """(I, G, R*L, M) attention weights in the dtype of q; the softmax itself is in fp32."""
    items, length, keys = bucket.hidden_ILM.shape
    scores = (q @ k.transpose(-1, -2)).float().mul_(scaling)
    by_head = scores.view(items, -1, length, keys)
    by_head.masked_fill_(bucket.hidden_ILM[:, None], float("-inf"))
    return scores.softmax(-1).to(q.dtype)


def padding_rows(bucket: Bucket, x: Tensor) -> Tensor:
    """(I, 1, R*L, 1), True at the padding queries of x (I, G, R*L, any)."""
    repeats = x.shape[2] // bucket.real_IL.shape[1]
    return ~bucket.real_IL.repeat(1, repeats)[:, None, :, None]


def scatter(out_UHD: Tensor, x: Tensor, bucket: Bucket) -> None:
    """Write the rows of x (I, G, R*L, D) to their slots; padding is left out."""
    items, length = bucket.query_IL.shape
    x = x.view(items, x.shape[1], -1, length, x.shape[-1]).permute(0, 3, 1, 2, 4)
    real = bucket.real_IL
    out_UHD[bucket.query_IL[real]] = x.reshape(items, length, *out_UHD.shape[1:])[real]


def add_keys(sum_UGD: Tensor, x: Tensor, bucket: Bucket) -> None:
    """Add x (I, G, M, D) to the slots of the keys. Padding keys are slot 0 and their rows are 0."""
    sum_UGD.index_add_(0, bucket.key_IM.flatten(), x.transpose(1, 2).flatten(0, 1).float())
