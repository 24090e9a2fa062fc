"""What the layers exchange: Task, Step, Outcome, Turn, Trajectory. No torch: env workers import this."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """Why an episode ended."""

    WON = "won"  # the environment ended it, goal reached
    LOST = "lost"  # the environment ended it, goal out of reach
    OUT_OF_TURNS = "out_of_turns"  # we ended it: turn limit
    OUT_OF_TOKENS = "out_of_tokens"  # we ended it: the context is full
    ENV_ERROR = "env_error"  # the environment broke; never in an update, never a reward of 0
    TIMEOUT = "timeout"  # the environment hung; likewise

    @property
    def terminal(self) -> bool:
        """The environment itself ended the episode: there is no later state to bootstrap from."""
        return self in (Outcome.WON, Outcome.LOST)

    @property
    def broken(self) -> bool:
        """Infrastructure failed: the episode says nothing about the policy."""
        return self in (Outcome.ENV_ERROR, Outcome.TIMEOUT)


@dataclass(frozen=True)
class Task:
    """One game to play. `spec` is JSON-able and belongs to the environment (options, file, commit)."""

    id: str
    split: str
    seed: int
    spec: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass
class Step:
    """What the environment says after a reset or a command.

    score, max_score: the game's own points so far and the most it gives (max_score > 0).
    outcome: None while the episode goes on.
    valid_command: False if the command was not understood or had no effect by form; None if unknown.
    admissible: the commands possible now, when asked for.
    progress: share of the winning policy already done, in [0, 1]; None if the environment cannot tell.
    objective: the goal in words; set on reset.
    """

    observation: str
    score: float = 0.0
    max_score: float = 1.0
    outcome: Outcome | None = None
    valid_command: bool | None = None
    admissible: list[str] | None = None
    progress: float | None = None
    objective: str | None = None


@dataclass
class Turn:
    """One action of the policy, with the context that led to it.

    context_ids (C,): what environment and chat template appended since the last action; never trained on.
    action_ids (A,): exactly the ids the engine sampled, end-of-turn included; never re-tokenised.
    action_logprobs (A,): nats, under the distribution sampled from (temperature and top-p applied).
    starts_sequence: the history was rewritten, so context_ids is a whole new prompt.
    observation: what the policy saw before acting; reply: its decoded text; command: what was sent on.
    score, progress, valid_command: of the Step that answered the command.
    policy_version: optimizer steps taken by the weights that sampled this turn.
    """

    context_ids: list[int]
    action_ids: list[int]
    action_logprobs: list[float]
    starts_sequence: bool
    observation: str
    reply: str
    command: str
    score: float = 0.0
    progress: float | None = None
    valid_command: bool | None = None
    truncated_reply: bool = False  # the reply hit max_tokens before its end-of-turn
    policy_version: int = 0
    seconds: float = 0.0


@dataclass
class Trajectory:
    """One episode. `group` numbers the task within its batch: episodes of one group played the same task.

    rewards (K,): one float per turn, the sum of reward_parts (each (K,)). Filled by the reward.
    initial_progress: Step.progress at reset.
    """

    task: Task
    group: int
    turns: list[Turn]
    outcome: Outcome
    score: float
    max_score: float
    initial_progress: float | None = None
    rewards: list[float] = field(default_factory=list)
    reward_parts: dict[str, list[float]] = field(default_factory=dict)
    episode: int = 0  # index within the group
    final_observation: str = ""
    error: str = ""  # what broke, for broken outcomes
    protocol: str = ""  # hash of the protocol card

    @property
    def won(self) -> bool:
        return self.outcome is Outcome.WON

    @property
    def action_count(self) -> int:
        return sum(len(turn.action_ids) for turn in self.turns)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trajectory:
        data = dict(data)
        data["task"] = Task(**data["task"])
        data["turns"] = [Turn(**turn) for turn in data["turns"]]
        data["outcome"] = Outcome(data["outcome"])
        return cls(**data)
