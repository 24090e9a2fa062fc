"""W&B for real, offline: what it is told, that a resumed run keeps its id, and that its failures end nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from meowtea.run import Run
from meowtea.tracking import NoTracking, Wandb, as_text, logged_in
from meowtea.types import Outcome, Task, Trajectory, Turn

pytest.importorskip("wandb")


@pytest.fixture(autouse=True)
def away_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key of the developer's, and no files in the home folder."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))


def open_run(tmp_path: Path) -> Run:
    return Run.open(OmegaConf.create({"output_dir": str(tmp_path), "name": "r", "seed": 5}))


def tracker(run: Run, mode: str = "offline", log_model: bool = False) -> Wandb:
    return Wandb(run, project="p", entity=None, mode=mode, episodes=2, log_model=log_model)  # type: ignore[arg-type]


def trajectory(outcome: Outcome = Outcome.WON) -> Trajectory:
    turn = Turn([1], [2], [-0.1], True, "You are in a kitchen.", "open fridge", "open fridge")
    done = "The fridge is open."
    return Trajectory(Task("game-7", "test", 7), 0, [turn], outcome, 1.0, 2.0, final_observation=done)


def records(run: Run) -> bytes:
    """The binary log that `wandb sync` would upload."""
    return b"".join(path.read_bytes() for path in sorted(run.folder.glob("wandb/offline-run-*/run-*.wandb")))


def test_offline_run_holds_config_metrics_episodes_and_model(tmp_path):
    with open_run(tmp_path) as run:
        wandb = tracker(run, log_model=True)
        wandb.log(1, {"rollout/success": 0.25, "stage": "rl"})
        wandb.episodes(1, [trajectory(), trajectory(Outcome.LOST), trajectory()])
        (tmp_path / "policy").mkdir()
        (tmp_path / "policy" / "config.json").write_text("{}")
        wandb.model(tmp_path / "policy")
        wandb.finish()
    content = records(run)
    for told in (b"rollout/success", b"0.25", b"seed", f"policy-{run.state['wandb_id']}".encode()):
        assert told in content
    [table] = run.folder.glob("wandb/offline-run-*/files/media/table/*.json")
    rows = json.loads(table.read_text())["data"]
    assert [row[2] for row in rows] == ["won", "lost"]  # episodes: 2 of the 3
    assert rows[0][3] == 0.5 and "> open fridge" in rows[0][5]


def test_a_resumed_run_keeps_its_id(tmp_path):
    ids = []
    for _ in range(2):
        with open_run(tmp_path) as run:
            wandb = tracker(run)
            wandb.log(1, {"a": 1.0})
            wandb.finish()
            ids.append(run.state["wandb_id"])
    assert ids[0] == ids[1]
    assert all(ids[0] in path.name for path in run.folder.glob("wandb/offline-run-*"))


def test_a_failing_wandb_is_warned_about_once_and_the_run_goes_on(tmp_path, caplog):
    with open_run(tmp_path) as run:
        wandb = tracker(run)
        wandb.finish()
        for step in (1, 2, 3):
            wandb.log(step, {"a": 1.0})  # after finish, W&B itself raises
        wandb.episodes(3, [trajectory()])
    assert caplog.text.count("the run goes on without it") == 1


def test_a_wandb_that_cannot_start_does_not_stop_the_run(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "not a key")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with open_run(tmp_path) as run:
        wandb = tracker(run, mode="online")
        wandb.log(1, {"a": 1.0})
        wandb.finish()
    assert caplog.text.count("the run goes on without it") == 1


def test_auto_is_offline_unless_there_is_a_key(tmp_path, monkeypatch):
    assert not logged_in()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password " + "0" * 40 + "\n")
    (tmp_path / "netrc").chmod(0o600)
    assert logged_in()
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert logged_in()


def test_no_tracking_leaves_no_trace(tmp_path):
    with open_run(tmp_path) as run:
        before = sorted(run.folder.rglob("*"))
        nothing = NoTracking(run)
        nothing.log(1, {"a": 1.0})
        nothing.episodes(1, [trajectory()])
        nothing.model(tmp_path)
        nothing.load_state_dict(nothing.state_dict())
        nothing.finish()
        assert sorted(run.folder.rglob("*")) == before


def test_an_episode_as_text():
    assert as_text(trajectory()) == "You are in a kitchen.\n> open fridge\n\nThe fridge is open."
