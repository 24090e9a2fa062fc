"""What a reward is: one float per turn of a finished episode."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from meowtea.types import Trajectory


class Reward(Protocol):
    """Scores finished episodes."""

    def score(self, trajectory: Trajectory) -> None:
        """Fill trajectory.rewards (K,) and trajectory.reward_parts, whose (K,) parts sum to the rewards."""
        ...


@runtime_checkable
class Term(Protocol):
    """One part of a reward."""

    def per_turn(self, trajectory: Trajectory) -> list[float]:
        """(K,) this part's share of the reward of each turn, weight included."""
        ...
