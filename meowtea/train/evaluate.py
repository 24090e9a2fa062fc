"""Evaluation: a fixed panel of tasks, played by the policy as it is, with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Interval

from meowtea.seeds import derive_seed
from meowtea.stats import mean, pass_at_k, wilson_interval
from meowtea.types import Outcome, Task, Trajectory

if TYPE_CHECKING:
    from meowtea.rollout.collect import Collector

Split = Literal["train", "demo", "validation", "test"]


@dataclass
class Evaluation:
    """The result of one panel. Shares are of episodes that did not break; low, high: the 95% Wilson interval."""

    label: str
    split: str
    episodes: int
    wins: int
    success: float
    low: float
    high: float
    score: float  # mean share of the game's points
    turns: float  # mean per episode
    invalid_share: float  # of commands whose validity is known
    tokens: int  # sampled
    games: str = ""  # hash of the games' content
    outcomes: dict[str, int] = field(default_factory=dict)
    pass_at: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, label: str, split: str, trajectories: Sequence[Trajectory], samples: int = 1) -> Evaluation:
        """Summarise played episodes; broken ones are counted in `outcomes` and nowhere else."""
        whole = [t for t in trajectories if not t.outcome.broken]
        wins = sum(t.won for t in whole)
        known = [turn.valid_command for t in whole for turn in t.turns if turn.valid_command is not None]
        counts = Counter(t.outcome.value for t in trajectories)
        by_task: dict[str, list[bool]] = {}
        for trajectory in whole:
            by_task.setdefault(trajectory.task.id, []).append(trajectory.won)
        # Several tries at one game are not independent: the interval is that of one episode per game.
        success, games = mean([t.won for t in whole]), len(by_task)
        low, high = wilson_interval(success * games if whole else 0, games)
        ks = [k for k in (2**i for i in range(1, 20)) if k <= samples]
        return cls(
            label=label,
            split=split,
            episodes=len(whole),
            wins=wins,
            success=success,
            low=low,
            high=high,
            score=mean([t.score / t.max_score for t in whole]),
            turns=mean([len(t.turns) for t in whole]),
            invalid_share=1 - mean(known) if known else 0.0,
            tokens=sum(t.action_count for t in trajectories),
            outcomes={outcome.value: counts.get(outcome.value, 0) for outcome in Outcome},
            pass_at={
                f"pass@{k}": mean([pass_at_k(sum(won), len(won), k) for won in by_task.values() if len(won) >= k])
                for k in ks
            },
        )

    def metrics(self) -> dict[str, float]:
        """Flat numbers for the tracker, named after the split."""
        shares = {
            f"outcome_{name}": count / max(1, sum(self.outcomes.values())) for name, count in self.outcomes.items()
        }
        numbers = {
            name: value
            for name in ("success", "low", "high", "score", "turns", "invalid_share")
            if (value := getattr(self, name)) == value
        }
        return {f"{self.split}/{name}": value for name, value in (numbers | shares | self.pass_at).items()}

    def sentence(self) -> str:
        """The result in words."""
        broken = sum(n for name, n in self.outcomes.items() if Outcome(name).broken)
        return (
            f"{self.label}: {self.wins} of {self.episodes} {self.split} episodes won "
            f"({self.success:.0%}, 95% interval {self.low:.0%} to {self.high:.0%})"
            + (f"; {broken} more broke and count for nothing" if broken else "")
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Evaluator:
    """Plays panels of tasks that `tasks_of(split, count)` makes ready.

    One seed per panel: every evaluation of a run faces the same games and random numbers.

    split, tasks, samples: the panel reported at the end of each stage. temperature, top_p: how it is sampled.
    validation_tasks, validate_every, validate_sft_every: the smaller panel played while training goes on.
    baseline: whether the untrained model is evaluated first.
    """

    def __init__(
        self,
        tasks_of: Callable[[str, int], list[Task]],
        games_hash: Callable[[Sequence[Task]], str],
        collector: Collector,
        seed: int,
        *,
        split: Split,
        tasks: Annotated[int, Ge(1)],
        samples: Annotated[int, Ge(1)],
        temperature: Annotated[float, Ge(0)],
        top_p: Annotated[float, Interval(gt=0, le=1)],
        validation_tasks: Annotated[int, Ge(1)],
        validate_every: Annotated[int, Ge(0)],
        validate_sft_every: Annotated[int, Ge(0)],
        baseline: bool,
    ):
        self.tasks_of, self.games_hash, self.collector, self.seed = tasks_of, games_hash, collector, seed
        self.split, self.task_count, self.samples = split, tasks, samples
        self.temperature, self.top_p = temperature, top_p
        self.validation_tasks, self.validate_every = validation_tasks, validate_every
        self.validate_sft_every, self.baseline = validate_sft_every, baseline

    async def test(
        self, label: str, on_episode: Callable[[Trajectory], None] | None = None
    ) -> tuple[Evaluation, list[Trajectory]]:
        """The panel that gets reported."""
        return await self._play(label, self.split, self.task_count, self.samples, on_episode)

    async def validate(
        self, label: str, on_episode: Callable[[Trajectory], None] | None = None
    ) -> tuple[Evaluation, list[Trajectory]]:
        """The small panel of the validation split, one episode per game."""
        return await self._play(label, "validation", self.validation_tasks, 1, on_episode)

    async def _play(
        self, label: str, split: str, count: int, samples: int, on_episode: Callable[[Trajectory], None] | None
    ) -> tuple[Evaluation, list[Trajectory]]:
        from meowtea.rollout.collect import jobs_for

        tasks = self.tasks_of(split, count)
        sampling = self.collector.sampling(self.temperature, self.top_p)
        seed = derive_seed(self.seed, "evaluate", split)
        trajectories = await self.collector.collect(jobs_for(tasks, samples), sampling, seed, on_episode)
        evaluation = Evaluation.of(label, split, trajectories, samples)
        evaluation.games = self.games_hash(tasks)
        return evaluation, trajectories
