"""Attention of many conversations of different lengths laid end to end, over their slots of the cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from meowtea.errors import ModelError
from meowtea.rollout.slots import SlotCache

NAME = "meowtea_slots"
LARGEST_MASK = 2**21  # queries x keys of a group


@dataclass
class Span:
    """Tokens [start, start + count) of the flat batch belong to this slot; `cached` tokens of it were there before."""

    slot: int
    start: int
    count: int
    cached: int

    @property
    def length(self) -> int:
        return self.cached + self.count


class SlotAttention:
    """The spans of one model step. Passed through the model's forward to `attend`, as the argument `slot_attention`.

    Tokens of all conversations stand in one row of T tokens, so the linear layers see no padding. Only attention
    looks at conversations, in groups of similar size: few large calls, because each call makes all threads meet.
    """

    def __init__(self, cache: SlotCache, spans: list[Span], shared: int):
        """shared: query heads per key head."""
        self.cache = cache
        device = cache.device
        self.slot_T = torch.tensor([s.slot for s in spans for _ in range(s.count)], device=device)
        self.position_T = torch.tensor([p for s in spans for p in range(s.cached, s.length)], device=device)
        self.groups = [Group.of(members, cache, shared) for members in similar(spans)]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """query (1, H, T, D), key and value (1, H_kv, T, D) -> (1, T, H, D); writes keys and values to the cache."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.slot_T, :, self.position_T] = key[0].transpose(0, 1)
        values[self.slot_T, :, self.position_T] = value[0].transpose(0, 1)
        heads, tokens, dim = query.shape[1:]
        kv_heads = key.shape[1]
        # Query heads that share a key head stand in the query axis of that head: no key is repeated.
        query = query[0].reshape(kv_heads, heads // kv_heads, tokens, dim)
        out = query.new_empty(tokens, kv_heads, heads // kv_heads, dim)
        for group in self.groups:
            group.attend(query, keys, values, out, scale)
        return out.view(1, tokens, heads, dim)


@dataclass
class Group:
    """R rows of the cache that attend in one call, padded to n queries and L keys.

    rows: a slice of slots (a view of the cache, which may have slots between that do not take part) or their indices.
    token_Rn: which token of the flat batch is the query.
    mask (R, 1, G * n, L): 0 where a query may look, -inf elsewhere; G query heads share a key head.
    real: (row, query) of those that are not padding; None if all are.
    """

    rows: slice | Tensor
    length: int
    token_Rn: Tensor
    mask: Tensor
    real: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, spans: list[Span], cache: SlotCache, shared: int) -> Group:
        device = cache.device
        low, high = min(s.slot for s in spans), max(s.slot for s in spans) + 1
        rows: slice | Tensor
        if high - low <= 2 * len(spans):
            by_slot = {s.slot: s for s in spans}
            members = [by_slot.get(slot, Span(slot, 0, 0, 0)) for slot in range(low, high)]
            rows = slice(low, high)
        else:
            members = spans
            rows = torch.tensor([s.slot for s in spans], device=device)
        count, length = max(s.count for s in spans), max(s.length for s in spans)
        start_R = torch.tensor([s.start for s in members], device=device)
        count_R = torch.tensor([s.count for s in members], device=device)
        cached_R = torch.tensor([s.cached for s in members], device=device)
        query_n = torch.arange(count, device=device)
        real_Rn = query_n < count_R[:, None]
        token_Rn = (start_R[:, None] + query_n).where(real_Rn, 0)
        hidden_RnL = torch.arange(length, device=device) > (cached_R[:, None] + query_n)[:, :, None]
        mask_RnL = torch.zeros(hidden_RnL.shape, dtype=cache.dtype, device=device).masked_fill_(hidden_RnL, -torch.inf)
        row, query = real_Rn.nonzero(as_tuple=True)
        real = None if len(row) == real_Rn.numel() else (row, query)
        return cls(rows, length, token_Rn, mask_RnL.repeat(1, shared, 1)[:, None], real)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, out: Tensor, scale: float | None) -> None:
        """query (H_kv, G, T, D) over the keys and values of a layer; writes its tokens of out (T, H_kv, G, D)."""
        kv_heads, shared, _, dim = query.shape
        rows, count = self.token_Rn.shape
        result = F.scaled_dot_product_attention(
            query[:, :, self.token_Rn].permute(2, 0, 1, 3, 4).reshape(rows, kv_heads, shared * count, dim),
            keys[self.rows, :, : self.length],
            values[self.rows, :, : self.length],
            attn_mask=self.mask,
            scale=scale,
        )
        result = result.reshape(rows, kv_heads, shared, count, dim).permute(0, 3, 1, 2, 4)
        if self.real is None:
            out[self.token_Rn] = result
        else:
            out[self.token_Rn[self.real]] = result[self.real]


def similar(spans: list[Span]) -> list[list[Span]]:
    """Spans in groups whose queries and keys differ by less than a factor of two, and whose masks stay moderate."""
    groups: list[list[Span]] = []
    for span in sorted(spans, key=lambda s: (s.count, s.length), reverse=True):
        for group in groups:
            count, length = max(s.count for s in group), max(s.length for s in group)
            fits = count * max(length, span.length) * (len(group) + 1) <= LARGEST_MASK
            if fits and 2 * span.count > count and 2 * span.length > length > span.length / 2:
                group.append(span)
                break
        else:
            groups.append([span])
    return groups


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    slot_attention: SlotAttention | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer while `slot_attention_on` holds."""
    assert slot_attention is not None
    for name in ("sliding_window", "softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            raise ModelError(
                f"engine=transformers cannot run {type(module).__name__}: its attention uses {name}; "
                "use engine=vllm or another model"
            )
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    return slot_attention.attend(layer, query, key, value, scaling), None


AttentionInterface.register(NAME, attention_forward)


@contextmanager
def slot_attention_on(model: PreTrainedModel) -> Iterator[None]:
    """Within it the model attends through slots, in evaluation mode; after it the model is as the learner left it."""
    config = model.config
    previous, training = config._attn_implementation, model.training
    config._attn_implementation = NAME
    if training:
        model.eval()
    try:
        yield
    finally:
        config._attn_implementation = previous
        if training:
            model.train()
