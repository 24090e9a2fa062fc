"""Which tokens the model reads in each step: prompts in pieces, one token for each reply in the making."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

import torch
from transformers import PreTrainedModel

from meowtea.rollout.attention import SlotAttention, Span, slot_attention_on
from meowtea.rollout.engine import Completion
from meowtea.rollout.pump import Request
from meowtea.rollout.sampler import sample, uniforms
from meowtea.rollout.slots import Slot, SlotCache, common_prefix

SHARED_PREFIX = 16  # tokens in common from which on it is worth waiting a step for another row to read them


@dataclass(eq=False)
class Row:
    """A request that has a slot. ids: prompt and reply so far; slot.ids are those already in the cache."""

    request: Request
    slot: Slot
    ids: list[int]
    uniforms: list[float]
    started: bool = False
    logprobs: list[float] = field(default_factory=list)

    @property
    def reply(self) -> list[int]:
        return self.ids[len(self.request.prompt_ids) :]

    @property
    def pending(self) -> int:
        """Tokens the model has yet to read before the next one can be sampled."""
        return len(self.ids) - len(self.slot.ids)

    def finish_reason(self) -> Literal["stop", "length"] | None:
        if self.logprobs and self.ids[-1] in self.request.sampling.stop_token_ids:
            return "stop"
        return "length" if len(self.logprobs) >= self.request.sampling.max_tokens else None


class Batcher:
    """Continuous batching: rows join and leave at any step (Orca, Yu et al. 2022); prompts share cached prefixes."""

    def __init__(self, policy: PreTrainedModel, max_context: int, max_sequences: int, max_batch_tokens: int):
        config = policy.config
        heads = config.num_attention_heads
        self.policy = policy
        self.max_batch_tokens = max_batch_tokens
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        self.shared_heads = heads // kv_heads
        self.cache = SlotCache(
            slots=max_sequences,
            max_context=max_context,
            layers=config.num_hidden_layers,
            kv_heads=kv_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            dtype=policy.dtype,
            device=policy.device,
        )
        self.waiting: deque[Request] = deque()
        self.rows: list[Row] = []

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    def clear(self) -> None:
        self.waiting.clear()
        self.rows.clear()
        self.cache.clear()

    def step(self) -> list[tuple[Request, Completion]]:
        self._drop_cancelled()
        self._seat()
        self.cache.allocate()
        chosen = self._choose()
        if not chosen:
            return []
        with torch.inference_mode(), slot_attention_on(self.policy):
            self._read(chosen)
        finished, going_on = [], []
        for row in self.rows:
            reason = row.finish_reason()
            if reason is None:
                going_on.append(row)
            else:
                self.cache.release(row.slot)
                finished.append((row.request, Completion(row.reply, row.logprobs, reason)))
        self.rows = going_on
        return finished

    def _drop_cancelled(self) -> None:
        for row in self.rows:
            if row.request.cancelled:
                self.cache.release(row.slot)
        self.rows = [row for row in self.rows if not row.request.cancelled]
        self.waiting = deque(request for request in self.waiting if not request.cancelled)

    def _seat(self) -> None:
        """Give waiting requests slots as long as there are any."""
        while self.waiting and (slot := self.cache.take(self.waiting[0].session)) is not None:
            request = self.waiting.popleft()
            numbers = uniforms(request.sampling.seed or 0, request.sampling.max_tokens)
            self.rows.append(Row(request, slot, list(request.prompt_ids), numbers))

    def _choose(self) -> list[tuple[Row, int]]:
        """(row, tokens to read now): replies first, then prompts until the step is full."""
        chosen = [(row, 1) for row in self.rows if row.started and row.pending == 1]
        budget = self.max_batch_tokens - len(chosen)
        reading = [row for row in self.rows if row.started and row.pending > 1]
        for row in self.rows:
            if not row.started and not self._better_to_wait(row, reading):
                self.cache.reuse(row.slot, row.ids)
                row.started = True
                reading.append(row)
        for row in reading:
            if budget <= 0:
                break
            count = min(row.pending, budget)
            chosen.append((row, count))
            budget -= count
        if not chosen and reading:
            chosen.append((reading[0], 1))
        return chosen

    def _better_to_wait(self, row: Row, reading: list[Row]) -> bool:
        """Whether a prompt being read now begins like this one: then this one takes over its cache later.

        The episodes of a group ask the same first question all at once.
        """
        shared = max((common_prefix(other.ids, row.ids) for other in reading), default=0)
        if shared < SHARED_PREFIX:
            return False
        cached = max(common_prefix(slot.ids, row.ids) for slot in self.cache.slots)
        return shared >= cached + SHARED_PREFIX

    def _read(self, chosen: list[tuple[Row, int]]) -> None:
        """One forward pass over the chosen tokens laid end to end; rows that have read all sample a token."""
        device = self.cache.device
        ids: list[int] = []
        spans: list[Span] = []
        last: list[int] = []
        sampling: list[Row] = []
        for row, count in chosen:
            cached = len(row.slot.ids)
            spans.append(Span(row.slot.index, len(ids), count, cached))
            ids += row.ids[cached : cached + count]
            if cached + count == len(row.ids):
                last.append(len(ids) - 1)
                sampling.append(row)
        attention = SlotAttention(self.cache, spans, self.shared_heads)
        logits = self.policy(
            input_ids=torch.tensor([ids], device=device),
            position_ids=attention.position_T[None],
            logits_to_keep=torch.tensor(last, dtype=torch.long, device=device),
            use_cache=False,
            slot_attention=attention,
        ).logits[0]
        for row, count in chosen:
            row.slot.ids = row.ids[: len(row.slot.ids) + count]
        if not sampling:
            return
        options = [row.request.sampling for row in sampling]
        tokens, logprobs = sample(
            logits,
            torch.tensor([o.temperature for o in options], dtype=torch.float32, device=device),
            torch.tensor([o.top_p for o in options], dtype=torch.float32, device=device),
            torch.tensor([row.uniforms[len(row.logprobs)] for row in sampling], dtype=torch.float64, device=device),
        )
        for row, token, logprob in zip(sampling, tokens.tolist(), logprobs.tolist(), strict=True):
            row.ids.append(token)
            row.logprobs.append(logprob)
