"""Real TextWorld games of every kind."""

import random
import shutil

import pytest
from conftest import KINDS, SEEDS, SHARED, SOME_KINDS, make_textworld
from environment_contract import EnvironmentContract

from meowtea.envs.story_file import GameFiles
from meowtea.envs.textworld import CoinCollector, Cooking, Custom, GameFolder
from meowtea.envs.textworld_game import clean
from meowtea.errors import DataError
from meowtea.types import Outcome

pytestmark = pytest.mark.filterwarnings("ignore:Game .* is not fully supported")  # jericho knows commercial games only


@pytest.mark.parametrize("kind", SOME_KINDS, scope="class")
class TestGeneratedGames(EnvironmentContract):
    @pytest.fixture
    def environment(self, kind, textworld_of):
        return textworld_of(kind)


@pytest.fixture
def game_folder(tmp_path, textworld_of):
    """A user's folder: two games with names of their own."""
    custom = textworld_of("custom")
    for name, task in zip(("alpha", "beta"), custom.tasks("test", 2), strict=True):
        files = custom.files(task)
        shutil.copy(files.story, tmp_path / f"{name}.z8")
        shutil.copy(files.definition, tmp_path / f"{name}.json")
    return tmp_path


def folder_environment(**changes):
    folders = {"train_folder": None, "demo_folder": None, "validation_folder": None, "test_folder": None}
    return GameFolder(**{**SHARED, **folders, **changes})


class TestGameFolder(EnvironmentContract):
    @pytest.fixture
    def environment(self, game_folder, tmp_path_factory):
        other = tmp_path_factory.mktemp("train")
        for file in game_folder.iterdir():
            shutil.copy(file, other / f"train-{file.name}")
        return folder_environment(test_folder=str(game_folder), train_folder=str(other))


def test_observation_parts_stand_in_the_order_of_the_keys(textworld_of):
    default = textworld_of("custom")
    task = default.tasks("test", 2)[1]
    first = default.make_env().reset(task)
    assert first.observation.startswith(first.objective)
    assert first.observation.endswith("You are carrying nothing.")
    assert "-= Kitchen =-" in first.observation

    turned = textworld_of("custom", first_observation=["inventory", "objective"], next_observation=["room", "feedback"])
    env = turned.make_env()
    assert env.reset(task).observation == f"You are carrying nothing.\n\n{first.objective}"
    step = env.step("inventory")
    assert step.observation.startswith("-= Kitchen =-") and step.observation.endswith("You are carrying nothing.")
    rejected = env.step("xyzzy")
    assert rejected.observation.startswith("-= Kitchen =-") and "recognise" in rejected.observation


@pytest.mark.parametrize("kind", SOME_KINDS)
def test_no_status_line_banner_prompt_or_trace_is_shown(kind, textworld_of):
    environment = textworld_of(kind, hints="admissible", max_turns=50)
    dice = random.Random(0)
    for task in environment.tasks("test", 2):
        env = environment.make_env()
        step = env.reset(task)
        texts = [step.observation]
        for _ in range(40):
            step = env.step(dice.choice([*step.admissible, "xyzzy", "take", ""]))
            texts.append(step.observation)
            if step.outcome:
                break
        for text in texts:
            assert text.strip()
            assert "$$" not in text and "RESTART" not in text and "Serial number" not in text
            assert not text.endswith(">") and "succeeded]" not in text and "<score>" not in text
            assert not any(line.rstrip().endswith(("=-0/1", "=-0/2")) or "      " in line for line in text.splitlines())


def test_clean_strips_a_status_line_with_any_score():
    screen = "\nTaken.\n\n\n\n>                                        -= Living Room =--1/12"
    assert clean(screen) == "Taken."


@pytest.mark.slow
def test_taking_the_wrong_treasure_loses(textworld_of):
    environment = textworld_of("treasure_hunter", hints="admissible")
    outcomes, dice = set(), random.Random(1)
    for task in environment.tasks("test", 2):
        env = environment.make_env()
        for _ in range(30):
            step = env.reset(task)
            initial, right = step.score, env.walkthrough()[-1]
            for _ in range(60):
                choices = [c for c in step.admissible if c.startswith(("go", "take", "open")) and c != right]
                step = env.step(dice.choice(choices))
                if step.outcome:
                    break
            if step.outcome:
                assert step.outcome is Outcome.LOST and step.score == initial and step.progress == 0.0
                outcomes.add(step.outcome)
                break
    assert outcomes == {Outcome.LOST}


def test_valid_command_is_what_the_parser_accepted(textworld_of):
    environment = textworld_of("custom")
    env = environment.make_env()
    env.reset(environment.tasks("test", 2)[1])  # a kitchen, the way out is east
    expected = {
        "look": True,
        "Look": True,
        "go east": True,
        "open basket": True,
        "open basket ": True,  # already open: understood, but useless
        "take banana": False,
        "latchkey": False,
        "open": False,  # "What do you want to open?": the next line may answer
        "pour tea into basket": False,
        "inventory": True,
        "": False,
    }
    assert {command: env.step(command).valid_command for command in expected} == expected


