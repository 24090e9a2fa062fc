"""Many games at once: an asyncio front, worker processes behind, and repair by replay when one breaks.

A game stays with one worker. Each worker is served by one thread, which plays its calls one after another; the
deadline of a call therefore counts from when the worker begins it. A worker that dies or hangs is replaced, and
each game it held is rebuilt, when its turn comes, from its task and the commands so far.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt

from meowtea.envs.base import EnvFailure, Environment, TextEnv
from meowtea.envs.worker import CallFailed, Worker, WorkerDied, WorkerTimeout
from meowtea.types import Outcome, Step, Task

__all__ = ["EnvFailure", "EnvPool", "Game"]


class WorkerGames:
    """The games that one worker process holds, by number. (Lives in the worker.)"""

    def __init__(self, environment: Environment):
        self.environment = environment
        self.games: dict[int, TextEnv] = {}

    def open(self, number: int, task: Task) -> Step:
        self.close(number)
        self.games[number] = self.environment.make_env()
        return self.games[number].reset(task)

    def step(self, number: int, command: str) -> Step:
        return self.games[number].step(command)

    def walkthrough(self, number: int) -> list[str]:
        return self.games[number].walkthrough()

    def close(self, number: int) -> None:
        if number in self.games:
            self.games.pop(number).close()

    def count(self) -> int:
        return len(self.games)


@dataclass
class Record:
    """What it takes to rebuild a game, and what it must look like afterwards."""

    number: int
    task: Task
    first: Step | None = None
    commands: list[str] = field(default_factory=list)
    last: Step | None = None
    worker: Worker | None = None  # the process that holds it now


class Slot:
    """One worker process and the thread that talks to it. All methods but submit run in that thread."""

    def __init__(self, index: int, pool: EnvPool):
        self.index, self.pool = index, pool
        self.open_games = 0
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"env-worker-{index}")
        self.worker = Worker(WorkerGames(pool.environment))

    async def submit(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.wrap_future(self.thread.submit(function, *arguments))

    def open(self, record: Record) -> Step:
        self._persist(record, lambda: None)
        assert record.first is not None
        return record.first

    def step(self, record: Record, command: str) -> Step:
        step: Step = self._persist(record, lambda: self._call("step", record.number, command))
        record.commands.append(command)
        record.last = step
        return step

    def walkthrough(self, record: Record) -> list[str]:
        commands: list[str] = self._persist(record, lambda: self._call("walkthrough", record.number))
        return commands

    def close(self, record: Record) -> None:
        """Forget a game. A worker that fails at this has nothing left that is wanted of this game."""
        if record.worker is self.worker:
            try:
                self._call("close", record.number)
            except CallFailed:
                pass  # the worker has dropped the game already
            except (WorkerDied, WorkerTimeout):
                self._replace()
        record.worker = None

    def _persist(self, record: Record, play: Callable[[], Any]) -> Any:
        """Play one call, rebuilding the game first where its worker is gone; try again `retries` times."""
        stats, attempt = self.pool.stats, 0
        while True:
            try:
                if record.worker is not self.worker:
                    self._rebuild(record)
                return play()
            except (WorkerDied, WorkerTimeout, CallFailed) as failure:
                if self.pool.closed:
                    raise EnvFailure(Outcome.ENV_ERROR, "the environment pool was closed") from None
                record.worker = None
                if not isinstance(failure, CallFailed):
                    self._replace()
                if attempt == self.pool.retries or (isinstance(failure, CallFailed) and failure.lasting):
                    stats["failed"] += 1
                    outcome = Outcome.TIMEOUT if isinstance(failure, WorkerTimeout) else Outcome.ENV_ERROR
                    times = f" ({attempt + 1} attempts)" if attempt else ""
                    raise EnvFailure(outcome, f"{record.task.id}: {failure}{times}") from None
                attempt += 1
                stats["retried"] += 1

    def _rebuild(self, record: Record) -> None:
        """Open the game and replay its commands; it must end up where it was."""
        step = self._call("open", record.number, record.task)
        if record.first is None:
            record.first = record.last = step
        else:
            self.pool.stats["replays"] += 1
            for command in record.commands:
                step = self._call("step", record.number, command)
            if step != record.last:
                self.pool.stats["failed"] += 1
                raise EnvFailure(
                    Outcome.ENV_ERROR,
                    f"{record.task.id}: replaying its {len(record.commands)} commands gave another observation; "
                    "the environment is not deterministic",
                )
        record.worker = self.worker

    def _call(self, method: str, *arguments: Any) -> Any:
        return self.worker.call(method, *arguments, timeout=self.pool.call_timeout)

    def _replace(self) -> None:
        self.worker.close()
        if not self.pool.closed:
            self.pool.stats["restarts"] += 1
            self.worker = Worker(WorkerGames(self.pool.environment))
        if self.pool.closed:  # perhaps only since the line above
            self.worker.kill()


class Game:
    """One game being played. `first` is the Step of its reset."""

    def __init__(self, pool: EnvPool, slot: Slot, record: Record, first: Step):
        self.first = first
        self._pool, self._slot, self._record = pool, slot, record
        self._closed = False

    async def step(self, command: str) -> Step:
        """Play one command. Errors: EnvFailure once retries are used up; RuntimeError after the game's end."""
        self._must_be_open()
        last = self._record.last
        if last is not None and last.outcome is not None:
            raise RuntimeError(f"{self._record.task.id} has ended ({last.outcome}); open it again to play on")
        return await self._slot.submit(self._slot.step, self._record, command)

    async def walkthrough(self) -> list[str]:
        """Commands that win this game from its start. Errors: as step."""
        self._must_be_open()
        return await self._slot.submit(self._slot.walkthrough, self._record)

    async def close(self) -> None:
        """Let go of the game; safe to call twice and after a failure."""
        if self._closed:
            return
        self._closed = True
        self._slot.open_games -= 1
        if not self._pool.closed:
            await self._slot.submit(self._slot.close, self._record)

    def _must_be_open(self) -> None:
        if self._closed:
            raise RuntimeError(f"{self._record.task.id} has been closed; open it again")


