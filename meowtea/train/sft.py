"""Supervised fine-tuning: the policy learns to write what the expert wrote."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt

from meowtea.errors import DataError

if TYPE_CHECKING:
    from meowtea.train.experiment import Experiment
    from meowtea.types import Trajectory


class Sft:
    """How the warm-up is trained.

    epochs: passes over the demonstrations. lr: peak learning rate after `warmup_steps` of linear warm-up.
    batch_size: demonstrations per optimizer step. demonstrations: file or folder of chat-format JSON Lines
    to use instead of the environment's own walkthroughs.
    """

    def __init__(
        self,
        *,
        epochs: Annotated[int, Ge(1)],
        lr: Annotated[float, Gt(0)],
        batch_size: Annotated[int, Ge(1)],
        warmup_steps: Annotated[int, Ge(0)],
        demonstrations: str | None,
    ):
        self.epochs, self.lr, self.batch_size = epochs, lr, batch_size
        self.warmup_steps, self.demonstrations = warmup_steps, demonstrations

    def steps_per_epoch(self, demos: int) -> int:
        return math.ceil(demos / self.batch_size)

    def batch_indices(self, demos: int, step: int, seed: int) -> list[int]:
        """Which demonstrations make up optimizer step `step` (from 0); every epoch has its own order."""
        per_epoch = self.steps_per_epoch(demos)
        order = list(range(demos))
        Random(f"{seed}/sft/{step // per_epoch}").shuffle(order)
        start = step % per_epoch * self.batch_size
        return order[start : start + self.batch_size]


def load_demonstrations(x: Experiment) -> list[Trajectory]:
    """As many demonstrations as the budget buys, from files or from the environment's own walkthroughs."""
    from meowtea.train.demos import demonstrate, read_demonstrations

    if x.sft.demonstrations is not None:
        demos = read_demonstrations(Path(x.sft.demonstrations), x.chat)
        if len(demos) < x.budget.demos:
            raise DataError(
                f"sft.demonstrations: {x.sft.demonstrations} holds {len(demos)} demonstrations, the budget pays for "
                f"{x.budget.demos}; add some, or lower budget.sft_share or budget.total"
            )
        return demos[: x.budget.demos]
    tasks = x.tasks("demo", x.budget.demos)
    return x.wait(demonstrate(x.pool, x.chat, x.prompt, tasks, x.collector.history))


def imitate(x: Experiment) -> None:
    """Train on the demonstrations for sft.epochs, from wherever the run stands."""
    from meowtea.batch import TokenBatch

    demos = load_demonstrations(x)
    x.progress.spending.demos = len(demos)
    per_epoch = x.sft.steps_per_epoch(len(demos))
    total = per_epoch * x.sft.epochs
    with x.display.stage("sft", total) as bar:
        while x.progress.sft_step < total:
            chosen = x.sft.batch_indices(len(demos), x.progress.sft_step, x.seed)
            batch = TokenBatch.pack([demos[i] for i in chosen])
            metrics = {f"sft/{name}": value for name, value in x.learner.imitate(batch).items()}
            metrics["time/learn"] = metrics.pop("sft/seconds")
            metrics["speed/learner_tokens_per_second"] = len(batch.token_T) / max(metrics["time/learn"], 1e-9)
            x.progress.sft_step += 1
            x.progress.spending.learner_tokens += len(batch.token_T)
            epoch_done = x.progress.sft_step % per_epoch == 0
            epoch = x.progress.sft_step // per_epoch
            if epoch_done and x.evaluator.validate_sft_every and epoch % x.evaluator.validate_sft_every == 0:
                metrics |= x.validate(f"SFT epoch {epoch}")
            x.record(metrics)
            bar.update(x.progress.sft_step, metrics)
            x.save_if_due()
