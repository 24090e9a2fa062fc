"""TextWorld as config groups: one class a kind of game, its constructor arguments are the config keys."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from meowtea.envs.story_file import GameFiles
from meowtea.envs.textworld_games import SPLITS, Games, GeneratedGames
from meowtea.errors import DataError
from meowtea.types import Task


@dataclass(kw_only=True)
class Custom(GeneratedGames):
    """`tw-make custom`: w rooms, o objects, a quest of q commands (the paper's w-o-q games)."""

    generator = "custom"

    rooms: Annotated[int, Ge(1)]
    objects: Annotated[int, Ge(1)]
    quest_length: Annotated[int, Ge(1)]
    quest_breadth: Annotated[int, Ge(1)]

    @classmethod
    def problems(cls, **keys: Any) -> list[str]:
        return super().problems(**keys) + too_short(keys, keys["quest_length"], "quest_length")

    def options(self, split: str) -> dict[str, Any]:
        keys = ("rooms", "objects", "quest_length", "quest_breadth")
        return {key: getattr(self, key) for key in keys}

    @property
    def name(self) -> str:
        return f"w{self.rooms}-o{self.objects}-q{self.quest_length}"


@dataclass(kw_only=True)
class TwSimple(GeneratedGames):
    """TextWorld's `tw-simple`: cook a meal in a house of six rooms."""

    generator = "tw-simple"

    rewards: Literal["sparse", "balanced", "dense"]
    goal: Literal["none", "brief", "detailed"]
    test_foods: bool

    def options(self, split: str) -> dict[str, Any]:
        return {"rewards": self.rewards, "goal": self.goal, "test_foods": self.test_foods and split == "test"}

    @property
    def name(self) -> str:
        return f"tw-simple-{self.rewards}-{self.goal}"


@dataclass(kw_only=True)
class CoinCollector(GeneratedGames):
    """TextWorld's `tw-coin_collector`: a chain of rooms, dead ends from level 101 on, a coin at its end."""

    generator = "coin_collector"

    level: Annotated[int, Ge(1), Le(233)]

    @classmethod
    def problems(cls, **keys: Any) -> list[str]:
        length = (keys["level"] - 1) % 100 + 1
        rooms = ((keys["level"] - 1) // 100 + 1) * length
        found = super().problems(**keys) + too_short(keys, length, "level")
        if rooms > 100:
            found.append(f"level: {keys['level']} needs {rooms} rooms; TextWorld allows 100 (levels 1-150 and 201-233)")
        return found

    def options(self, split: str) -> dict[str, Any]:
        return {"level": self.level}

    @property
    def name(self) -> str:
        return f"coin_collector-{self.level}"


@dataclass(kw_only=True)
class TreasureHunter(GeneratedGames):
    """TextWorld's `tw-treasure_hunter`: find the right one of two objects; taking the wrong one loses."""

    generator = "treasure_hunter"

    level: Annotated[int, Ge(1), Le(30)]

    def options(self, split: str) -> dict[str, Any]:
        return {"level": self.level}

    @property
    def name(self) -> str:
        return f"treasure_hunter-{self.level}"


@dataclass(kw_only=True)
class Cooking(GeneratedGames):
    """TextWorld's `tw-cooking` (First TextWorld Problems): follow a recipe; spoiling an ingredient loses."""

    generator = "cooking"

    recipe_size: Annotated[int, Ge(1), Le(5)]
    take: Annotated[int, Ge(0), Le(5)]
    locations: Literal[1, 6, 9, 12]
    closed: bool
    cook: bool
    cut: bool
    small_inventory: bool
    foods: Literal["all", "by_split"]

    @classmethod
    def problems(cls, **keys: Any) -> list[str]:
        found = super().problems(**keys)
        if keys["take"] > keys["recipe_size"]:
            found.append(f"take: {keys['take']} ingredients, but recipe_size is {keys['recipe_size']}; lower take")
        return found

    def options(self, split: str) -> dict[str, Any]:
        by_split = {"train": "train", "demo": "train", "validation": "valid", "test": "test"}
        return {
            "recipe": self.recipe_size,
            "take": self.take,
            "go": self.locations,
            "open": self.closed,
            "cook": self.cook,
            "cut": self.cut,
            "drop": self.small_inventory,
            "foods": by_split[split] if self.foods == "by_split" else None,
        }

    @property
    def name(self) -> str:
        skills = "".join(f"-{key}" for key in ("closed", "cook", "cut", "small_inventory") if getattr(self, key))
        return f"cooking-{self.recipe_size}-take{self.take}-go{self.locations}{skills}"


@dataclass(kw_only=True)
class GameFolder(Games):
    """Existing games: a folder of .z8 files, each with the .json made with it, for every split in use."""

    train_folder: str | None
    demo_folder: str | None
    validation_folder: str | None
    test_folder: str | None

    @classmethod
    def problems(cls, **keys: Any) -> list[str]:
        folders = {f"{split}_folder": keys[f"{split}_folder"] for split in SPLITS}
        given = {name: Path(folder).expanduser() for name, folder in folders.items() if folder is not None}
        found = [f"{name}: {folder} is no folder" for name, folder in given.items() if not folder.is_dir()]
        for name, folder in given.items():
            for other, other_folder in given.items():
                if name < other and folder.resolve() == other_folder.resolve():
                    found.append(f"{name}: is the same folder as {other}; splits must be disjoint")
        return found or ([] if given else ["test_folder: no split has a folder; set env.test_folder=... or another"])

    @property
    def name(self) -> str:
        return "folder"

    def tasks(self, split: str, count: int | None = None) -> list[Task]:
        folder = getattr(self, f"{split}_folder")
        if folder is None:
            raise DataError(f"env.{split}_folder is not set, but {split} games are wanted; set it to a folder of games")
        stories = sorted(Path(folder).expanduser().glob("*.z8"))
        if not stories:
            raise DataError(f"env.{split}_folder: {folder} holds no .z8 files")
        return [
            Task(f"{split}/{story.name}", split, index, {"story": str(story.resolve())})
            for index, story in enumerate(stories[:count])
        ]

    def files(self, task: Task) -> GameFiles:
        return GameFiles(Path(task.spec["story"]))

    def prepare(self, tasks: Sequence[Task], progress: Callable[[int, int], None] | None = None) -> None:
        """Nothing to make; every file is checked. Errors: DataError naming the first damaged one."""
        for done, task in enumerate(tasks, 1):
            self.files(task).check()
            if progress:
                progress(done, len(tasks))

    def content(self) -> dict[str, Any]:
        stories = {
            split: [self.files(task).content_hash() for task in self.tasks(split)]
            for split in SPLITS
            if getattr(self, f"{split}_folder") is not None
        }
        return {"generator": "folder", "games": stories}


def too_short(keys: dict[str, Any], commands: int, because: str) -> list[str]:
    """The problem of a turn limit under which no game can be won."""
    if keys["max_turns"] >= commands:
        return []
    return [f"max_turns: {keys['max_turns']} turns cannot win a game of {commands} commands ({because}); raise it"]
