"""The command `games`: make the games of an environment ahead of time and prove that each can be won."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meowtea.errors import DataError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def games(cfg: DictConfig) -> None:
    """Make, list and validate. Raises DataError, after the table, if a walkthrough does not win."""
    from hydra.utils import instantiate
    from rich.console import Console
    from rich.table import Table

    from meowtea.display import Display
    from meowtea.envs.validate import validate

    environment = instantiate(cfg.env)
    table = Table("split", "games", "first", "last", "walkthroughs that win", title=environment.name)
    failures: list[str] = []
    with Display() as display:
        for split in cfg.splits:
            tasks = environment.tasks(split, cfg.count)
            with display.bar(f"{split} games", total=len(tasks)) as bar:
                environment.prepare(tasks, bar.to)
            told = "not played"
            if cfg.validate:
                with display.bar(f"{split} walkthroughs", total=len(tasks)) as bar:
                    with instantiate(cfg.env_pool, environment) as pool:
                        failed = validate(pool, tasks, bar.to)
                failures += failed
                told = f"{len(tasks) - len(failed)} of {len(tasks)}"
            ends = (tasks[0].id, tasks[-1].id) if tasks else ("", "")
            table.add_row(split, str(len(tasks)), *ends, told)
    Console().print(table)
    if failures:
        raise DataError(f"{len(failures)} games cannot be won by their own walkthrough:\n  " + "\n  ".join(failures))
