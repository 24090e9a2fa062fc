"""The reward group as it is composed from YAML."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from meowtea.signature import node_problems
from meowtea.types import Outcome

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = ["sparse", "dense", "dense_progress"]
PENALTIES = ["invalid_command", "long_reply", "per_turn"]


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(overrides=list(overrides)).reward


def test_every_option_is_here():
    assert sorted(path.stem for path in (CONF / "reward").glob("*.yaml")) == sorted(OPTIONS)
    assert sorted(path.stem for path in (CONF / "reward/penalty").glob("*.yaml")) == PENALTIES


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("penalties", [[], ["per_turn"], PENALTIES])
def test_options_with_penalties(episode, option, penalties):
    config = composed(f"+reward={option}", f"reward/penalty=[{','.join(penalties)}]")
    assert node_problems("reward", OmegaConf.to_container(config)) == []
    played = episode(Outcome.WON, scores=(0, 1), progress=[0.0, 0.5, 1.0])
    instantiate(config).score(played)
    assert set(penalties) < set(played.reward_parts)
    earned = {"sparse": 1.0, "dense": 1.0, "dense_progress": 1.2}[option]
    assert sum(played.rewards) == pytest.approx(earned - 2 * 0.01 * ("per_turn" in penalties))


def test_keys_of_terms_can_be_overridden():
    config = composed(
        "+reward=dense_progress",
        "reward/penalty=long_reply",
        "reward.terms.long_reply.max_tokens=9",
        "reward.terms.progress.weight=0.5",
    )
    assert (config.terms.long_reply.max_tokens, config.terms.progress.weight) == (9, 0.5)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["~reward.terms.success"], "reward.terms: must name at least one term"),
        (["reward.terms.success.weight=0"], "reward.terms.success.weight: must be greater than 0, got 0"),
        (["+reward.terms.success.size=1"], "reward.terms.success.size: Success has no such option"),
    ],
)
def test_mistakes_are_found(overrides, problem):
    found = node_problems("reward", OmegaConf.to_container(composed("+reward=sparse", *overrides)))
    assert [line[: len(problem)] for line in found] == [problem]
