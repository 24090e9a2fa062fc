"""Cutting an optimizer step into micro-batches that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from meowtea.batch import TokenBatch
from meowtea.learner.packing import common_prefix


def micro_batches(batch: TokenBatch, max_tokens: int, share_prefixes: bool) -> Iterator[tuple[TokenBatch, Tensor]]:
    """Whole trajectories, at most max_tokens tokens to compute each (a single longer trajectory stands alone).

    Trajectories with a common beginning come one after the other, so that it is computed once. Yields the
    micro-batch and, for each of its action tokens, the index on the action axis of `batch`.
    """
    rows_B = rows_of_trajectories(batch)
    token_B = tokens_of_trajectories(batch)
    chosen: list[int] = []
    size = 0
    previous: list[int] = []
    for b in sorted(range(batch.trajectory_count), key=lambda b: token_B[b]):
        shared = common_prefix(previous, token_B[b]) if share_prefixes and chosen else 0
        if chosen and size + len(token_B[b]) - shared > max_tokens:
            yield batch.select(chosen), torch.cat([rows_B[c] for c in chosen])
            chosen, size, shared = [], 0, 0
        chosen.append(b)
        size += len(token_B[b]) - shared
        previous = token_B[b]
    yield batch.select(chosen), torch.cat([rows_B[c] for c in chosen])


def with_advantage(batch: TokenBatch) -> tuple[TokenBatch, Tensor]:
    """The trajectories that have a token with an advantage other than 0, and their indices on the action axis.

    In groups whose episodes all ended alike every advantage is 0: they cost time and move nothing. With no other
    trajectory the first one stays, so that the optimizer takes its step all the same.
    """
    assert batch.advantage_A is not None
    rows_B = rows_of_trajectories(batch)
    kept = [b for b, rows in enumerate(rows_B) if batch.advantage_A[rows].any()] or [0]
    return batch.select(kept), torch.cat([rows_B[b] for b in kept])


def rows_of_trajectories(batch: TokenBatch) -> list[Tensor]:
    """For each trajectory, its indices on the action axis."""
    return list(torch.arange(batch.action_count).split(batch.trajectory_A.bincount().tolist()))


def tokens_of_trajectories(batch: TokenBatch) -> list[list[int]]:
    """For each trajectory, the tokens of all its sequences."""
    offsets, token_T = batch.cu_seqlens_N1.tolist(), batch.token_T.tolist()
    owner_N = batch.trajectory_A[batch.sequence_A().diff(prepend=torch.tensor([-1])) != 0].tolist()
    token_B: list[list[int]] = [[] for _ in range(batch.trajectory_count)]
    for n, b in enumerate(owner_N):
        token_B[b] += token_T[offsets[n] : offsets[n + 1]]
    return token_B


def minibatches(count: int, steps: int, generator: torch.Generator) -> list[list[int]]:
    """Trajectories 0..count-1 dealt into `steps` optimizer steps (fewer if there are fewer trajectories).

    Shuffled, but each in ascending order: a single step is the whole batch, and draws nothing from the generator.
    """
    if steps == 1:
        return [list(range(count))]
    order = torch.randperm(count, generator=generator)
    return [sorted(part.tolist()) for part in order.chunk(steps)]
