"""Making games: the same every time, whole or absent."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import SOME_KINDS, make_textworld

from meowtea.envs import game_cache
from meowtea.envs.game_cache import STALE_SECONDS, GameCache, Recipe
from meowtea.errors import DataError


@pytest.fixture
def own_copy(textworld_of, tmp_path):
    """An environment with a cache of its own that holds one game."""
    environment = make_textworld("custom", tmp_path)
    recipe = environment.recipe(environment.tasks("test", 1)[0])
    source = textworld_of("custom").cache.files(recipe).story
    target = environment.cache.files(recipe).story
    target.parent.mkdir(parents=True)
    for suffix in (".z8", ".json", ".sha256"):
        target.with_suffix(suffix).write_bytes(source.with_suffix(suffix).read_bytes())
    return environment, recipe, target


def test_a_game_at_hand_is_not_made_again(own_copy):
    environment, recipe, story = own_copy
    assert environment.cache.holds(recipe)
    before = story.stat().st_mtime_ns
    assert environment.cache.prepare([recipe], workers=1) == 0
    assert story.stat().st_mtime_ns == before


def test_a_damaged_game_is_noticed_and_made_again_the_same(own_copy, caplog):
    environment, recipe, story = own_copy
    content, definition = story.read_bytes(), story.with_suffix(".json").read_bytes()
    story.write_bytes(content[:100_000] + bytes(100) + content[100_100:])
    assert not environment.cache.holds(recipe)
    old, new = story.parent / ".making-old", story.parent / ".making-new"  # remains of killed makings, and of none
    old.mkdir()
    new.mkdir()
    past = time.time() - STALE_SECONDS - 60
    os.utime(old, (past, past))

    assert environment.cache.prepare([recipe], workers=8) == 1
    assert "is damaged or incomplete" in caplog.text and str(story) in caplog.text
    assert environment.cache.holds(recipe)
    assert story.with_suffix(".json").read_bytes() == definition
    assert {path.name for path in story.parent.iterdir()} == {"1.z8", "1.json", "1.sha256", ".making-new"}


@pytest.mark.parametrize("suffix", [".z8", ".json", ".sha256"])
def test_a_game_with_a_file_missing_is_absent(own_copy, suffix):
    environment, recipe, story = own_copy
    story.with_suffix(suffix).unlink()
    assert not environment.cache.holds(recipe)


def test_other_options_other_seeds_and_other_kinds_are_other_games():
    cache = GameCache("/somewhere")
    recipes = [
        Recipe("custom", {"rooms": 2}, 1),
        Recipe("custom", {"rooms": 3}, 1),
        Recipe("custom", {"rooms": 2}, 2),
        Recipe("cooking", {"rooms": 2}, 1),
    ]
    assert len({cache.files(recipe).story for recipe in recipes}) == 4
    assert all("textworld-1." in str(cache.files(recipe).story) for recipe in recipes)


@pytest.mark.parametrize("kind", SOME_KINDS)
def test_the_same_seed_gives_the_same_game_whatever_the_hash_seed(kind, textworld_of, tmp_path, monkeypatch):
    made = textworld_of(kind)
    task = made.tasks("test", 1)[0]
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    again = make_textworld(kind, tmp_path)
    again.prepare([task])
    assert again.games_hash([task]) == made.games_hash([task])


def test_impossible_options_are_one_clear_error(tmp_path):
    environment = make_textworld("coin_collector", tmp_path, level=160)
    with pytest.raises(DataError, match=r"cannot make a coin_collector game .*'level': 160.* seed 1: .*100 rooms"):
        environment.prepare(environment.tasks("test", 1))
    assert not list(tmp_path.rglob(".making-*"))


def test_a_making_that_takes_too_long_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(game_cache, "MAKE_SECONDS", 2.0)
    environment = make_textworld("custom", tmp_path, rooms=500)  # would take hours
    with pytest.raises(DataError, match=r"'rooms': 500.* seed 1 failed: no answer within 2 seconds"):
        environment.prepare(environment.tasks("test", 1))


def test_an_unwritable_cache_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    environment = make_textworld("custom", tmp_path / "file")
    with pytest.raises(DataError, match=r"cannot write games to .*MEOWTEA_CACHE"):
        environment.prepare(environment.tasks("test", 1))


def test_the_cache_lies_where_the_environment_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("MEOWTEA_CACHE", str(tmp_path))
    assert GameCache(None).root == tmp_path
    assert GameCache("elsewhere").root.name == "elsewhere"


MAKER = """
import json, sys
from meowtea.envs import game_cache
from meowtea.envs.game_cache import GameCache, Recipe
recipes = [Recipe(**r) for r in json.loads(sys.argv[2])]
GameCache(sys.argv[1]).prepare(recipes, 2, lambda done, total: print(done, flush=True))
"""


@pytest.mark.slow
def test_a_killed_making_leaves_no_half_game_and_no_process(tmp_path):
    environment = make_textworld("custom", tmp_path)
    recipes = [environment.recipe(task) for task in environment.tasks("test", 4)]
    told = json.dumps([vars(recipe) for recipe in recipes])
    making = subprocess.Popen([sys.executable, "-c", MAKER, str(tmp_path), told], stdout=subprocess.PIPE, text=True)
    while making.stdout.readline().strip() != "1":
        assert making.poll() is None
    children = subprocess.run(["pgrep", "-P", str(making.pid)], capture_output=True, text=True).stdout.split()
    assert len(children) == 2
    making.send_signal(signal.SIGKILL)
    making.wait()
    for child in children:
        wait_until_gone(int(child))
    whole = [environment.cache.holds(recipe) for recipe in recipes]
    assert 1 <= sum(whole) < 4
    for recipe, is_whole in zip(recipes, whole, strict=True):
        assert is_whole or not environment.cache.files(recipe).story.with_suffix(".sha256").exists()
    assert environment.cache.prepare(recipes, workers=2) == 4 - sum(whole)
    assert all(environment.cache.holds(recipe) for recipe in recipes)


def wait_until_gone(pid: int, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.05)
