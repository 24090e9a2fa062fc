"""Every shipped YAML file: keys, comments, composition. Names of runs."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from meowtea.check import check
from meowtea.config import GROUPS, KEYS, compose, conf_dir, load_run_config, options, result_name, run_name
from meowtea.errors import ConfigError
from meowtea.signature import locate

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(path.relative_to(conf_dir()).as_posix() for path in conf_dir().rglob("*.yaml"))


def targets(node: object) -> list[dict]:
    """Every mapping with a _target_ in a file."""
    found = []
    if isinstance(node, dict):
        found += [node] if "_target_" in node else []
        found += [inner for value in node.values() for inner in targets(value)]
    elif isinstance(node, list):
        found += [inner for value in node for inner in targets(value)]
    return found


def sub_choices(content: dict) -> set[str]:
    """Keys that a file's defaults list fills (`- kl: none` fills `kl`)."""
    return {key for entry in content.get("defaults", []) if isinstance(entry, dict) for key in entry}


@pytest.mark.parametrize("name", FILES)
def test_keys_of_a_file_are_the_keyword_only_arguments_of_its_target(name):
    content = yaml.safe_load((conf_dir() / name).read_text()) or {}
    for node in targets(content):
        constructor = locate(node["_target_"])
        assert constructor is not None, node["_target_"]
        arguments = inspect.signature(constructor).parameters.values()
        expected = {argument.name for argument in arguments if argument.kind is argument.KEYWORD_ONLY}
        given = {key for key in node if key not in ("_target_", "defaults", "_recursive_", "_convert_", "_partial_")}
        if node is content:
            given |= sub_choices(content) & expected
        assert given == expected


@pytest.mark.parametrize("name", FILES)
def test_every_key_has_a_comment(name):
    for number, line in enumerate((conf_dir() / name).read_text().splitlines(), 1):
        key = re.match(r"^\s*(?:- )?([\w.]+):(?: (?P<value>.*))?$", line.split(" #")[0].rstrip())
        if key is None or line.lstrip().startswith("#"):
            continue
        opens_a_block = not key["value"]
        structural = key[1] in ("_target_", "defaults") or "override" in line or opens_a_block
        in_defaults = re.match(r"^\s+- ", line) is not None and name.count("/") > 0
        assert structural or in_defaults or re.search(r"\s# \S", line), f"{name}:{number}: {line}"


@pytest.mark.parametrize("group", ["experiment", "debug", "ablation"])
def test_every_bundle_of_overrides_composes_and_passes_the_check(group):
    for option in options(group, [conf_dir()]):
        config = compose("train", [f"{group}={option}"])
        check(config, "train", [f"{group}={option}"])


@pytest.mark.parametrize("group", GROUPS["train"])
def test_every_option_of_every_group_passes_the_check(group):
    for option in options(group, [conf_dir()]):
        if "/" in option and group != "env":
            continue  # a sub-group such as algorithm/kl, reached through its parent
        room = ["rollout.max_reply_tokens=64"] if group == "prompt" else []  # for prompts that ask for thinking
        config = compose("train", [f"{group}={option}", *room])
        try:
            check(config)
        except ConfigError as error:
            assert all("must be set" in problem or "_folder" in problem for problem in error.problems), error


@pytest.mark.parametrize("command", KEYS)
def test_the_defaults_of_every_command_pass_the_check(command):
    check(compose(command), command)


def test_no_target_needs_a_heavy_import():
    names = sorted({n["_target_"] for f in FILES for n in targets(yaml.safe_load((conf_dir() / f).read_text()))})
    code = (
        "import sys, json\nfrom meowtea.signature import locate\n"
        f"for name in {names!r}:\n    assert locate(name), name\n"
        "    print(json.dumps([name, [m for m in ('torch', 'transformers', 'vllm', 'wandb', 'textworld') "
        "if m in sys.modules]]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        name, heavy = json.loads(line)
        assert heavy == [], name


def test_a_root_key_added_by_force_is_still_unknown():
    with pytest.raises(ConfigError, match=r"sed: `meowtea train` has no such key"):
        check(compose("train", ["++sed=1"]))


def choices(**changed: str) -> dict[str, str | None]:
    base = {"env": "textworld/w2-o3-q4", "algorithm": "ppo", "reward": "sparse", "budget": "sft60_rl400"}
    return {**base, "model": "smollm2-135m", **changed}


class TestRunName:
    seed = OmegaConf.create({"seed": 1})

    def test_tells_the_choices_and_the_seed(self):
        name = run_name(choices(), [], self.seed)
        assert name == "textworld-w2-o3-q4_ppo_sparse_sft60-rl400_smollm2-135m_s1"

    def test_is_the_same_for_the_same_overrides_in_any_order(self):
        a = run_name(choices(), ["learner.lr=1e-5", "rollout.group_size=4"], self.seed)
        b = run_name(choices(), ["++rollout.group_size=4", "learner.lr=1e-5"], self.seed)
        assert a == b and a.endswith("s1_learner.lr-1e-5_rollout.group-size-4")

    def test_differs_between_overrides_that_change_results(self):
        assert run_name(choices(), ["learner.lr=1e-5"], self.seed) != run_name(
            choices(), ["learner.lr=1e-6"], self.seed
        )

    def test_leaves_out_what_cannot_change_results(self):
        told = ["tracking=wandb", "output_dir=/x", "checkpoint.every=3", "env_pool.workers=8", "env.workers=3"]
        assert run_name(choices(), told, self.seed) == run_name(choices(), [], self.seed)

    def test_an_experiment_stands_for_its_choices(self):
        name = run_name(choices(experiment="quickstart"), ["+experiment=quickstart", "algorithm=rloo"], self.seed)
        assert name == "quickstart_s1_algorithm-rloo"

    def test_long_names_are_cut_but_stay_apart(self):
        long = [f"learner.lr={'1' * 200}{i}" for i in (1, 2)]
        a, b = (run_name(choices(), [word], self.seed) for word in long)
        assert a != b and len(a) < 128

    def test_is_safe_as_a_folder(self):
        name = run_name(choices(), ["prompt.first='a/b c:{x}'"], self.seed)
        assert re.fullmatch(r"[\w.+-]+", name)


def test_the_name_of_a_result_tells_where_and_what():
    config = OmegaConf.create({"seed": 1, "checkpoint": None, "evaluation": {"split": "test"}})
    name = result_name({"env": "textworld/w4-o6-q8", "model": "from_run"}, ["model=from_run"], config)
    assert name == "textworld-w4-o6-q8_test_s1"
    other = result_name({"env": "from_run", "model": "qwen3-8b"}, ["evaluation.tasks=3"], config)
    assert other == "qwen3-8b_test_s1_evaluation.tasks-3"


def test_the_config_of_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match=r"it has no config\.yaml"):
        load_run_config(tmp_path)
