"""A reward as the sum of named terms."""

from __future__ import annotations

from typing import Any

from meowtea.errors import BatchError
from meowtea.rewards.base import Term
from meowtea.types import Trajectory


class Sum:
    """terms: the parts by name; a part's name is the one it is logged under."""

    def __init__(self, *, terms: dict[str, Term]):
        self.terms = dict(terms)

    @staticmethod
    def problems(**keys: Any) -> list[str]:
        if keys["terms"]:
            return []
        return ["terms: must name at least one term, got none; choose reward=sparse, dense or dense_progress"]

    def score(self, trajectory: Trajectory) -> None:
        """Fill rewards and reward_parts. Raises BatchError on a broken episode: it says nothing about the policy."""
        if trajectory.outcome.broken:
            raise BatchError(
                f"episode {trajectory.task.id} broke ({trajectory.outcome}) and cannot be scored; "
                "leave broken episodes out before scoring"
            )
        parts = {name: term.per_turn(trajectory) for name, term in self.terms.items()}
        trajectory.reward_parts = parts
        trajectory.rewards = [sum(turn) for turn in zip(*parts.values(), strict=True)]
