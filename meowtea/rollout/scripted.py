"""An engine without a model: replies come from a function of the prompt. For tests of everything around engines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from meowtea.rollout.engine import Completion, Sampling, check_fits


class Scripted:
    """Answers `script(prompt text, sampling)`: a text, which is tokenised and ended, or ids, taken as they are.

    delay: seconds before each reply. A reply longer than max_tokens is cut, as a real engine would.
    Everything asked of it is kept: `requests` (session, prompt_ids), `entered`, `left`, `loaded` (versions).
    """

    def __init__(
        self,
        script: Callable[[str, Sampling], str | list[int]],
        chat: Any,
        max_context: int = 4096,
        delay: Callable[[str], float] | None = None,
    ):
        self.script, self.chat, self.max_context, self.delay = script, chat, max_context, delay
        self.policy_version = 0
        self.requests: list[tuple[str, list[int]]] = []
        self.entered: list[str] = []
        self.left: list[str] = []
        self.loaded: list[int] = []
        self.asleep = self.closed = False

    async def generate(self, prompt_ids: list[int], sampling: Sampling, session: str = "") -> Completion:
        check_fits(prompt_ids, sampling, self.max_context)
        self.requests.append((session, list(prompt_ids)))
        await asyncio.sleep(self.delay(session) if self.delay else 0)
        reply = self.script(self.chat.decode(prompt_ids), sampling)
        ids = self.chat.encode_reply(reply) if isinstance(reply, str) else list(reply)
        ids = ids[: sampling.max_tokens]
        stopped = bool(ids) and ids[-1] in sampling.stop_token_ids
        return Completion(ids, [-0.5] * len(ids), "stop" if stopped else "length")

    def enter(self, session: str) -> None:
        self.entered.append(session)

    def leave(self, session: str) -> None:
        self.left.append(session)

    def load(self, weights: Iterable[Any], version: int) -> None:
        for _ in weights:
            pass
        self.loaded.append(version)
        self.policy_version = version

    def sleep(self) -> None:
        self.asleep = True

    def wake(self) -> None:
        self.asleep = False

    def close(self) -> None:
        self.closed = True
