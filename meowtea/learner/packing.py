"""Packing: sequences without padding, and beginnings that several sequences share computed only once.

The episodes of one group begin with the same prompt, and often with the same first turns. A hidden state depends
only on the tokens before it, so equal beginnings have equal hidden states: the packed model runs over the trie of the
sequences (U unique tokens, U <= T) and attention gathers each sequence's keys from it. Loss and gradients are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from meowtea.batch import TokenBatch

QUERY_BLOCK = 128  # queries per attention item: keys after an item's last query are never touched
MAX_SCORES = 1 << 19  # attention scores per head held at once: items of one bucket x queries x keys
MAX_WASTE = 1.2  # scores computed in a bucket, over those of its items alone


@dataclass
class Bucket:
    """Attention items of similar size. Each item is a run of new queries of one sequence and all keys up to its end.

    query_IL: slots in U of the L queries of each item, U for padding. key_IM: slots of the M keys, 0 for padding.
    bias_ILM: added to the scores, -inf where a query must not see a key (future or padding), else 0.
    """

    query_IL: Tensor
    key_IM: Tensor
    bias_ILM: Tensor


@dataclass
class Packing:
    """token_U, position_U: the unique tokens. slot_T: where in U each token of the batch stands.

    buckets: who attends to what; every slot is the query of exactly one item. owner_U: which one, counted over the
    padded queries (I*L) of all buckets. longest: tokens of the longest sequence.
    """

    token_U: Tensor
    position_U: Tensor
    slot_T: Tensor
    owner_U: Tensor
    buckets: list[Bucket]
    longest: int

    @classmethod
    def of(cls, batch: TokenBatch, share_prefixes: bool = True) -> Packing:
        """The trie of the batch's sequences and its attention items."""
        offsets = batch.cu_seqlens_N1.tolist()
        token_T = batch.token_T.cpu().numpy()
        sequences = [token_T[start:stop] for start, stop in pairwise(offsets)]
        order = sorted(range(len(sequences)), key=lambda n: sequences[n].tolist())
        slot_T = np.zeros(len(token_T), dtype=np.int64)
        tokens, positions, items = [], [], []
        used = 0
        previous, previous_slots = sequences[order[0]][:0], slot_T[:0]
        for n in order:
            # in sorted order no earlier sequence shares more with this one than the one just before it
            shared = common_prefix(previous, sequences[n]) if share_prefixes else 0
            length = len(sequences[n])
            slots = np.concatenate([previous_slots[:shared], np.arange(used, used + length - shared)])
            used += length - shared
            tokens.append(sequences[n][shared:])
            positions.append(np.arange(shared, length))
            slot_T[offsets[n] : offsets[n + 1]] = slots
            for start in range(shared, length, QUERY_BLOCK):
                items.append((start, min(start + QUERY_BLOCK, length), slots))
            previous, previous_slots = sequences[n], slots
        buckets = [make_bucket(group, padding=used) for group in group_items(items)]
        query_Q = torch.cat([bucket.query_IL.flatten() for bucket in buckets])
        owner_U = torch.empty(used + 1, dtype=torch.long)
        owner_U[query_Q] = torch.arange(len(query_Q))
        return cls(
            token_U=torch.from_numpy(np.concatenate(tokens)),
            position_U=torch.from_numpy(np.concatenate(positions)),
            slot_T=torch.from_numpy(slot_T),
            owner_U=owner_U[:used],
            buckets=buckets,
            longest=max(len(sequence) for sequence in sequences),
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> Packing:
        """On `device`, with biases in the dtype of the attention scores."""
        return Packing(
            self.token_U.to(device),
            self.position_U.to(device),
            self.slot_T.to(device),
            self.owner_U.to(device),
            [Bucket(b.query_IL.to(device), b.key_IM.to(device), b.bias_ILM.to(device, dtype)) for b in self.buckets],
            self.longest,
        )


Item = tuple[int, int, np.ndarray]  # first query, end of queries and keys, slots of the whole sequence


def common_prefix(a: Sequence[int] | np.ndarray, b: Sequence[int] | np.ndarray) -> int:
    """How many tokens the two begin with in common."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(np.asarray(a[:n]) != np.asarray(b[:n]))
    return int(differ[0]) if len(differ) else n


def group_items(items: Sequence[Item]) -> list[list[Item]]:
    """Items of similar size together: bounded padding (MAX_WASTE) and bounded memory (MAX_SCORES)."""
    groups: list[list[Item]] = []
    area, queries, keys = 0, 0, 0
    for item in sorted(items, key=lambda it: (-(it[1] - it[0]) // 32, -it[1])):
        start, end, _ = item
        wider, longer, size = max(queries, end - start), max(keys, end), (end - start) * end
        padded = wider * longer * (len(groups[-1]) + 1) if groups else 0
        if groups and padded <= MAX_SCORES and padded <= MAX_WASTE * (area + size):
            groups[-1].append(item)
            area, queries, keys = area + size, wider, longer
        else:
            groups.append([item])
            area, queries, keys = size, end - start, end
    return groups


def make_bucket(items: Sequence[Item], padding: int) -> Bucket:
    queries, keys = max(end - start for start, end, _ in items), max(end for _, end, _ in items)
    query_IL = np.full((len(items), queries), padding, dtype=np.int64)
    key_IM = np.zeros((len(items), keys), dtype=np.int64)
    # the last key each query sees; a padding query sees all, so that no row is hidden altogether
    last_IL = np.full((len(items), queries), keys)
    for i, (start, end, slots) in enumerate(items):
        query_IL[i, : end - start] = slots[start:end]
        key_IM[i, :end] = slots[:end]
        last_IL[i, : end - start] = np.arange(start, end)
    hidden_ILM = np.arange(keys)[None, None] > last_IL[:, :, None]
    bias_ILM = np.where(hidden_ILM, np.float32("-inf"), np.float32(0))
    return Bucket(torch.from_numpy(query_IL), torch.from_numpy(key_IM), torch.from_numpy(bias_ILM))
