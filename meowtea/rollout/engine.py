"""What turns prompts into replies: Sampling in, Completion out, many requests at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from meowtea.errors import ModelError

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
        """`session` names the episode: consecutive prompts of one session share their prefix.

        Errors: ModelError if prompt plus reply do not fit into max_context.
        """
        ...

    def enter(self, session: str) -> None:
        """An episode begins. A deterministic engine waits for every episode that has entered before it forms a
        batch, so its batches do not depend on the clock; the others take no notice."""
        ...

    def leave(self, session: str) -> None:
        """The episode is over (or gave up). When the last one leaves, a deterministic engine forgets its cache:
        what comes next does not depend on what was played before."""
        ...

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take new weights (Hugging Face names); whatever was cached under the old ones is dropped.

        Errors: ModelError for a name or shape the model does not have. Call it while no request is waiting.
        """
        ...

    def sleep(self) -> None:
        """Give memory back while the learner works (a no-op where nothing is to gain)."""
        ...

    def wake(self) -> None: ...

    def close(self) -> None: ...


def check_fits(prompt_ids: list[int], sampling: Sampling, max_context: int) -> None:
    """Raise ModelError if a request is empty or larger than the engine's context."""
    if not prompt_ids:
        raise ModelError("engine: a prompt has no tokens; the chat must put at least one before a reply")
    if len(prompt_ids) + sampling.max_tokens > max_context:
        raise ModelError(
            f"engine.max_context: a prompt of {len(prompt_ids)} tokens and a reply of up to {sampling.max_tokens} "
            f"need {len(prompt_ids) + sampling.max_tokens}, but the engine holds {max_context}; "
            "raise engine.max_context, or lower the reply length or the number of turns"
        )


def batch_problems(*, max_sequences: int, max_batch_tokens: int, **_: object) -> list[str]:
    """Problems of the keys that engines have in common."""
    if max_batch_tokens < max_sequences:
        return [
            f"max_batch_tokens: must be at least max_sequences, one token for each conversation of a step, "
            f"got {max_batch_tokens} with max_sequences={max_sequences}"
        ]
    return []
