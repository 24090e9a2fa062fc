"""Rewards for getting closer: differences of a potential, so doing and undoing earns nothing.

Both sum to weight * (potential at the end - potential at the start) whatever happened in between and however the
episode ended (potential-based shaping: Ng, Harada and Russell 1999, theorem 1, at discount 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from annotated_types import Gt

from meowtea.errors import ConfigError
from meowtea.types import Trajectory


class Score:
    """The game's points gained in each turn, as a share of the most it gives. Games start at 0 points."""

    def __init__(self, *, weight: Annotated[float, Gt(0)]):
        self.weight = weight

    def per_turn(self, trajectory: Trajectory) -> list[float]:
        points = [0.0, *(turn.score for turn in trajectory.turns)]
        return [self.weight * gain / trajectory.max_score for gain in differences(points)]


class Progress:
    """The share of the winning policy done in each turn; negative where a turn led away from the goal."""

    def __init__(self, *, weight: Annotated[float, Gt(0)]):
        self.weight = weight

    def per_turn(self, trajectory: Trajectory) -> list[float]:
        """Raises ConfigError if the environment does not tell how far the winning policy is done."""
        shares = []
        for share in (trajectory.initial_progress, *(turn.progress for turn in trajectory.turns)):
            if share is None:
                raise ConfigError(
                    [
                        f"reward: the term 'progress' needs an environment that reports progress, which the game "
                        f"{trajectory.task.id} does not; choose reward=sparse or reward=dense"
                    ]
                )
            shares.append(share)
        return [self.weight * gain for gain in differences(shares)]


def differences(values: Sequence[float]) -> list[float]:
    """Each value minus the one before it; one shorter than `values`."""
    return [after - before for before, after in pairwise(values)]
