"""What a turn costs. Costs are positive numbers that are taken off the reward."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt

from meowtea.types import Trajectory


class InvalidCommand:
    """`cost` for every command the environment did not understand; none where it cannot tell (None)."""

    def __init__(self, *, cost: Annotated[float, Gt(0)]):
        self.cost = cost

    def per_turn(self, trajectory: Trajectory) -> list[float]:
        return [-self.cost if turn.valid_command is False else 0.0 for turn in trajectory.turns]


class PerTurn:
    """`cost` for every turn, so that a short solution is worth more than a long one."""

    def __init__(self, *, cost: Annotated[float, Gt(0)]):
        self.cost = cost

    def per_turn(self, trajectory: Trajectory) -> list[float]:
        return [-self.cost] * len(trajectory.turns)


class LongReply:
    """`cost` for every reply cut off at the token limit or longer than max_tokens (None: only for those cut off)."""

    def __init__(self, *, cost: Annotated[float, Gt(0)], max_tokens: Annotated[int, Ge(1)] | None):
        self.cost, self.max_tokens = cost, max_tokens

    def per_turn(self, trajectory: Trajectory) -> list[float]:
        return [
            -self.cost
            if turn.truncated_reply or (self.max_tokens is not None and len(turn.action_ids) > self.max_tokens)
            else 0.0
            for turn in trajectory.turns
        ]
