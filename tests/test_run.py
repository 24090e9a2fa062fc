"""Run directories: created, resumed, refused; what a restart keeps."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from meowtea.errors import CheckpointError, TrainingError
from meowtea.run import Run
from meowtea.types import Outcome, Task, Trajectory, Turn


@pytest.fixture
def config(tmp_path: Path) -> DictConfig:
    return OmegaConf.create(
        {
            "output_dir": str(tmp_path / "outputs"),
            "name": "r",
            "seed": 1,
            "learner": {"lr": 1e-5, "betas": [0.9, 0.99]},
            "tracking": {"_target_": "meowtea.tracking.NoTracking"},
            "env": {"rooms": 2, "workers": 2},
        }
    )


def trajectory() -> Trajectory:
    turn = Turn([1], [2], [-0.1], True, "a room", "go north", "go north")
    return Trajectory(Task("t", "train", 1), 0, [turn], Outcome.WON, 1.0, 1.0)


def test_a_new_run_writes_its_config_first(config, tmp_path):
    with Run.open(config) as run:
        assert not run.resumed and not run.finished
        assert OmegaConf.load(tmp_path / "outputs" / "r" / "config.yaml") == config
    assert run.state["status"] == "ended"


def test_the_same_config_resumes(config):
    with Run.open(config) as run:
        run.update_state(note="kept")
    with Run.open(config) as again:
        assert again.resumed and again.state["note"] == "kept"


def test_another_config_is_refused_with_every_differing_key_and_both_values(config):
    with Run.open(config):
        pass
    config.learner.lr, config.learner.betas[1], config.env.doors = 2e-5, 0.95, 3
    with pytest.raises(CheckpointError) as refused:
        Run.open(config)
    text = str(refused.value)
    assert "learner.lr: 1e-05 there, 2e-05 now" in text
    assert "learner.betas.1: 0.99 there, 0.95 now" in text
    assert "env.doors: nothing there, 3 now" in text
    assert "name=" in text


def test_a_refused_run_stays_as_it_was(config, tmp_path):
    with Run.open(config):
        pass
    before = (tmp_path / "outputs" / "r" / "config.yaml").read_text()
    with pytest.raises(CheckpointError):
        Run.open(OmegaConf.merge(config, {"seed": 2}))
    assert (tmp_path / "outputs" / "r" / "config.yaml").read_text() == before
    with Run.open(config) as run:  # the lock was given back
        assert run.resumed


def test_keys_that_cannot_change_results_may_differ(config):
    with Run.open(config):
        pass
    config.tracking._target_, config.env.workers = "meowtea.tracking.Wandb", 8
    with Run.open(config) as run:
        assert run.resumed


def test_two_processes_cannot_write_one_run(config):
    with (
        Run.open(config),
        pytest.raises(CheckpointError, match=f"is being written by process {os.getpid()} on"),
    ):
        Run.open(config)


def test_the_lock_of_a_killed_process_is_free(config, tmp_path):
    path = tmp_path / "config.yaml"
    OmegaConf.save(config, path)
    code = (
        "import os, signal\nfrom omegaconf import OmegaConf\nfrom meowtea.run import Run\n"
        f"run = Run.open(OmegaConf.load({str(path)!r})).__enter__()\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent)
    assert done.returncode == -signal.SIGKILL
    with Run.open(config) as run:
        assert run.resumed


def test_a_folder_that_cannot_be_written(config, tmp_path):
    (tmp_path / "outputs").write_text("a file, not a folder")
    with pytest.raises(CheckpointError, match=r"output_dir: .* cannot be written"):
        Run.open(config)


def test_truncation_leaves_each_step_once(config):
    with Run.open(config) as run:
        for step in (1, 2, 3):
            run.write_metrics(step, {"a": step / 2})
            run.write_trajectories(step, [trajectory()])
            run.write_evaluation({"step": step, "kind": "validation", "label": f"step {step}"})
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "a"')  # a line cut by the crash
    with Run.open(config) as run:
        run.truncate_after(2)
        run.write_metrics(3, {"a": 9.0})
        assert [(row["step"], row["a"]) for row in run.metrics.read()] == [(1, 0.5), (2, 1.0), (3, 9.0)]
        assert [row["step"] for row in run.evaluations.read()] == [1, 2]
        files = sorted(path.name for path in (run.folder / "trajectories").iterdir())
        assert files == ["train-00000001.jsonl", "train-00000002.jsonl"]


def test_the_same_evaluation_done_again_replaces_the_first(config):
    with Run.open(config) as run:
        for success in (0.1, 0.2):
            run.write_evaluation({"step": 5, "kind": "test", "label": "after SFT", "success": success})
        run.write_evaluation({"step": 5, "kind": "validation", "label": "after SFT", "success": 0.3})
        assert [row["success"] for row in run.evaluations.read()] == [0.2, 0.3]


def test_trajectories_come_back_as_they_were(config):
    with Run.open(config) as run:
        run.write_trajectories(7, [trajectory(), trajectory()])
    lines = (run.folder / "trajectories" / "train-00000007.jsonl").read_text().splitlines()
    assert [Trajectory.from_json(json.loads(line)) for line in lines] == [trajectory(), trajectory()]


def test_one_signal_asks_and_the_second_stops(config):
    before = signal.getsignal(signal.SIGINT)
    with Run.open(config) as run:
        assert not run.stop_requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert run.stop_requested and run.stop_signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert run.state["status"] == "stopped"
    assert signal.getsignal(signal.SIGINT) is before


def test_what_went_wrong_stands_in_the_state_and_the_log(config):
    with pytest.raises(TrainingError), Run.open(config) as run:
        logging.getLogger("meowtea.learner").warning("a loss was not finite")
        raise TrainingError("five in a row")
    assert run.state["status"] == "failed" and run.state["error"] == "TrainingError: five in a row"
    text = (run.folder / "run.log").read_text()
    assert "a loss was not finite" in text and "five in a row" in text


def test_an_unexpected_error_leaves_its_traceback_in_the_log(config):
    with pytest.raises(ZeroDivisionError), Run.open(config) as run:
        _ = 1 / 0
    assert "Traceback" in (run.folder / "run.log").read_text()


def test_a_finished_run_says_so_to_the_next_process(config):
    with Run.open(config) as run:
        run.finish()
    with Run.open(config) as again:
        assert again.finished
