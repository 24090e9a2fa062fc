"""What it takes to play episodes: environment, pool, model, engine, chat, prompt, collector, evaluator."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meowtea.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from omegaconf import DictConfig

    from meowtea.types import Task


class Player:
    """Built from a config; what must be closed is left with `closing`.

    policy_folder: an exported policy to play with; None is the model as shipped.
    """

    def __init__(self, cfg: DictConfig, closing: ExitStack, policy_folder: Path | None = None):
        from hydra.utils import instantiate
        from transformers.utils import logging as transformers_logging

        from meowtea.display import Display
        from meowtea.envs.pool import EnvPool
        from meowtea.protocol import protocol_card
        from meowtea.rollout.build import build_engine
        from meowtea.rollout.chat import Chat

        transformers_logging.disable_progress_bar()  # ours are enough
        self.cfg, self.seed, self.policy_folder = cfg, int(cfg.seed), policy_folder
        self.display = closing.enter_context(Display())
        self.loop = closing.enter_context(asyncio.Runner())
        self.environment = instantiate(cfg.env)
        self.model = instantiate(cfg.model)
        self.tokenizer = self.model.tokenizer(policy_folder)
        self.chat = Chat(self.tokenizer)
        self.prompt = instantiate(cfg.prompt)
        self.protocol = protocol_card(cfg, self.environment)
        module = self.load_policy()
        self.engine = build_engine(
            cfg.engine, module, self.weights_folder, self.tokenizer, self.seed, bool(cfg.deterministic)
        )
        closing.callback(self.engine.close)
        self.pool: EnvPool = instantiate(cfg.env_pool, self.environment)
        closing.callback(self.pool.close)
        self.collector = instantiate(
            cfg.rollout,
            self.pool,
            self.engine,
            self.chat,
            self.prompt,
            self.environment.max_turns,
            bool(cfg.deterministic),
            self.protocol["hash"],
        )
        self.evaluator = instantiate(cfg.evaluation, self.tasks, self.environment.games_hash, self.collector, self.seed)

    def load_policy(self) -> Any:
        """The module the embedded engine samples from."""
        return self.model.policy(self.policy_folder)

    def weights_folder(self) -> Path:
        """A folder in Hugging Face format with the weights an engine of its own starts from."""
        return self.policy_folder or self.model.folder()

    def wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end on the one event loop of this process."""
        return self.loop.run(coroutine)

    def tasks(self, split: str, count: int) -> list[Task]:
        """The first `count` tasks of a split, made ready to be played."""
        tasks: list[Task] = self.environment.tasks(split, count)
        if len(tasks) < count:
            raise DataError(
                f"{count} {split} games are wanted, the environment has {len(tasks)}; widen its {split} split, "
                "or lower budget.total (train, demo) or the evaluation's tasks (test, validation)"
            )
        with self.display.bar(f"{split} games", total=count) as bar:
            self.environment.prepare(tasks, bar.to)
        return tasks
