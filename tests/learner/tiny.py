"""Random episodes with shared beginnings, tiny models, and the plain computation to compare with."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from meowtea.batch import TokenBatch
from meowtea.learner.model import Model
from meowtea.types import Outcome, Task, Trajectory, Turn

VOCABULARY = 259


def model_at(folder: Path, dtype: str = "fp32") -> Model:
    return Model(name=str(folder), source="hub", revision=None, dtype=dtype, device="cpu")  # type: ignore[arg-type]


def play(groups: int = 2, episodes: int = 3, seed: int = 0, windowed: bool = False) -> list[Trajectory]:
    """Random episodes; those of a group share their prompt, the first two also their first action.

    windowed: the third turn of each starts a new sequence.
    """
    dice = random.Random(seed)

    def words(least: int, most: int) -> list[int]:
        return [dice.randrange(3, VOCABULARY) for _ in range(dice.randint(least, most))]

    system, trajectories = words(10, 10), []
    for group in range(groups):
        prompt, first_action = system + words(10, 30), words(2, 3)
        for episode in range(episodes):
            turns = []
            for k in range(dice.randint(2, 4)):
                context = list(prompt) if k == 0 else words(3, 12)
                action = list(first_action) if k == 0 and episode < 2 else words(1, 4)
                logprobs = [-5 - dice.random() for _ in action]
                turns.append(Turn(context, action, logprobs, k == 0 or (windowed and k == 2), "", "", ""))
            rewards = [0.0] * (len(turns) - 1) + [dice.random()]
            trajectories.append(
                Trajectory(Task(f"g{group}", "train", group), group, turns, Outcome.LOST, 0, 1, rewards=rewards)
            )
    return trajectories


def one_by_one(policy: Any, batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies of the action tokens by a plain forward pass of each sequence alone."""
    logprobs, entropies = [], []
    offsets = batch.cu_seqlens_N1.tolist()
    for start, stop in pairwise(offsets):
        ids = batch.token_T[start:stop]
        inside = (batch.action_index_A >= start) & (batch.action_index_A < stop)
        action = batch.action_index_A[inside] - start
        all_logprobs = (policy(ids[None]).logits[0].float() / batch.temperature).log_softmax(-1)[action - 1]
        logprobs.append(all_logprobs.gather(-1, ids[action][:, None])[:, 0])
        entropies.append(-(all_logprobs.exp() * all_logprobs).sum(-1))
    return torch.cat(logprobs), torch.cat(entropies)
