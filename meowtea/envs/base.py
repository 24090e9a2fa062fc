"""What an environment is: tasks chosen in the main process, games played in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from meowtea.types import Outcome, Step, Task


class TextEnv(Protocol):
    """One running game. Lives in a worker process; plain Python, no torch, no tokens."""

    def reset(self, task: Task) -> Step:
        """Start the game; the Step carries objective, and score and progress before any command."""
        ...

    def step(self, command: str) -> Step:
        """Play one command. After an outcome, or before reset, this is an error."""
        ...

    def walkthrough(self) -> list[str]:
        """Commands that win the current task from its start."""
        ...

    def close(self) -> None: ...


class Environment(Protocol):
    """A config group entry: which tasks there are and how to play them. Picklable: workers get a copy.

    max_turns: commands per episode; the collector ends the episode after that many.
    """

    max_turns: int

    @property
    def name(self) -> str:
        """Names these games in task ids and tables."""
        ...

    def tasks(self, split: str, count: int | None = None) -> list[Task]:
        """The first `count` tasks of a split ('train', 'demo', 'validation' or 'test'), always in the same order."""
        ...

    def prepare(self, tasks: Sequence[Task], progress: Callable[[int, int], None] | None = None) -> None:
        """Make or fetch what these tasks need. progress(done, total) is called as it goes on."""
        ...

    def games_hash(self, tasks: Sequence[Task]) -> str:
        """A hash over the content of these prepared tasks: equal hashes mean the very same games."""
        ...

    def make_env(self) -> TextEnv:
        """A fresh engine; called inside a worker process. Whatever its games raise is retried by the pool."""
        ...

    def protocol(self) -> dict[str, Any]:
        """What a result depends on here: games hash, observation, hints, turn limit, library versions."""
        ...


class EnvFailure(Exception):
    """A game that could not be played on, after all retries: the episode ends as `outcome`, never as a loss.

    outcome: Outcome.ENV_ERROR or Outcome.TIMEOUT. detail: one line on what broke.
    """

    def __init__(self, outcome: Outcome, detail: str):
        super().__init__(f"{outcome}: {detail}")
        self.outcome = outcome
        self.detail = detail
