"""Everything a run is made of, built once from its config, and where it stands."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from meowtea.errors import DataError
from meowtea.train.budget import Spending
from meowtea.types import Task

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from meowtea.run import Run

Stage = Literal["start", "sft", "rl", "done"]


@dataclass
class Progress:
    """Where a run stands; saved in every checkpoint."""

    stage: Stage = "start"
    sft_step: int = 0
    rl_step: int = 0
    cursor: int = 0  # games dealt by the RL stage
    seconds: float = 0.0  # of all processes that worked on this run
    spending: Spending = field(default_factory=Spending)

    @property
    def step(self) -> int:
        """Steps of both stages: the x axis of metrics.jsonl."""
        return self.sft_step + self.rl_step

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Progress:
        return cls(**{**data, "spending": Spending(**data["spending"])})


class Player:
    """What it takes to play episodes: environment, pool, chat, prompt, engine, collector, evaluator."""

    def __init__(self, cfg: DictConfig, run: Run, closing: contextlib.ExitStack, policy_folder: Path | None = None):
        from hydra.utils import instantiate

        from meowtea.display import Display
        from meowtea.envs.pool import EnvPool
        from meowtea.rollout.build import build_engine
        from meowtea.rollout.chat import Chat
        from meowtea.run import protocol_card

        self.cfg, self.run, self.seed = cfg, run, cfg.seed
        self.display = closing.enter_context(Display())
        self.environment = instantiate(cfg.env)
        self.model = instantiate(cfg.model)
        self.tokenizer = self.model.tokenizer(policy_folder)
        self.chat = Chat(self.tokenizer)
        self.prompt = instantiate(cfg.prompt)
        self.protocol = protocol_card(cfg, self.environment)
        run.write_protocol(self.protocol)
        self.policy_folder = policy_folder
        self.loop = closing.enter_context(asyncio.Runner())
        self.module = self._policy_module()
        self.engine = build_engine(
            cfg.engine, self.module, self.export_for_engine, self.tokenizer, cfg.seed, cfg.deterministic
        )
        closing.callback(self.engine.close)
        self.pool = EnvPool(self.environment, **cfg.env_pool)
        closing.callback(self.pool.close)
        self.collector = instantiate(
            cfg.rollout,
            self.pool,
            self.engine,
            self.chat,
            self.prompt,
            self.environment.max_turns,
            cfg.deterministic,
            self.protocol["hash"],
        )
        self.evaluator = instantiate(cfg.evaluation, self.tasks, self.collector, cfg.seed)

    def _policy_module(self) -> Any:
        return self.model.policy(self.policy_folder)

    def export_for_engine(self) -> Path:
        """A Hugging Face folder with the weights an engine starts from."""
        return self.policy_folder or self.model.folder()

    def wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end on the run's one event loop."""
        return self.loop.run(coroutine)

    def tasks(self, split: str, count: int) -> list[Task]:
        """The first `count` tasks of a split, made ready to be played."""
        tasks = self.environment.tasks(split, count)
        if len(tasks) < count:
            raise DataError(
                f"{count} {split} games are wanted, the environment has {len(tasks)}; widen its {split} split, "
                "or lower budget.total (train, demo) or evaluation.tasks (test, validation)"
            )
        with self.display.bar(f"making {split} games") as progress:
            self.environment.prepare(tasks, progress)
        return tasks
