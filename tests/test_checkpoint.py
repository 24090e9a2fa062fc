"""Checkpoints: whole or absent, verified, pruned, and what happens when the disk is full or the process killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from meowtea.checkpoint import CheckpointStore
from meowtea.errors import CheckpointError

ROOT = Path(__file__).resolve().parent.parent


def store(folder: Path, keep_last: int = 2, keep_every: int | None = None) -> CheckpointStore:
    return CheckpointStore(folder, every=5, keep_last=keep_last, keep_every=keep_every)


def state(value: float) -> dict:
    return {"weights": torch.full((1000,), value), "progress": {"step": int(value), "stage": "rl"}, "lr": [1e-5, None]}


def export(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"\0" * 100)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_nothing_saved_is_nothing_found(tmp_path):
    assert store(tmp_path / "checkpoints").latest() is None
    assert store(tmp_path / "checkpoints").latest_policy() is None


def test_what_is_saved_comes_back(tmp_path):
    folder = store(tmp_path).save(12, state(3.0), export)
    found = store(tmp_path).latest()
    assert found is not None and found[0] == 12
    assert torch.equal(found[1]["weights"], torch.full((1000,), 3.0))
    assert found[1]["progress"] == {"step": 3, "stage": "rl"} and found[1]["lr"] == [1e-5, None]
    assert store(tmp_path).latest_policy() == folder / "policy"


def test_every(tmp_path):
    assert [step for step in range(1, 12) if store(tmp_path).due(step)] == [5, 10]


def test_the_manifest_covers_every_file(tmp_path):
    folder = store(tmp_path).save(1, state(1), export)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["sha256"]) == files - {"manifest.json"}


@pytest.mark.parametrize("name", ["state.pt", "policy/model.safetensors", "manifest.json"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(tmp_path, caplog, name):
    store(tmp_path).save(5, state(1), export)
    newest = store(tmp_path).save(10, state(2), export)
    flip_a_byte(newest / name)
    found = store(tmp_path).latest()
    assert found is not None and found[0] == 5
    assert f"{newest} is damaged" in caplog.text


@pytest.mark.parametrize("name", ["state.pt", "manifest.json"])
def test_a_missing_file_is_damage(tmp_path, name):
    store(tmp_path).save(5, state(1))
    (store(tmp_path).save(10, state(2)) / name).unlink()
    found = store(tmp_path).latest()
    assert found is not None and found[0] == 5


def test_if_all_are_damaged_the_run_does_not_silently_start_over(tmp_path):
    flip_a_byte(store(tmp_path).save(5, state(1)) / "state.pt")
    with pytest.raises(CheckpointError, match="all 1 checkpoints are damaged"):
        store(tmp_path).latest()


def test_saving_again_after_going_back_removes_the_damaged_one(tmp_path):
    checkpoints = store(tmp_path)
    checkpoints.save(5, state(1))
    flip_a_byte(checkpoints.save(10, state(2)) / "state.pt")
    checkpoints.save(7, state(3))
    assert checkpoints.steps() == [5, 7]
    assert checkpoints.latest()[0] == 7


def test_pruning(tmp_path):
    checkpoints = store(tmp_path, keep_last=2, keep_every=20)
    for step in range(5, 55, 5):
        checkpoints.save(step, state(step))
    assert checkpoints.steps() == [20, 40, 45, 50]


def test_saving_a_step_again_replaces_it(tmp_path):
    checkpoints = store(tmp_path)
    checkpoints.save(5, state(1))
    checkpoints.save(5, state(2))
    step, found = checkpoints.latest()
    assert step == 5 and found["progress"]["step"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]


def test_leftovers_of_killed_saves_are_swept(tmp_path):
    checkpoints = store(tmp_path)
    checkpoints.save(5, state(1))
    (tmp_path / ".tmp-step-00000010").mkdir()
    (tmp_path / ".tmp-step-00000010" / "state.pt").write_text("half")
    (tmp_path / "step-00000005").rename(tmp_path / ".old-step-00000005")  # killed while replacing it
    assert checkpoints.latest()[0] == 5
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]


def test_a_checkpoint_cannot_run_code(tmp_path):
    folder = store(tmp_path).save(5, state(1))

    class Evil:
        def __reduce__(self):
            return (os.system, ("echo owned",))

    torch.save(Evil(), folder / "state.pt")
    from meowtea.checkpoint import _hash  # a manifest that fits: only the loader stands in the way

    (folder / "manifest.json").write_text(json.dumps({"step": 5, "sha256": {"state.pt": _hash(folder / "state.pt")}}))
    with pytest.raises(Exception, match="weights_only"):
        store(tmp_path).latest()


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from meowtea.checkpoint import CheckpointStore
from meowtea.errors import CheckpointError

def export(folder):
    save_file({"a": torch.zeros(int(sys.argv[3]))}, folder / "model.safetensors")

checkpoints = CheckpointStore(Path(sys.argv[1]), every=1, keep_last=2, keep_every=None)
checkpoints.save(1, {"a": torch.zeros(10)}, lambda folder: None)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # a write beyond this fails as on a full disk
try:
    checkpoints.save(2, {"a": torch.zeros(int(sys.argv[2]))}, export)
except CheckpointError as error:
    print(error)
print(sorted(path.name for path in Path(sys.argv[1]).iterdir()), checkpoints.latest()[0])
"""


@pytest.mark.parametrize(("state_size", "export_size"), [(1_000_000, 10), (10, 1_000_000)])
def test_a_full_disk_is_told_and_the_previous_checkpoint_kept(tmp_path, state_size, export_size):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), str(state_size), str(export_size)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    message, left = done.stdout.splitlines()
    assert message.startswith(f"{tmp_path}: no room for the checkpoint of step 2")
    assert f"at least {4 * state_size:,} bytes" in message and "are free" in message
    assert "the checkpoint of step 1 is kept" in message
    assert left == "['step-00000001'] 1"


ENDLESS = """
import sys
from pathlib import Path
import torch
from meowtea.checkpoint import CheckpointStore

checkpoints = CheckpointStore(Path(sys.argv[1]), every=1, keep_last=2, keep_every=None)
step = (checkpoints.latest() or (0, None))[0]
while True:
    step += 1
    checkpoints.save(step, {"a": torch.full((300_000,), float(step))}, lambda f: (f / "x").write_bytes(b"x" * 300_000))
    print(step, flush=True)
"""


def test_sigkill_during_a_save_loses_nothing_that_was_saved(tmp_path):
    rng = random.Random(0)
    saved = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        first = int(process.stdout.readline())
        assert first == saved + 1  # it went on from the newest whole checkpoint
        time.sleep(rng.uniform(0.05, 0.3))
        process.send_signal(signal.SIGKILL)
        told = [int(line) for line in process.communicate()[0].split()]
        step, found = store(tmp_path).latest()
        assert step >= max([first, *told])
        assert torch.equal(found["a"], torch.full((300_000,), float(step)))
        saved = step


def test_a_reader_leaves_a_checkpoint_that_is_being_written_alone(tmp_path):
    store = CheckpointStore(tmp_path, every=1, keep_last=2, keep_every=None)
    store.save(1, {"x": 1}, export=lambda folder: (folder / "config.json").write_text("{}"))
    being_written = tmp_path / ".tmp-step-00000002"
    being_written.mkdir()
    assert store.latest_policy() == tmp_path / "step-00000001" / "policy"
    assert being_written.is_dir()