def test_progress_falls_when_the_way_back_must_be_walked_and_is_zero_when_blocked(textworld_of):
    environment = textworld_of("custom")
    task = environment.tasks("test", 2)[1]
    env = environment.make_env()
    env.reset(task)
    there = env.step("go east").progress
    back = env.step("go west").progress
    assert there == 0.25 and back == 0.0


def test_overlapping_seed_ranges_are_config_problems():
    own = {**SHARED, **SEEDS, "cache_dir": None, "workers": 1, **KINDS["custom"][1]}
    assert Custom.problems(**own) == []
    found = Custom.problems(**{**own, "test_seeds": [30004, 30010]})
    assert found == ["test_seeds: shares seeds 30004 to 30004 with train_seeds; splits must be disjoint"]
    found = Custom.problems(**{**own, "test_seeds": [4, 1]})
    assert len(found) == 1 and found[0].startswith("test_seeds: the first seed must not be above the last")


def test_games_that_cannot_be_are_config_problems():
    own = {**SHARED, **SEEDS, "cache_dir": None, "workers": 1}
    custom = Custom.problems(**{**own, **KINDS["custom"][1], "max_turns": 3})
    assert custom == ["max_turns: 3 turns cannot win a game of 4 commands (quest_length); raise it"]
    coins = CoinCollector.problems(**{**own, "level": 160, "max_turns": 100})
    assert len(coins) == 1 and "120 rooms" in coins[0]
    cooking = Cooking.problems(**{**own, **KINDS["cooking"][1], "take": 3})
    assert cooking == ["take: 3 ingredients, but recipe_size is 2; lower take"]


def test_test_foods_are_seen_in_the_test_split_only(tmp_path):
    environment = make_textworld("tw-simple", tmp_path)
    specs = {split: environment.tasks(split, 1)[0].spec["options"] for split in ("train", "demo", "test")}
    assert {split: options["test_foods"] for split, options in specs.items()} == {
        "train": False,
        "demo": False,
        "test": True,
    }
    cooking = make_textworld("cooking", tmp_path)
    assert [cooking.options(split)["foods"] for split in ("train", "demo", "validation", "test")] == [
        "train",
        "train",
        "valid",
        "test",
    ]


def test_problems_of_a_folder(game_folder):
    missing = GameFolder.problems(**vars(folder_environment(test_folder=str(game_folder / "nowhere"))))
    assert missing == [f"test_folder: {game_folder / 'nowhere'} is no folder"]
    twice = folder_environment(test_folder=str(game_folder), train_folder=f"{game_folder}/../{game_folder.name}")
    assert "same folder" in GameFolder.problems(**vars(twice))[0]
    assert GameFolder.problems(**vars(folder_environment()))[0].startswith("test_folder: no split has a folder")
    with pytest.raises(DataError, match=r"env\.demo_folder is not set"):
        folder_environment(test_folder=str(game_folder)).tasks("demo", 1)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "no definition", "bad definition", "not a game"])
def test_a_damaged_game_of_a_folder_is_one_clear_error(game_folder, damage):
    environment = folder_environment(test_folder=str(game_folder))
    task = environment.tasks("test", 2)[1]
    story, definition = game_folder / "beta.z8", game_folder / "beta.json"
    content = story.read_bytes()
    if damage == "cut":
        story.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        story.write_bytes(content[:200_000] + bytes([content[200_000] ^ 255]) + content[200_001:])
    elif damage == "empty":
        story.write_bytes(b"")
    elif damage == "no definition":
        definition.unlink()
    elif damage == "bad definition":
        definition.write_text(definition.read_text()[:1000])
    else:
        story.write_text("hello " * 1000)
    for use in (lambda: environment.prepare([task]), lambda: environment.make_env().reset(task)):
        with pytest.raises(DataError, match=r"beta\.(z8|json)"):
            use()


@pytest.mark.slow
def test_a_game_without_a_quest_is_refused(tmp_path):
    import textworld

    maker = textworld.GameMaker()
    maker.set_player(maker.new_room("cellar"))
    story = maker.compile(str(tmp_path / "idle.z8"))
    environment = folder_environment(test_folder=str(tmp_path))
    with pytest.raises(DataError, match=r"idle\.z8 has no quest"):
        environment.make_env().reset(environment.tasks("test")[0])
    assert story.endswith("idle.z8")


def test_files_of_an_undamaged_game_pass(textworld_of):
    environment = textworld_of("custom")
    files = environment.files(environment.tasks("test", 1)[0])
    assert isinstance(files, GameFiles)
    files.check()
