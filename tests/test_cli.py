"""The command line: help, exit statuses, one clear message instead of a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from meowtea.cli import COMMANDS
from meowtea.config import conf_dir

HEAVY = ("torch", "transformers", "vllm", "wandb", "textworld", "alfworld", "matplotlib", "numpy")


def loaded_modules(*words: str) -> list[str]:
    """The heavy modules that a command line imports before it ends."""
    code = (
        "import json, sys\n"
        f"sys.argv = ['meowtea', *{list(words)!r}]\n"
        "from meowtea.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print('\\n' + json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    )
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "words", [["--help"], ["train", "--help"], ["eval", "--help"], ["train", "--help", "learner"], ["check", "seed=2"]]
)
def test_help_and_check_import_nothing_heavy(words):
    assert loaded_modules(*words) == []


def test_help_lists_every_command(meowtea):
    done = meowtea("--help")
    assert done.returncode == 0
    assert all(f"  {command} " in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_help_lists_groups_options_and_keys(meowtea, command):
    done = meowtea(command, "--help")
    assert done.returncode == 0
    assert "w2-o3-q4" in done.stdout and "[textworld/w2-o3-q4]" in done.stdout
    assert "output_dir" in done.stdout


def test_train_help_names_every_option_of_every_group(meowtea):
    told = meowtea("train", "--help").stdout.split()
    for group in ("model", "reward", "algorithm", "budget", "engine", "tracking", "experiment", "debug"):
        for path in (conf_dir() / group).glob("*.yaml"):
            assert path.stem in told, f"{group}={path.stem}"


def test_help_on_an_option_shows_its_keys_with_comments(meowtea):
    done = meowtea("train", "--help", "budget=sft60_rl400")
    assert "demo_cost: 10      # cost units of one expert demonstration" in done.stdout


def test_cfg_job_prints_the_composed_config(meowtea):
    done = meowtea("train", "--cfg", "job", "engine=transformers", "learner.lr=0.5")
    assert done.returncode == 0
    assert "  lr: 0.5" in done.stdout and "hydra" not in done.stdout


def test_overrides_may_stand_on_both_sides_of_a_flag(meowtea):
    done = meowtea("train", "engine=transformers", "--cfg", "job", "seed=7")
    assert "seed: 7" in done.stdout


def test_check_says_that_a_config_is_fine(meowtea):
    done = meowtea("check", "engine=transformers", "seed=3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("config is fine")
    assert "s3" in done.stdout


def test_an_experiment_needs_no_plus_sign(meowtea):
    with_plus, without = (meowtea("train", "--cfg", "job", f"{sign}debug=tiny") for sign in ("+", ""))
    assert with_plus.returncode == without.returncode == 0
    assert with_plus.stdout == without.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trian"], "no command 'trian'; did you mean 'train'?"),
        (["check", "env=textworld/w2-o3-q5"], "env=textworld/w2-o3-q5: no such option; did you mean"),
        (["check", "algoritm=ppo"], "algoritm: `meowtea train` has no such key; did you mean 'algorithm'?"),
        (["check", "env.no_such=1", "engine=transformers"], "env.no_such: Custom has no such option"),
        (["check", "seed=1,2", "engine=transformers"], "Ambiguous value"),
        (["check", "learner"], "learner: not a key=value override"),
        (["check", "learner.lr=[1"], "learner.lr=[1: not a key=value override"),
        (["check", "learner=5"], "learner=5: no such option"),
        (["check", "--config-dir", "nowhere"], "there is no folder 'nowhere'"),
        (["eval", "run=nowhere"], "run: 'nowhere' is not the folder of a run"),
        (["train", "--help", "learnr"], "learnr: no such group"),
    ],
)
def test_mistakes_get_one_message_and_no_traceback(meowtea, words, told):
    done = meowtea(*words)
    assert done.returncode in (1, 2)
    assert told in done.stderr
    assert "Traceback" not in done.stderr and "Error executing job" not in done.stderr


def test_all_mistakes_in_options_are_told_at_once(meowtea):
    done = meowtea("check", "env=foo", "model=bar", "sed=1")
    assert "the config has 3 problem(s)" in done.stderr


def test_a_sweep_runs_every_job_and_reports_the_bad_ones(meowtea):
    done = meowtea("check", "--multirun", "debug=tiny", "rollout.group_size=1,2")
    assert done.returncode == 1
    assert done.stdout.count("config is fine") == 1
    assert "algorithm=rloo needs rollout.group_size >= 2, got 1" in done.stderr


def test_hydra_leaves_no_folder_of_its_own(meowtea, tmp_path):
    meowtea("check", "engine=transformers")
    assert list(tmp_path.iterdir()) == []


def test_users_add_their_own_files_with_config_dir(meowtea, tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "x.yaml").write_text("# @package _global_\nseed: 77\n")
    done = meowtea("train", "--cfg", "job", "--config-dir", "mine", "experiment=x")
    assert done.returncode == 0, done.stderr
    assert "seed: 77" in done.stdout


def test_an_unknown_root_key_in_a_file_is_rejected(meowtea, tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "x.yaml").write_text("# @package _global_\nsed: 77\n")
    done = meowtea("check", "--config-dir", "mine", "experiment=x")
    assert done.returncode == 1
    assert "'sed'" in done.stderr and "experiment/x" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("meowtea ev", ["eval"]),
        ("meowtea train algorithm=r", ["algorithm=reinforce_pp", "algorithm=rloo"]),
        ("meowtea train engine=transformers budget.demo_c", ["budget.demo_cost="]),
    ],
)
def test_shell_completion(meowtea, line, offered):
    done = meowtea("-sc", "query=bash", COMP_LINE=line)
    assert done.stdout.split() == offered


def test_eval_takes_the_config_of_a_run_unless_told_otherwise(meowtea, tmp_path):
    composed = meowtea("train", "--cfg", "job", "debug=tiny", "rollout.group_size=3", "seed=9")
    (tmp_path / "outputs" / "r").mkdir(parents=True)
    (tmp_path / "outputs" / "r" / "config.yaml").write_text(composed.stdout)
    plain = meowtea("eval", "--cfg", "job", "run=outputs/r")
    assert plain.returncode == 0, plain.stderr
    assert "_target_: meowtea.envs.toy.Toy" in plain.stdout and "group_size: 3" in plain.stdout
    assert "seed: 9" in plain.stdout
    other = meowtea("eval", "--cfg", "job", "run=outputs/r", "env=textworld/w4-o6-q8", "evaluation.temperature=0")
    assert "Toy" not in other.stdout and "quest_length: 8" in other.stdout
    assert "  temperature: 0\n" in other.stdout and "group_size: 3" in other.stdout


@pytest.mark.slow
@pytest.mark.slow
def test_a_training_sweep_makes_a_run_folder_for_each_job(meowtea, tmp_path):
    words = ("train", "--multirun", "debug=tiny", "evaluation.baseline=false", "seed=1,2")
    done = meowtea(*words, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    folders = sorted(path for path in (tmp_path / "outputs").iterdir() if path.name != ".multirun")
    assert [path.name.count(f"_s{seed}_") for seed, path in enumerate(folders, 1)] == [1, 1]
    assert all(json.loads((folder / "state.json").read_text())["finished"] for folder in folders)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]


@pytest.mark.slow
def test_a_config_error_while_training_is_one_message(meowtea):
    done = meowtea("train", "debug=tiny", "model.name=./nowhere")
    assert done.returncode == 1
    assert done.stderr.strip() == "ModelError: model.name: the folder './nowhere' does not exist"
