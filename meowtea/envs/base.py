"""What an environment is: tasks chosen in the main process, games played in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from meowtea.types import Step, Task


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

    def tasks(self, split: str, count: int | None = None) -> list[Task]:
        """The first `count` tasks of a split ('train', 'demo', 'validation' or 'test'), always in the same order."""
        ...

    def prepare(self, tasks: Sequence[Task], progress: Callable[[int, int], None] | None = None) -> None:
        """Make or fetch what these tasks need. progress(done, total) is called as it goes on."""
        ...

    def make_env(self) -> TextEnv:
        """A fresh engine; called inside a worker process."""
        ...

    def protocol(self) -> dict[str, Any]:
        """What a result depends on here: games hash, observation, hints, turn limit, library versions."""
        ...


class EnvironmentBroke(Exception):
    """The engine itself failed (not the policy): the pool retries, then reports ENV_ERROR or TIMEOUT."""