class EnvPool:
    """Plays the games of one environment in worker processes. Usable from any event loop, one after another.

    stats: restarts (workers replaced), replays (games rebuilt), retried (calls tried again), failed (given up).
    """

    def __init__(
        self,
        environment: Environment,
        *,
        workers: Annotated[int, Ge(1)],
        call_timeout: Annotated[float, Gt(0)],
        retries: Annotated[int, Ge(0)],
    ):
        self.environment = environment
        self.call_timeout, self.retries = call_timeout, retries
        self.stats = {"restarts": 0, "replays": 0, "retried": 0, "failed": 0}
        self.closed = False
        self._opened = 0
        self._slots = [Slot(index, self) for index in range(workers)]

    async def open(self, task: Task) -> Game:
        """Start a game on the worker that holds the fewest. Errors: EnvFailure once retries are used up."""
        if self.closed:
            raise RuntimeError("the environment pool is closed")
        slot = min(self._slots, key=lambda slot: slot.open_games)
        record = Record(self._opened, task)
        self._opened += 1
        slot.open_games += 1
        try:
            first = await slot.submit(slot.open, record)
        except BaseException:  # also cancelled: the worker may hold the game, or come to hold it
            slot.open_games -= 1
            if not self.closed:
                slot.thread.submit(slot.close, record)
            raise
        return Game(self, slot, record, first)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers, in order."""
        return [slot.worker.pid for slot in self._slots]

    def close(self) -> None:
        """End all workers at once; calls under way fail. Safe to call twice."""
        if not self.closed:
            self.closed = True
            for slot in self._slots:
                slot.worker.kill()
            for slot in self._slots:
                slot.thread.shutdown(wait=True, cancel_futures=True)
                slot.worker.close()

    def __enter__(self) -> EnvPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
