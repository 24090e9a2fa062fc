"""The key-value cache of the transformers engine: one slot per conversation, kept between its turns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(eq=False)
class Slot:
    """A row of the cache. ids: the tokens whose keys and values it holds, so len(ids) is its valid length."""

    index: int
    ids: list[int] = field(default_factory=list)
    session: str | None = None
    last_used: int = 0
    busy: bool = False


class SlotCache:
    """Keys and values per layer, each (slots, kv_heads, max_context, head_dim), and who sits where.

    The memory is taken at first use (on CPU the pages no token has reached cost nothing) and given back by free().
    """

    def __init__(
        self,
        slots: int,
        max_context: int,
        layers: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ):
        self.shape = (slots, kv_heads, max_context, head_dim)
        self.layers, self.dtype, self.device = layers, dtype, device
        self.slots = [Slot(index) for index in range(slots)]
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self._clock = 0

    def allocate(self) -> None:
        if not self.keys:
            self.keys = [self._zeros() for _ in range(self.layers)]
            self.values = [self._zeros() for _ in range(self.layers)]

    def _zeros(self) -> Tensor:
        """Zeros, because attention also reads what no token has reached, with a weight of 0: that must not be nan."""
        if self.device.type != "cpu":
            return torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        # The operating system hands out zeros without touching memory, torch.zeros would write all of it.
        size, line = math.prod(self.shape) * self.dtype.itemsize, 64
        raw = torch.from_numpy(np.zeros(size + line, dtype=np.uint8))
        start = -raw.data_ptr() % line  # whole cache lines
        return raw[start : start + size].view(self.dtype).view(self.shape)

    def free(self) -> None:
        """Give the memory back; nothing is cached afterwards."""
        self.clear()
        self.keys, self.values = [], []

    def clear(self) -> None:
        """Forget every conversation."""
        for slot in self.slots:
            slot.ids, slot.session, slot.last_used, slot.busy = [], None, 0, False
        self._clock = 0

    def take(self, session: str) -> Slot | None:
        """The session's own slot, else the one unused for longest; None if all are busy."""
        idle = [slot for slot in self.slots if not slot.busy]
        if not idle:
            return None
        slot = next((s for s in idle if session and s.session == session), None)
        if slot is None:
            slot = min(idle, key=lambda s: s.last_used)
            slot.session = session or None
            # Its tokens stay: another conversation may begin in the same way.
        slot.busy = True
        return slot

    def release(self, slot: Slot) -> None:
        self._clock += 1
        slot.busy, slot.last_used = False, self._clock

    def reuse(self, slot: Slot, prompt_ids: list[int]) -> int:
        """Make `slot` hold the longest cached prefix of the prompt, copied from another slot if that has more.

        The last token is always left out: its hidden state is what the reply starts from. Returns the length.
        """
        limit = len(prompt_ids) - 1
        own = min(common_prefix(slot.ids, prompt_ids), limit)
        source, length = slot, own
        if (own < limit and own < len(slot.ids)) or not own:
            for other in self.slots:
                if len(other.ids) > length and (shared := min(common_prefix(other.ids, prompt_ids), limit)) > length:
                    source, length = other, shared
        if source is not slot:
            for cache in (*self.keys, *self.values):
                cache[slot.index, :, own:length] = cache[source.index, :, own:length]
        slot.ids = prompt_ids[:length]
        return length


def common_prefix(a: list[int], b: list[int]) -> int:
    """How many leading elements agree. Compares slices, which runs in C, instead of elements."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
