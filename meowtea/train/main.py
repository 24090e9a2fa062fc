"""The commands `train` and `eval`, top to bottom."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from meowtea.checkpoint import CheckpointStore
from meowtea.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from meowtea.run import Run


def train(cfg: DictConfig, run: Run) -> None:
    """Spend the budget: evaluate as shipped, imitate the expert, reinforce, and evaluate after each.

    A run that was stopped goes on from its last checkpoint; a finished one only shows its results.
    """
    from meowtea.report.summary import print_results, write_summary
    from meowtea.train.experiment import Experiment, StopRequested
    from meowtea.train.rl import reinforce
    from meowtea.train.sft import imitate

    if run.finished:
        if not (run.folder / "report.md").exists():
            write_summary(run.folder, run.name)
        print_results(run.folder, f"{run.name} is finished")
        return
    with ExitStack() as closing:
        x = Experiment(cfg, run, closing)
        x.restore()
        try:
            if x.progress.stage == "start":
                if x.evaluator.baseline:
                    x.test("as shipped")
                x.enter("sft" if x.budget.demos else "rl" if x.budget.games else "done")
            if x.progress.stage == "sft":
                imitate(x)
                x.test("after SFT")
                x.enter("rl" if x.budget.games else "done")
            if x.progress.stage == "rl":
                reinforce(x)
                x.test("after RL")
                x.enter("done")
        except StopRequested:
            x.save()
            x.display.note(f"stopped by a signal at step {x.progress.step}, saved; the same command goes on")
            return
        x.learner.export(run.folder / "policy")
        x.tracker.model(run.folder / "policy")
        write_summary(run.folder, run.name)
        run.finish()
    print_results(run.folder, run.name)


def evaluate(cfg: DictConfig) -> None:
    """Play one panel with a run's policy, a checkpoint or a model as shipped, and write the result down."""
    from meowtea.report.summary import print_results
    from meowtea.run import ResultFolder
    from meowtea.train.player import Player

    folder = policy_folder(cfg)
    with ExitStack() as closing:
        player = Player(cfg, closing, folder)
        with player.display.bar("test") as bar:
            label = "as shipped" if folder is None else str(folder)
            evaluation, trajectories = player.wait(player.evaluator.test(label, bar.episode))
        player.protocol["games"] = {evaluation.split: evaluation.games}
        result = ResultFolder(cfg)
        result.write(evaluation, trajectories, player.protocol)
    print_results(result.folder, result.name)


def policy_folder(cfg: DictConfig) -> Path | None:
    """The exported policy that `checkpoint` or `run` names; None is the model as shipped."""
    if cfg.checkpoint is not None:
        folder = Path(cfg.checkpoint)
        candidates = [folder, folder / "policy"]
        for candidate in candidates:
            if (candidate / "config.json").is_file():
                return candidate
        raise ConfigError([f"checkpoint: no exported policy in '{folder}'; give a folder with a config.json"])
    if cfg.run is not None:
        folder = Path(cfg.run)
        if (folder / "policy" / "config.json").is_file():
            return folder / "policy"
        found = CheckpointStore(folder / "checkpoints", every=1, keep_last=1, keep_every=None).latest_policy()
        if found is not None:
            return found
        raise CheckpointError(f"run: '{folder}' has no policy yet; train it first (meowtea train), or give checkpoint=")
    return None
