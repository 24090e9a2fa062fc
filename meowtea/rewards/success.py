"""The sparse reward."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from meowtea.types import Trajectory


class Success:
    """`weight` on the last turn of a won episode, 0 everywhere else (arXiv 2510.01132, section 3)."""

    def __init__(self, *, weight: Annotated[float, Gt(0)]):
        self.weight = weight

    def per_turn(self, trajectory: Trajectory) -> list[float]:
        rewards = [0.0] * len(trajectory.turns)
        if trajectory.won:
            rewards[-1] = self.weight
        return rewards
