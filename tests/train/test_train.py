"""Whole runs on the toy environment with a tiny random model; those that get killed in processes of their own."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meowtea.check import check
from meowtea.config import compose
from meowtea.errors import CheckpointError, TrainingError
from meowtea.run import Run
from meowtea.train.main import train as train_run

ROOT = Path(__file__).resolve().parents[2]
TIMINGS = ("time/", "speed/")
SMALL = [
    "env=toy",
    "model=tiny-random",
    "engine=transformers",
    "model.device=cpu",
    "env_pool.workers=1",
    "budget.total=24",
    "budget.demo_cost=2",
    "budget.sft_share=0.5",
    "sft.batch_size=3",
    "sft.epochs=1",
    "rollout.tasks_per_step=2",
    "rollout.group_size=2",
    "rollout.max_reply_tokens=4",
    "env.max_turns=3",
    "evaluation.tasks=4",
    "evaluation.validation_tasks=3",
    "evaluation.validate_every=3",
]


def words(folder, *overrides, name="run"):
    told = {override.split("=")[0] for override in overrides}
    rest = [default for default in SMALL if default.split("=")[0] not in told]
    overrides = [override for override in overrides if not override.endswith("=DEFAULT")]
    return [*rest, f"output_dir={folder}", f"name={name}", *overrides]


def train(folder, *overrides, name="run"):
    """One run in this process, checked as the command line does."""
    config = compose("train", words(folder, *overrides, name=name))
    check(config, "train", words(folder, *overrides, name=name))
    with Run.open(config) as run:
        train_run(config, run)


def start(folder, *overrides, name="run", output=subprocess.DEVNULL):
    return subprocess.Popen(
        [sys.executable, "-m", "meowtea", "train", *words(folder, *overrides, name=name)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def untimed(path):
    """Metrics up to timings."""
    return [{k: v for k, v in row.items() if not k.startswith(TIMINGS) and k != "minutes"} for row in lines(path)]


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "rloo", "reinforce_pp"])
def test_every_algorithm_runs_from_start_to_end(tmp_path, algorithm):
    train(tmp_path, f"algorithm={algorithm}", "budget.total=12")
    run = tmp_path / "run"
    metrics = lines(run / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [1, 2, 3, 4]  # 3 demonstrations, 6 games, 2 a step
    assert [row["stage"] for row in metrics] == ["sft", "rl", "rl", "rl"]
    assert metrics[-1]["budget/spent"] == 12
    assert all(row["mismatch/logprob"] < 1e-3 for row in metrics[1:] if "mismatch/logprob" in row)
    tests = [row["label"] for row in lines(run / "evaluations.jsonl") if row["kind"] == "test"]
    assert tests == ["as shipped", "after SFT", "after RL"]
    assert set(json.loads((run / "protocol.json").read_text())["games"]) == {"test", "validation"}
    assert (run / "learning.png").stat().st_size > 5000 and "after RL" in (run / "report.md").read_text()
    episodes = lines(run / "trajectories" / "train-00000002.jsonl")
    assert len(episodes) == 4 and all(episode["rewards"] for episode in episodes)
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(run / "policy")


def test_only_sft_and_only_rl_are_budgets(tmp_path):
    # keys without effect are errors, so each leaves out those of the other stage
    rl_keys = ["rollout.tasks_per_step=DEFAULT", "rollout.group_size=DEFAULT", "evaluation.validate_every=DEFAULT"]
    train(tmp_path, "budget.sft_share=1.0", *rl_keys, name="sft")
    sft_keys = ["sft.batch_size=DEFAULT", "sft.epochs=DEFAULT", "budget.demo_cost=DEFAULT"]
    train(tmp_path, "budget.sft_share=0.0", "algorithm=rloo", "budget.total=4", *sft_keys, name="rl")
    assert {row["stage"] for row in lines(tmp_path / "sft" / "metrics.jsonl")} == {"sft"}
    assert {row["stage"] for row in lines(tmp_path / "rl" / "metrics.jsonl")} == {"rl"}


def test_a_finished_run_is_shown_not_repeated_and_another_config_is_refused(tmp_path, capsys):
    train(tmp_path, "algorithm=rloo", "budget.total=12")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    train(tmp_path, "algorithm=rloo", "budget.total=12")
    assert "is finished" in capsys.readouterr().out
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    with pytest.raises(CheckpointError, match=r"seed: .*1.*2"):
        train(tmp_path, "algorithm=rloo", "budget.total=12", "seed=2")


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["rloo", "ppo"])
def test_killed_three_times_a_deterministic_run_ends_as_one_left_alone(tmp_path, algorithm):
    overrides = [
        f"algorithm={algorithm}",
        "algorithm.entropy_coef=0.01",  # so that there is a gradient even where all rewards are equal
        "deterministic=true",
        "checkpoint.every=2",
        "budget.epochs=2",
    ]
    train(tmp_path, *overrides, name="alone")
    train(tmp_path, *overrides, name="twin")
    alone, twin = tmp_path / "alone", tmp_path / "twin"
    assert untimed(alone / "metrics.jsonl") == untimed(twin / "metrics.jsonl")

    dice, killed = random.Random(7), tmp_path / "killed"
    for _ in range(3):
        process = start(tmp_path, *overrides, name="killed")
        seen = count(killed)
        deadline = time.monotonic() + 120
        while count(killed) <= seen and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)  # it gets somewhere, then dies in the middle of something
        time.sleep(dice.uniform(0, 1.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
    train(tmp_path, *overrides, name="killed")
    assert untimed(killed / "metrics.jsonl") == untimed(alone / "metrics.jsonl")
    assert untimed(killed / "evaluations.jsonl") == untimed(alone / "evaluations.jsonl")
    assert weights(killed) == weights(alone)


def count(run):
    path = run / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def weights(run):
    from safetensors.torch import load_file

    return {name: tensor.tolist() for name, tensor in load_file(run / "policy" / "model.safetensors").items()}


def test_sigterm_saves_and_the_same_command_goes_on(tmp_path):
    overrides = ["algorithm=rloo", "budget.epochs=20", "checkpoint.every=1000"]
    process = start(tmp_path, *overrides, output=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while count(tmp_path / "run") < 6 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "the same command goes on" in output, output
    stopped_at = lines(tmp_path / "run" / "metrics.jsonl")[-1]["step"]
    process = start(tmp_path, *overrides, output=subprocess.PIPE)
    while count(tmp_path / "run") < stopped_at + 3 and time.monotonic() < deadline + 120:
        time.sleep(0.05)
    process.kill()
    output, _ = process.communicate(timeout=60)
    assert f"resumed at step {stopped_at}" in output
    steps = [row["step"] for row in lines(tmp_path / "run" / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))  # every step once


def test_broken_episodes_are_counted_and_never_learned_from(tmp_path):
    faults = tmp_path / "faults"
    faults.mkdir()
    fault = ["env.fault=kill", "env.fault_turn=2", "env.fault_times=1", f"env.fault_folder={faults}"]
    sft_keys = ["sft.batch_size=DEFAULT", "sft.epochs=DEFAULT", "budget.demo_cost=DEFAULT", "budget.sft_share=0"]
    train(tmp_path, "algorithm=rloo", "env_pool.retries=0", "evaluation.baseline=false", *sft_keys, *fault)
    run = tmp_path / "run"
    played = [e for path in (run / "trajectories").glob("train-*.jsonl") for e in lines(path)]
    broken = [e for e in played if e["outcome"] == "env_error"]
    metrics = lines(run / "metrics.jsonl")
    assert metrics[-1]["budget/broken_episodes"] == len(broken) > 0
    assert all(e["rewards"] == [] for e in broken)
    assert metrics[-1]["budget/episodes"] == len(played)


def test_when_every_episode_breaks_the_run_says_why(tmp_path):
    sft_keys = ["sft.batch_size=DEFAULT", "sft.epochs=DEFAULT", "budget.demo_cost=DEFAULT", "budget.sft_share=0"]
    fault = ["env.fault=raise", "env.fault_turn=1", "env_pool.retries=0"]
    with pytest.raises(TrainingError, match=r"none of the 4 episodes .* told to raise"):
        train(tmp_path, "algorithm=rloo", "evaluation.baseline=false", *sft_keys, *fault)


def test_refilled_steps_record_every_episode_that_was_played(tmp_path):
    train(tmp_path, "algorithm=rloo", "rollout.refill=1", "evaluation.baseline=false")
    run = tmp_path / "run"
    played = [episode for path in (run / "trajectories").glob("train-*.jsonl") for episode in lines(path)]
    last = lines(run / "metrics.jsonl")[-1]
    assert last["budget/episodes"] == len(played) == 12 * 2  # 12 games, each played once by a group of 2
    assert last["budget/games"] == 12
    for path in (run / "trajectories").glob("train-*.jsonl"):
        groups = {(episode["group"], episode["task"]["id"]) for episode in lines(path)}
        assert len({group for group, _ in groups}) == len(groups)  # a group is one game
