"""Finished episodes, described by what a reward looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from meowtea.types import Outcome, Task, Trajectory, Turn


@pytest.fixture
def episode() -> Callable[..., Trajectory]:
    def episode(
        outcome: Outcome,
        scores: Sequence[float] = (0.0, 0.0),
        progress: Sequence[float | None] | None = None,  # at reset, then after each turn
        valid: Sequence[bool | None] | None = None,
        tokens: Sequence[int] | None = None,
        truncated: Sequence[bool] | None = None,
        max_score: float = 1.0,
    ) -> Trajectory:
        count = len(scores)
        turns = []
        for k in range(count):
            length = tokens[k] if tokens else 3
            turn = Turn([1], [2] * length, [-0.5] * length, k == 0, "", "", "", score=scores[k])
            turn.progress = progress[k + 1] if progress else None
            turn.valid_command = valid[k] if valid else True
            turn.truncated_reply = truncated[k] if truncated else False
            turns.append(turn)
        first = progress[0] if progress else None
        score = scores[-1] if count else 0.0
        return Trajectory(Task("game-1", "train", 1), 0, turns, outcome, score, max_score, initial_progress=first)

    return episode
