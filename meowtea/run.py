"""Run: the folder of one training, its files, and whether it may go on."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from meowtea.errors import CheckpointError, MeowteaError
from meowtea.records import (
    JsonLines,
    config_differences,
    read_json,
    write_atomically,
    write_json,
    write_trajectories,
)

if TYPE_CHECKING:
    from meowtea.train.evaluate import Evaluation
    from meowtea.types import Trajectory

log = logging.getLogger(__name__)

_STARTED = time.monotonic()  # of the command, but for a second of start-up


class Run:
    """A run directory, locked for this process. Use as a context manager.

    config.yaml       what was asked for, resolved; written before anything else
    state.json        status (running, stopped, failed, ended), finished, process, what `update_state` adds
    metrics.jsonl     one object per step; evaluations.jsonl: one per evaluation
    trajectories/     one JSON Lines file per step and kind: train, validation, test
    checkpoints/      see CheckpointStore
    protocol.json     what a result depends on
    run.log           warnings and messages, with times

    resumed: the directory held the same run before. stop_signal: SIGTERM or SIGINT once one came, else 0.
    """

    def __init__(self, folder: Path, config: DictConfig, resumed: bool, lock: IO[str]):
        self.folder, self.config, self.resumed, self._lock = folder, config, resumed, lock
        self.name: str = config.name
        self.metrics = JsonLines(folder / "metrics.jsonl")
        self.evaluations = JsonLines(folder / "evaluations.jsonl")
        self.stop_signal = 0
        self._previous_handlers: dict[int, Any] = {}
        self._log_handlers: list[tuple[logging.Logger, logging.Handler]] = []
        self.state: dict[str, Any] = read_json(folder / "state.json")

    @classmethod
    def open(cls, config: DictConfig) -> Run:
        """Create or resume `<output_dir>/<name>`.

        Raises CheckpointError if another process writes it, or if it holds a run whose config differs in a key that
        can change results.
        """
        folder = Path(config.output_dir) / config.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = _lock(folder)
        except OSError as error:
            raise CheckpointError(f"output_dir: {folder} cannot be written: {error.strerror}") from error
        path = folder / "config.yaml"
        resumed = path.exists()
        if resumed:
            differing = config_differences(OmegaConf.load(path), config)
            if differing:
                lines = "\n".join(f"  {line}" for line in differing)
                lock.close()
                raise CheckpointError(
                    f"{folder} holds a run with another config:\n{lines}\n"
                    "set these as they were to go on, or give the new run another name=..."
                )
        write_atomically(path, OmegaConf.to_yaml(config, resolve=True))
        return cls(folder, config, resumed, lock)

    @property
    def stop_requested(self) -> bool:
        """SIGTERM or Ctrl-C came: save and leave the loop."""
        return self.stop_signal != 0

    @property
    def finished(self) -> bool:
        """The whole budget was spent and the result written, now or by an earlier process."""
        return self.state.get("finished", False)

    def finish(self) -> None:
        """Note that nothing is left to do."""
        self.update_state(finished=True)

    def update_state(self, **values: Any) -> None:
        """Merge values into state.json."""
        self.state |= values
        write_json(self.folder / "state.json", self.state)

    def write_metrics(self, step: int, metrics: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl."""
        self.metrics.write(step, metrics)

    def write_evaluation(self, line: Mapping[str, Any]) -> None:
        """One line of evaluations.jsonl; the same evaluation done again after a restart replaces the first."""
        self.evaluations.replace(("step", "kind", "label"), line)

    def write_trajectories(self, step: int, trajectories: Iterable[Trajectory], kind: str = "train") -> None:
        """Episodes played at a step, in a file of their own (`train-00000012.jsonl`), one JSON object per line."""
        write_trajectories(self.folder / "trajectories" / f"{kind}-{step:08d}.jsonl", trajectories)

    def write_protocol(self, card: Mapping[str, Any]) -> None:
        """protocol.json, beside the results it explains."""
        write_json(self.folder / "protocol.json", card)

    def read_protocol(self) -> dict[str, Any]:
        """The card an earlier process wrote; empty if there is none."""
        return read_json(self.folder / "protocol.json")

    def truncate_after(self, step: int) -> None:
        """Forget what was recorded after `step`, the one of the checkpoint that is resumed: it will be done again."""
        self.metrics.truncate_after(step)
        self.evaluations.truncate_after(step)
        for path in (self.folder / "trajectories").glob("*-*.jsonl"):
            if int(path.stem.rpartition("-")[2]) > step:
                path.unlink()

    def __enter__(self) -> Run:
        self._start_logging()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous_handlers[number] = signal.signal(number, self._on_signal)
        self.update_state(status="running", pid=os.getpid(), host=socket.gethostname())
        log.info("%s in %s", "resumed" if self.resumed else "started", self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        if error is None:
            status, message = ("stopped" if self.stop_requested else "ended"), ""
        else:
            stopped = isinstance(error, KeyboardInterrupt)
            status, message = ("stopped" if stopped else "failed"), f"{type(error).__name__}: {error}"
            if stopped or isinstance(error, MeowteaError):
                log.info("%s", message)
            else:
                log.info("unexpected error", exc_info=(type(error), error, trace))
        try:
            self.update_state(status=status, error=message)
        except CheckpointError as failure:  # a full disk must not hide the error that is on its way
            print(failure, file=sys.stderr)
        log.info("%s", status)
        for logger, handler in self._log_handlers:
            logger.removeHandler(handler)
            handler.close()
        self._lock.close()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stop_requested:
            raise KeyboardInterrupt
        self.stop_signal = number
        log.warning("%s: will save after this step and stop; once more stops now", signal.Signals(number).name)

    def _start_logging(self) -> None:
        file = logging.FileHandler(self.folder / "run.log", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        screen = _Screen(logging.WARNING)
        screen.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        ours = logging.getLogger("meowtea")
        ours.setLevel(logging.INFO)
        for logger, handler in ((logging.getLogger(), file), (ours, screen)):
            logger.addHandler(handler)
            self._log_handlers.append((logger, handler))


class ResultFolder:
    """Where `meowtea eval` leaves a result: below the run that was evaluated, else below output_dir. A repetition of
    the same evaluation replaces it."""

    def __init__(self, config: DictConfig):
        parent = Path(config.run) if config.run is not None else Path(config.output_dir)
        self.config, self.name = config, str(config.name)
        self.folder = parent / "evaluations" / self.name

    def write(self, evaluation: Evaluation, trajectories: Iterable[Trajectory], protocol: Mapping[str, Any]) -> None:
        """config.yaml, protocol.json, evaluations.jsonl and trajectories/, as in a run directory."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "config.yaml", OmegaConf.to_yaml(self.config, resolve=True))
        write_json(self.folder / "protocol.json", protocol)
        line = {"step": 0, "kind": "test", **evaluation.to_json(), "protocol": protocol["hash"]}
        line["minutes"] = (time.monotonic() - _STARTED) / 60
        JsonLines(self.folder / "evaluations.jsonl").replace(("kind", "label"), line)
        write_trajectories(self.folder / "trajectories" / "test-00000000.jsonl", trajectories)


class _Screen(logging.StreamHandler[Any]):
    """To whatever stderr is now: the progress display replaces it while it is on."""

    def __init__(self, level: int):
        logging.Handler.__init__(self, level)

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        raise AttributeError("the screen is always sys.stderr")


def _lock(folder: Path) -> IO[str]:
    """Held by the operating system for as long as this process lives, so there are no stale locks."""
    file = (folder / ".lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise CheckpointError(f"{folder} is being written by {owner}; wait for it, or use another name=...") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file
