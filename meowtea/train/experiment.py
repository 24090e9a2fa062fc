"""Everything a run is made of, built once from its config, and where it stands."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from meowtea.train.budget import Spending, Stopwatch, TaskCursor
from meowtea.train.player import Player

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from omegaconf import DictConfig

    from meowtea.run import Run
    from meowtea.train.evaluate import Evaluation
    from meowtea.types import Trajectory

Stage = Literal["start", "sft", "rl", "done"]


@dataclass
class Progress:
    """Where a run stands; saved in every checkpoint."""

    stage: Stage = "start"
    sft_step: int = 0
    rl_step: int = 0
    cursor: int = 0  # games dealt by the RL stage
    seconds: float = 0.0  # of all processes that worked on this run, up to the last save
    spending: Spending = field(default_factory=Spending)

    @property
    def step(self) -> int:
        """Steps of both stages: the x axis of metrics.jsonl."""
        return self.sft_step + self.rl_step

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Progress:
        return cls(**{**data, "spending": Spending(**data["spending"])})


class StopRequested(Exception):
    """A signal asked the run to end. Raised where progress and weights agree, so that it can be saved as it is."""


class Experiment(Player):
    """A player that learns: budget, reward, algorithm, learner, records and checkpoints on top."""

    def __init__(self, cfg: DictConfig, run: Run, closing: ExitStack):
        from hydra.utils import instantiate

        from meowtea.checkpoint import CheckpointStore

        self.run = run
        self.progress = Progress()
        self.budget = instantiate(cfg.budget)
        self.sft = instantiate(cfg.sft)
        self.reward = instantiate(cfg.reward)
        self.algorithm = instantiate(cfg.algorithm)
        super().__init__(cfg, closing)
        self.cursor = TaskCursor(self.budget.games, self.budget.epochs, self.seed)
        self.checkpoints: CheckpointStore = instantiate(cfg.checkpoint, run.folder / "checkpoints")
        self.tracker = instantiate(cfg.tracking, run)
        closing.callback(self.tracker.finish)
        self.clock = Stopwatch()
        known = run.read_protocol()
        if known.get("hash") == self.protocol["hash"]:
            self.protocol["games"] = known.get("games", {})
        run.write_protocol(self.protocol)
        self.engine.sleep()  # until something is to be played

    def load_policy(self) -> Any:
        """The learner's own module: the embedded engine samples from the very weights that are trained."""
        from hydra.utils import instantiate

        self.learner = instantiate(self.cfg.learner, self.model, self.algorithm, seed=self.cfg.seed)
        return self.learner.policy

    @property
    def rl_steps(self) -> int:
        """RL steps until every game was played `budget.epochs` times, without refills."""
        return -(-self.cursor.count * self.cursor.epochs // self.collector.tasks_per_step)

    # -- stages -------------------------------------------------------------------------------------------------

    def enter(self, stage: Stage) -> None:
        """Leave the last stage behind: open the next one and save, so that a restart begins with it."""
        self.begin_stage(stage)
        self.save()

    def begin_stage(self, stage: Stage) -> None:
        """Optimizers and schedule of a stage; entering RL freezes the policy as reference and starts the critic."""
        self.progress.stage = stage
        if stage == "sft":
            total = self.sft.epochs * self.sft.steps_per_epoch(self.budget.demos)
            self.learner.begin(lr=self.sft.lr, total_steps=total, warmup_steps=self.sft.warmup_steps)
        elif stage == "rl":
            self.learner.begin_rl(total_batches=self.rl_steps)

    def restore(self) -> None:
        """Go on from the newest whole checkpoint, if there is one."""
        found = self.checkpoints.latest()
        if found is None:
            self.run.truncate_after(-1)
            return
        step, state = found
        self.progress = Progress.from_json(state["progress"])
        self.begin_stage(self.progress.stage)
        self.learner.load_state_dict(state["learner"])
        self.algorithm.load_state_dict(state["algorithm"])
        self.tracker.load_state_dict(state["tracker"])
        self.cursor.position = self.progress.cursor
        self.clock = Stopwatch(self.progress.seconds)
        self.run.truncate_after(step)
        self.publish()
        self.display.note(f"resumed at step {step} ({self.progress.stage})")

    def save(self) -> None:
        """Write a checkpoint of everything, and the policy in Hugging Face format beside it."""
        self.progress.seconds = self.clock.seconds
        state = {
            "progress": asdict(self.progress),
            "learner": self.learner.state_dict(),
            "algorithm": self.algorithm.state_dict(),
            "tracker": self.tracker.state_dict(),
        }
        self.checkpoints.save(self.progress.step, state, export=self.learner.export)

    def save_if_due(self) -> None:
        """After every step: save when it is time. Raises StopRequested when a signal asked for the end."""
        if self.run.stop_requested:
            raise StopRequested
        if self.checkpoints.due(self.progress.step):
            self.save()

    def watch(self, show: Callable[[Trajectory], None]) -> Callable[[Trajectory], None]:
        """`show` every episode that ends, and break off what is being played when a signal asked for the end."""

        def on_episode(trajectory: Trajectory) -> None:
            show(trajectory)
            if self.run.stop_requested:
                raise StopRequested

        return on_episode

    # -- records ------------------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Give the learner's weights to the engine."""
        self.engine.load(self.learner.weights(), self.learner.policy_version)

    def record(self, metrics: dict[str, float]) -> None:
        """One line of metrics.jsonl, and the same to the tracker."""
        line = {"stage": self.progress.stage, **metrics, **self.progress.spending.metrics(self.budget)}
        self.run.write_metrics(self.progress.step, line)
        self.tracker.log(self.progress.step, line)

    def validate(self, label: str) -> dict[str, float]:
        """Play the validation panel with the weights as they are now; its metrics."""
        return self._evaluate("validation", label).metrics()

    def test(self, label: str) -> Evaluation:
        """Play the reported panel; its line goes to evaluations.jsonl and the tracker."""
        evaluation = self._evaluate("test", label)
        self.tracker.log(self.progress.step, evaluation.metrics())
        return evaluation

    def _evaluate(self, kind: Literal["validation", "test"], label: str) -> Evaluation:
        self.publish()
        self.engine.wake()
        play = self.evaluator.validate if kind == "validation" else self.evaluator.test
        with self.display.bar(f"{kind}: {label}") as bar:
            # A validation belongs to a step that is not recorded yet: that one is played to its end.
            on_episode = bar.episode if kind == "validation" else self.watch(bar.episode)
            evaluation, trajectories = self.wait(play(label, on_episode))
        self.engine.sleep()
        self.protocol.setdefault("games", {})[evaluation.split] = evaluation.games
        self.run.write_protocol(self.protocol)
        self.record_evaluation(kind, evaluation, trajectories)
        self.display.note(evaluation.sentence())
        return evaluation

    def record_evaluation(self, kind: str, evaluation: Evaluation, trajectories: Sequence[Trajectory]) -> None:
        line = {
            "step": self.progress.step,
            "stage": self.progress.stage,
            "kind": kind,
            **evaluation.to_json(),
            "minutes": self.clock.seconds / 60,
            "protocol": self.protocol["hash"],
        }
        self.run.write_evaluation(line)
        self.run.write_trajectories(self.progress.step, trajectories, kind)
        self.tracker.episodes(self.progress.step, trajectories)
