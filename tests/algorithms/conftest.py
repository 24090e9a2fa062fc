"""Small batches, described by what matters to an algorithm: tokens and rewards of each turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from meowtea.algorithms.kl import NoKl
from meowtea.batch import TokenBatch
from meowtea.types import Outcome, Task, Trajectory, Turn

Episode = Sequence[tuple[int, float]]  # (action tokens, reward) of each turn


@pytest.fixture
def pack() -> Callable[..., TokenBatch]:
    """pack(episode, ..., groups=[...]): a TokenBatch; every turn has one context token and starts where it says."""

    def pack(*episodes: Episode, groups: Sequence[int] | None = None, window: bool = False) -> TokenBatch:
        trajectories = []
        for b, episode in enumerate(episodes):
            turns = [
                Turn([7], [1] * tokens, [-0.5] * tokens, window or k == 0, "", "", "")
                for k, (tokens, _) in enumerate(episode)
            ]
            group = groups[b] if groups else 0
            task = Task(f"game-{group}", "train", group)
            rewards = [reward for _, reward in episode]
            trajectories.append(Trajectory(task, group, turns, Outcome.LOST, 0.0, 1.0, rewards=rewards))
        return TokenBatch.pack(trajectories)

    return pack


@pytest.fixture
def shared() -> dict:
    """Values for the keys that all algorithms have: one step per batch, nothing added to the loss."""
    return {
        "clip_low": 0.2,
        "clip_high": 0.2,
        "importance_cap": None,
        "entropy_coef": 0.0,
        "loss_average": "token",
        "epochs": 1,
        "minibatches": 1,
        "kl": NoKl(),
    }


@pytest.fixture
def ppo_keys(shared: dict) -> dict:
    """Values for all keys of PPO: no discount, no whitening, no value clip."""
    return shared | {
        "critic_lr": 1e-5,
        "critic_warmup_steps": 0,
        "critic_layers": None,
        "gamma": 1.0,
        "gae_lambda": 1.0,
        "whiten_advantages": False,
        "value_clip": None,
    }
