"""What turns prompts into replies: Sampling in, Completion out, many requests at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How to sample one reply. temperature 0 is greedy (logprobs are then those at temperature 1).

    seed: per-request; with the same prompt, weights and batch composition the reply repeats.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 32
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None


@dataclass
class Completion:
    """ids include the stop token when there was one; logprobs are in nats, of the distribution sampled from."""

    ids: list[int]
    logprobs: list[float]
    finish_reason: Literal["stop", "length"]


class Engine(Protocol):
    """Batches continuously: any number of generate calls may be waiting at once.

    policy_version: of the weights in use. max_context: tokens of prompt plus reply it can hold.
    """

    policy_version: int
    max_context: int

    async def generate(self, prompt_ids: list[int], sampling: Sampling, session: str = "") -> Completion:
        """`session` names the episode: consecutive prompts of one session share their prefix."""
        ...

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take new weights (Hugging Face names); whatever was cached under the old ones is dropped."""
        ...

    def sleep(self) -> None:
        """Give memory back while the learner works (a no-op where nothing is to gain)."""
        ...

    def wake(self) -> None: ...

    def close(self) -> None: ...
