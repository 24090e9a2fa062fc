"""The algorithm group as it is composed from YAML."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from meowtea.signature import node_problems

CONF = Path(__file__).parents[2] / "conf"
ALGORITHMS = ["grpo", "ppo", "reinforce_pp", "rloo"]
PLACEMENTS = ["in_loss", "in_reward", "none"]


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(overrides=list(overrides)).algorithm


def test_every_option_is_here():
    assert sorted(path.stem for path in (CONF / "algorithm").glob("*.yaml")) == ALGORITHMS
    assert sorted(path.stem for path in (CONF / "algorithm/kl").glob("*.yaml")) == PLACEMENTS


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("kl", PLACEMENTS)
def test_every_algorithm_takes_every_kl(name, kl):
    config = composed(f"+algorithm={name}", f"algorithm/kl={kl}")
    assert node_problems("algorithm", OmegaConf.to_container(config)) == []
    algorithm = instantiate(config)
    assert algorithm.needs_reference == (kl != "none")
    assert algorithm.needs_critic == (name == "ppo")
    restored = instantiate(config)
    restored.load_state_dict(algorithm.state_dict())
    assert restored.state_dict() == algorithm.state_dict()


def test_mistakes_are_found():
    config = composed("+algorithm=grpo", "algorithm.kl.estimator=k1", "algorithm.clip_low=0", "algorithm.epochs=0")
    found = node_problems("algorithm", OmegaConf.to_container(config))
    assert sorted(line.split(":")[0] for line in found) == [
        "algorithm.clip_low",
        "algorithm.epochs",
        "algorithm.kl.estimator",
    ]


def test_what_a_config_names_imports_without_torch():
    """`meowtea check` reads signatures; importing torch would make it wait for seconds."""
    modules = [f"meowtea.algorithms.{name}" for name in [*ALGORITHMS, "kl"]]
    modules += [f"meowtea.rewards.{name}" for name in ("compose", "success", "dense", "penalties")]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=CONF.parent, check=False).returncode == 0
