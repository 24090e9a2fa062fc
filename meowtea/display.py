"""What a person sees while a command works: one short line per step, and on a terminal progress bars below them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from meowtea.types import Trajectory

# What a step's line tells, in this order: metric, words around it.
TOLD = (
    ("rollout/success", "won {:.0%}"),
    ("validation/success", "validation {:.0%}"),
    ("reward/mean", "reward {:.2f}"),
    ("sft/loss", "loss {:.3f}"),
    ("budget/spent", "spent {:g}"),
    ("speed/sampled_tokens_per_second", "sampled {:.0f} tok/s"),
    ("speed/learner_tokens_per_second", "learned {:.0f} tok/s"),
)


class Display:
    """One per command. Use as a context manager."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(stderr=False, highlight=False, soft_wrap=True)
        self.live = self.console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self._episodes: Bar | None = None

    def __enter__(self) -> Display:
        if self.live:
            self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self._progress.stop()

    def note(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, markup=False, highlight=False)

    @contextmanager
    def bar(self, label: str, total: int | None = None) -> Iterator[Bar]:
        """A piece of work whose size is known, or becomes known with the first `Bar.to`."""
        bar = Bar(self, self._progress, label, total)
        try:
            yield bar
        finally:
            bar.close()

    @contextmanager
    def stage(self, name: str, steps: int) -> Iterator[StageBar]:
        """A stage of the run: `update` after every step."""
        bar = StageBar(self, self._progress, name, steps)
        try:
            yield bar
        finally:
            self.end_episodes()
            bar.close()

    def episode(self, trajectory: Trajectory) -> None:
        """Another episode of the step that is being played."""
        if self._episodes is None:
            self._episodes = Bar(self, self._progress, "episodes", None, quiet=True)
        self._episodes.episode(trajectory)

    def end_episodes(self) -> None:
        """The step is over: the next episode counts from one."""
        if self._episodes is not None:
            self._episodes.close()
            self._episodes = None


class Bar:
    """Progress of one piece of work. Off a terminal: a line at the start and one at the end, unless quiet."""

    def __init__(self, display: Display, progress: Progress, label: str, total: int | None, quiet: bool = False):
        self._display, self._progress, self.label, self.total = display, progress, label, total
        self._quiet, self._start = quiet, time.monotonic()
        self.done = self.won = 0
        self._task: TaskID = progress.add_task(label, total=total, told="")

    def to(self, done: int, total: int | None = None) -> None:
        """`done` pieces of `total` are finished."""
        self.done, self.total = done, total if total is not None else self.total
        self._progress.update(self._task, completed=done, total=self.total)

    def episode(self, trajectory: Trajectory) -> None:
        """One more episode was played."""
        self.done += 1
        self.won += trajectory.won
        self._progress.update(self._task, completed=self.done, told=f"{self.won} won")

    def close(self) -> None:
        self._progress.remove_task(self._task)
        seconds = time.monotonic() - self._start
        if not (self._quiet or self._display.live) and self.done and seconds >= 1:
            self._display.note(f"{self.label}: {self.done} in {seconds:.0f} s")


class StageBar:
    """Progress of a stage: step, what the step brought, time left."""

    def __init__(self, display: Display, progress: Progress, name: str, steps: int):
        self._display, self._progress, self.name, self.steps = display, progress, name, steps
        self._start, self._first = time.monotonic(), 0
        self._task = progress.add_task(name, total=steps, told="")

    def update(self, step: int, metrics: Mapping[str, Any]) -> None:
        """`step` steps of the stage are done (also those of an earlier process); metrics of the last one."""
        self._display.end_episodes()
        self._first = self._first or step
        seconds_a_step = (time.monotonic() - self._start) / (step - self._first + 1)
        left = f"{seconds_a_step * (self.steps - step) / 60:.1f} min left"
        self._progress.update(self._task, completed=step, told=left)
        told = [words.format(metrics[name]) for name, words in TOLD if name in metrics]
        self._display.note(f"{self.name} {step}/{self.steps}: " + ", ".join([*told, left]))

    def close(self) -> None:
        self._progress.remove_task(self._task)
