"""The async side of an engine: coroutines wait for replies while one thread steps the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from meowtea.rollout.engine import Completion, Sampling

Result = TypeVar("Result")


@dataclass(eq=False)
class Request:
    """One generate call on its way through the engine."""

    prompt_ids: list[int]
    sampling: Sampling
    session: str
    future: asyncio.Future[Completion] = field(repr=False)
    cancelled: bool = False  # nobody waits for it any more


class Backend(Protocol):
    """What a pump drives, always from the same thread."""

    def add(self, request: Request) -> None: ...

    def step(self) -> list[tuple[Request, Completion]]:
        """One model step over everything added and not finished; returns what it finished. Drops cancelled ones."""
        ...

    def clear(self) -> None:
        """Forget all requests and everything cached."""
        ...


class Pump:
    """Steps a backend as long as requests are waiting; environments go on meanwhile in the event loop.

    deterministic: a batch is formed only when every live session (see enter, leave) waits for a reply, in the
    order of their names, and nothing joins it. The replies then depend on no timing at all.
    """

    def __init__(self, backend: Backend, deterministic: bool):
        self.backend = backend
        self.deterministic = deterministic
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._waiting: list[Request] = []
        self._running: set[Request] = set()
        self._live: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run something in the model's thread, between steps, and wait for it."""
        return self._thread.submit(function, *arguments).result()

    async def submit(self, prompt_ids: list[int], sampling: Sampling, session: str) -> Completion:
        request = Request(list(prompt_ids), sampling, session, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        self._wake()
        try:
            return await request.future
        finally:
            # Cancelled while waiting: the backend drops it before its next step.
            request.cancelled = request.future.cancelled()

    def enter(self, session: str) -> None:
        if self.deterministic:
            self._live.add(session)

    def leave(self, session: str) -> None:
        if not self.deterministic or session not in self._live:
            return
        self._live.discard(session)
        if not self._live:
            self.call(self.backend.clear)
        elif self._waiting:
            self._wake()  # it may have been the one the others waited for

    def close(self) -> None:
        self._thread.shutdown()

    def _wake(self) -> None:
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done() or self._task.get_loop() is not loop:
            self._task = loop.create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        # Requests of an event loop that is gone: nobody can be waiting for them.
        for request in self._running:
            request.cancelled = True
        try:
            while True:
                await asyncio.sleep(0)  # whoever is ready in this tick gets into this step
                arrivals = self._admit()
                self._running = {r for r in self._running if not r.cancelled} | set(arrivals)
                if not self._running:
                    return
                for request, completion in await loop.run_in_executor(self._thread, self._step, arrivals):
                    self._running.discard(request)
                    if not request.future.done():
                        request.future.set_result(completion)
        except Exception as error:  # the model failed: everyone who waits must hear of it
            failed = [*self._waiting, *self._running]
            self._waiting, self._running = [], set()
            for request in failed:
                if not request.future.done():
                    request.future.set_exception(error)
            await loop.run_in_executor(self._thread, self.backend.clear)

    def _admit(self) -> list[Request]:
        """The requests that join the next step."""
        self._waiting = [r for r in self._waiting if not r.cancelled]
        if self.deterministic:
            running = any(not r.cancelled for r in self._running)
            if running or not self._live <= {r.session for r in self._waiting}:
                return []
            self._waiting.sort(key=lambda request: request.session)
        arrivals, self._waiting = self._waiting, []
        return arrivals

    def _step(self, arrivals: list[Request]) -> list[tuple[Request, Completion]]:
        for request in arrivals:
            self.backend.add(request)
        return self.backend.step()
