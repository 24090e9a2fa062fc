"""Where metrics go besides the run's own files. A tracker never stops a run."""

from __future__ import annotations

import importlib.util
import logging
import netrc
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol
from urllib.parse import urlsplit

from annotated_types import Ge
from omegaconf import OmegaConf

if TYPE_CHECKING:
    from meowtea.run import Run
    from meowtea.types import Trajectory

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """state_dict: what a resumed run needs to go on in the same place."""

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Metrics of a step; called with increasing steps, several times per step if need be."""
        ...

    def episodes(self, step: int, trajectories: Sequence[Trajectory]) -> None:
        """Sample episodes for reading."""
        ...

    def model(self, folder: Path) -> None:
        """The final policy, in Hugging Face format."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def finish(self) -> None: ...


class NoTracking:
    """The run's own files are all there is."""

    def __init__(self, run: Run):
        pass

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        pass

    def episodes(self, step: int, trajectories: Sequence[Trajectory]) -> None:
        pass

    def model(self, folder: Path) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

    def finish(self) -> None:
        pass


class Wandb:
    """Weights & Biases: config, metrics, a table of sample episodes, the policy as an artifact on request.

    The id of the W&B run stands in state.json, so a resumed run goes on in the same one. The first failure is
    warned about; from then on the run goes on without W&B.
    """

    def __init__(
        self,
        run: Run,
        *,
        project: str,
        entity: str | None,
        mode: Literal["auto", "online", "offline"],
        episodes: Annotated[int, Ge(0)],
        log_model: bool,
    ):
        self._run, self._episodes, self._log_model = run, episodes, log_model
        self._wandb: Any = None
        self._failed = False
        self._attempt(lambda: self._start(project, entity, mode))

    @staticmethod
    def problems(**keys: Any) -> list[str]:
        if importlib.util.find_spec("wandb") is None:
            return ["_target_: wandb is not installed; pip install 'meowtea[wandb]', or use tracking=none"]
        return []

    def _start(self, project: str, entity: str | None, mode: Literal["auto", "online", "offline"]) -> None:
        import wandb

        if mode != "auto":
            chosen = mode
        elif os.environ.get("WANDB_MODE"):
            chosen = None  # W&B's own variable decides
        else:
            chosen = "online" if logged_in() else "offline"
        run_id = self._run.state.get("wandb_id") or secrets.token_hex(4)
        config = OmegaConf.to_container(self._run.config, resolve=True)
        self._wandb = wandb.init(
            project=project,
            entity=entity,
            mode=chosen,
            dir=self._run.folder,
            name=self._run.name,
            id=run_id,
            resume="allow",
            config={str(key): value for key, value in config.items()} if isinstance(config, dict) else None,
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.update_state(wandb_id=run_id)
        # our steps are an axis of their own: W&B's may only grow, ours go back after a restart
        self._wandb.define_metric("step")
        self._wandb.define_metric("*", step_metric="step")

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        self._attempt(lambda: self._wandb.log({"step": step, **numbers}))

    def episodes(self, step: int, trajectories: Sequence[Trajectory]) -> None:
        if self._episodes:
            self._attempt(lambda: self._log_table(step, trajectories[: self._episodes]))

    def model(self, folder: Path) -> None:
        if self._log_model:
            self._attempt(lambda: self._log_artifact(folder))

    def state_dict(self) -> dict[str, Any]:
        return {"wandb_id": self._run.state.get("wandb_id")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take over: the id is in state.json, which is newer than any checkpoint."""

    def finish(self) -> None:
        self._attempt(lambda: self._wandb.finish())

    def _log_table(self, step: int, trajectories: Sequence[Trajectory]) -> None:
        import wandb

        table = wandb.Table(columns=["step", "task", "outcome", "score", "turns", "episode"])
        for trajectory in trajectories:
            share = trajectory.score / trajectory.max_score
            table.add_data(
                step, trajectory.task.id, trajectory.outcome.value, share, len(trajectory.turns), as_text(trajectory)
            )
        self._wandb.log({"step": step, "episodes": table})

    def _log_artifact(self, folder: Path) -> None:
        import wandb

        artifact = wandb.Artifact(f"policy-{self._wandb.id}", type="model")
        artifact.add_dir(str(folder))
        self._wandb.log_artifact(artifact)

    def _attempt(self, action: Callable[[], None]) -> None:
        """W&B, its service process and the network fail in many ways: none of them may end a run."""
        if self._failed:
            return
        try:
            action()
        except Exception as error:
            self._failed = True
            log.warning("W&B failed (%s: %s); the run goes on without it", type(error).__name__, error)


def logged_in() -> bool:
    """Whether W&B has a key: in its variable, or in the netrc file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def as_text(trajectory: Trajectory) -> str:
    """An episode as a person reads it."""
    lines = [f"{turn.observation}\n> {turn.reply}" for turn in trajectory.turns]
    return "\n\n".join([*lines, trajectory.final_observation])
