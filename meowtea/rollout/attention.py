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


@dataclass
class Span:
    """Tokens [start, stop) of the flat batch belong to this slot; `cached` tokens of it were there before."""

    slot: int
    start: int
    stop: int
    cached: int


class SlotAttention:
    """The spans of one model step. Passed through the model's forward to `attend`, as the argument `slot_attention`.

    Tokens of all conversations stand in one row of T tokens, so the linear layers see no padding; only attention
    looks at conversations one by one, on views of the cache, so nothing of it is copied.
    Decoding on a GPU (one token each, many small kernels) goes in one padded batch instead.
    """

    def __init__(self, cache: SlotCache, spans: list[Span]):
        self.cache = cache
        device = cache.device
        self.slot_T = torch.tensor([s.slot for s in spans for _ in range(s.start, s.stop)], device=device)
        self.position_T = torch.tensor(
            [p for s in spans for p in range(s.cached, s.cached + s.stop - s.start)], device=device
        )
        self.decode_mask: Tensor | None = None
        decode = [s for s in spans if s.stop - s.start == 1] if cache.padded else []
        if decode:
            self.decode_token = torch.tensor([s.start for s in decode], device=device)
            self.decode_slot = torch.tensor([s.slot for s in decode], device=device)
            lengths = torch.tensor([s.cached + 1 for s in decode], device=device)
            self.decode_length = max(s.cached + 1 for s in decode)
            self.decode_mask = torch.arange(self.decode_length, device=device) < lengths[:, None, None, None]
        self.spans = [s for s in spans if s.stop - s.start > 1] if cache.padded else spans
        self._masks: list[Tensor | None] = []

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """query (1, H, T, D), key and value (1, H_kv, T, D) -> (1, T, H, D); writes keys and values to the cache."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.slot_T, :, self.position_T] = key[0].transpose(0, 1)
        values[self.slot_T, :, self.position_T] = value[0].transpose(0, 1)
        heads, tokens, dim = query.shape[1:]
        kv_heads = key.shape[1]
        group = heads // kv_heads
        if not self._masks:
            self._masks = [self._causal(span, group) for span in self.spans]
        out = query.new_empty(tokens, kv_heads, group, dim)
        # The query heads that share a key head stand in the query axis of that head: no key is repeated.
        grouped = query[0].reshape(kv_heads, group, tokens, dim)
        for span, mask in zip(self.spans, self._masks, strict=True):
            count, length = span.stop - span.start, span.cached + span.stop - span.start
            result = F.scaled_dot_product_attention(
                grouped[:, :, span.start : span.stop].reshape(1, kv_heads, group * count, dim),
                keys[span.slot, :, :length].unsqueeze(0),
                values[span.slot, :, :length].unsqueeze(0),
                attn_mask=mask,
                scale=scale,
            )
            out[span.start : span.stop] = result.view(kv_heads, group, count, dim).permute(2, 0, 1, 3)
        if self.decode_mask is not None:
            result = F.scaled_dot_product_attention(
                grouped[:, :, self.decode_token].permute(2, 0, 1, 3),
                keys[self.decode_slot, :, : self.decode_length],
                values[self.decode_slot, :, : self.decode_length],
                attn_mask=self.decode_mask,
                scale=scale,
            )
            out[self.decode_token] = result
        return out.view(1, tokens, heads, dim)

    def _causal(self, span: Span, group: int) -> Tensor | None:
        count = span.stop - span.start
        if count == 1:
            return None
        mask = torch.ones(count, span.cached + count, dtype=torch.bool, device=self.cache.device)
        return mask.tril(span.cached).repeat(group, 1)


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
