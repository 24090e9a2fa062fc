from pathlib import Path

import pytest

from meowtea.envs import textworld
from meowtea.envs.toy import Toy

SHARED = {
    "max_turns": 30,
    "first_observation": ["objective", "room", "inventory"],
    "next_observation": ["feedback"],
    "hints": "none",
}
SEEDS = {
    "train_seeds": [30001, 30004],
    "demo_seeds": [40001, 40004],
    "validation_seeds": [50001, 50004],
    "test_seeds": [1, 4],
}
KINDS = {
    "custom": (textworld.Custom, {"rooms": 2, "objects": 3, "quest_length": 4, "quest_breadth": 5}),
    "tw-simple": (textworld.TwSimple, {"rewards": "dense", "goal": "none", "test_foods": True}),
    "coin_collector": (textworld.CoinCollector, {"level": 103}),
    "treasure_hunter": (textworld.TreasureHunter, {"level": 5}),
    "cooking": (
        textworld.Cooking,
        {
            "recipe_size": 2,
            "take": 1,
            "locations": 6,
            "closed": True,
            "cook": True,
            "cut": True,
            "small_inventory": False,
            "foods": "by_split",
        },
    ),
}
# One kind in every test run, the others with the slow tests.
SOME_KINDS = [kind if kind == "custom" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]


@pytest.fixture(scope="session")
def games_folder(tmp_path_factory) -> Path:
    """One cache for the whole session: a game takes about a second to make."""
    return tmp_path_factory.mktemp("games")


def make_textworld(kind: str, folder: Path, **changes):
    constructor, own = KINDS[kind]
    return constructor(**{**SHARED, **SEEDS, "cache_dir": str(folder), "workers": 1, **own, **changes})


@pytest.fixture
def textworld_of(games_folder):
    """textworld_of(kind, **changes): an environment whose first two test games exist."""

    def prepared(kind: str, **changes):
        environment = make_textworld(kind, games_folder, **changes)
        environment.prepare(environment.tasks("test", 2))
        return environment

    return prepared


@pytest.fixture
def toy_of():
    """toy_of(**changes): the toy with these keys."""
    keys = {"rooms": 4, "max_turns": 12, "hints": "none", "fault": None, "fault_turn": 1}
    return lambda **changes: Toy(**{**keys, "fault_times": None, "fault_folder": None, **changes})
