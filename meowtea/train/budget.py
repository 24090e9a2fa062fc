"""The budget of a run: how much goes into demonstrations, how much into RL episodes, and what is spent so far."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Interval


class Budget:
    """A fixed total shared between SFT and RL (the paper's Table 9: 1,000 units, a demonstration costs 10 episodes).

    total, demo_cost, episode_cost: in cost units; an RL "episode" is one distinct training game.
    sft_share: of the total that buys demonstrations; 1.0 is SFT only, 0.0 is RL only.
    epochs: passes of RL over its games; further passes are free, as in the paper.
    minutes: RL ends after this much wall-clock time, even within a pass; null is no limit.
    """

    def __init__(
        self,
        *,
        total: Annotated[int, Ge(1)],
        demo_cost: Annotated[float, Gt(0)],
        episode_cost: Annotated[float, Gt(0)],
        sft_share: Annotated[float, Interval(ge=0, le=1)],
        epochs: Annotated[int, Ge(1)],
        minutes: Annotated[float, Gt(0)] | None,
    ):
        self.total, self.demo_cost, self.episode_cost = total, demo_cost, episode_cost
        self.sft_share, self.epochs, self.minutes = sft_share, epochs, minutes

    @property
    def demos(self) -> int:
        """Demonstrations the SFT share buys."""
        return int(self.total * self.sft_share / self.demo_cost + 1e-9)

    @property
    def games(self) -> int:
        """Distinct RL games the rest buys."""
        return int(self.total * (1 - self.sft_share) / self.episode_cost + 1e-9)

    @staticmethod
    def problems(
        *, total: int, demo_cost: float, episode_cost: float, sft_share: float, epochs: int, minutes: float | None
    ) -> list[str]:
        budget = Budget(
            total=total,
            demo_cost=demo_cost,
            episode_cost=episode_cost,
            sft_share=sft_share,
            epochs=epochs,
            minutes=minutes,
        )
        found = []
        if budget.demos == 0 and budget.games == 0:
            found.append(f"total: {total} buys neither a demonstration nor an episode; raise it or lower the costs")
        if sft_share > 0 and budget.demos == 0:
            found.append(
                f"sft_share: {sft_share} of {total} buys no demonstration at demo_cost={demo_cost}; "
                f"set it to 0 or to at least {demo_cost / total:g}"
            )
        return found


@dataclass
class Spending:
    """What a run has used up. Saved in checkpoints, so it survives a restart."""

    demos: int = 0
    games: int = 0  # distinct RL games
    episodes: int = 0  # RL episodes played, every pass and every member of a group
    broken_episodes: int = 0
    action_tokens: int = 0  # sampled in RL episodes
    learner_tokens: int = 0  # packed tokens the learner has trained on
    rl_seconds: float = 0.0

    def cost(self, budget: Budget) -> float:
        """Cost units spent."""
        return self.demos * budget.demo_cost + self.games * budget.episode_cost

    def metrics(self, budget: Budget) -> dict[str, float]:
        counts = {f"budget/{name}": value for name, value in asdict(self).items() if name != "rl_seconds"}
        return {"budget/spent": self.cost(budget), **counts, "time/rl": self.rl_seconds}


class TaskCursor:
    """Deals the training games in passes; each pass is shuffled by (seed, pass). Its place is two integers."""

    def __init__(self, count: int, epochs: int, seed: int):
        self.count, self.epochs, self.seed = count, epochs, seed
        self.position = 0  # games dealt so far, over all passes

    @property
    def finished(self) -> bool:
        return self.position >= self.count * self.epochs

    @property
    def pass_number(self) -> int:
        return self.position // self.count if self.count else 0

    @property
    def distinct(self) -> int:
        """Different games dealt so far."""
        return min(self.position, self.count)

    def deal(self, wanted: int) -> list[int]:
        """Indices of the next games; the last deal may be shorter."""
        from random import Random

        dealt: list[int] = []
        while len(dealt) < wanted and not self.finished:
            order = list(range(self.count))
            Random(f"{self.seed}/{self.pass_number}").shuffle(order)
            start = self.position % self.count
            chunk = order[start : start + wanted - len(dealt)]
            dealt.extend(chunk)
            self.position += len(chunk)
        return dealt


class Stopwatch:
    """Wall-clock seconds since the start of this process's share of a stage, on top of what was spent before."""

    def __init__(self, before: float = 0.0):
        self._before, self._start = before, time.monotonic()

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._start
