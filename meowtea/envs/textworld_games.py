"""What the kinds of TextWorld games share: how games are shown, and how seeds become tasks.

Annotations here are real objects: the config check reads ranges from the constructors' signatures.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, Len

from meowtea.envs.game_cache import GameCache, Recipe
from meowtea.envs.story_file import GameFiles
from meowtea.envs.textworld_game import FirstPart, NextPart, TextWorldGame
from meowtea.types import Task

Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
SeedRange = Annotated[list[Seed], Len(2, 2)]
SPLITS = ("train", "demo", "validation", "test")


@dataclass(kw_only=True)
class Games(ABC):
    """What all kinds share: how a game is shown, how long it may last. (The Environment protocol.)"""

    max_turns: Annotated[int, Ge(1)]
    first_observation: Annotated[list[FirstPart], Len(1)]
    next_observation: Annotated[list[NextPart], Len(1)]
    hints: Literal["none", "admissible"]

    def __post_init__(self) -> None:
        # plain lists, whatever the config library hands over: workers get copies and must not need that library
        self.first_observation = list(self.first_observation)
        self.next_observation = list(self.next_observation)

    @property
    @abstractmethod
    def name(self) -> str:
        """Names these games in task ids and tables."""

    @abstractmethod
    def tasks(self, split: str, count: int | None = None) -> list[Task]:
        """The first `count` tasks of a split, or as many as there are; always in the same order."""

    @abstractmethod
    def files(self, task: Task) -> GameFiles:
        """Where the game of a task lies."""

    @abstractmethod
    def content(self) -> dict[str, Any]:
        """What decides which games there are: a part of protocol()."""

    def make_env(self) -> TextWorldGame:
        return TextWorldGame(self.files, self.first_observation, self.next_observation, self.hints == "admissible")

    def games_hash(self, tasks: Sequence[Task]) -> str:
        """SHA-256 over the content of these tasks' games, in order. They must have been prepared."""
        digest = hashlib.sha256()
        for task in tasks:
            digest.update(f"{task.id} {self.files(task).content_hash()}\n".encode())
        return digest.hexdigest()

    def protocol(self) -> dict[str, Any]:
        """Everything a result depends on here, and a hash of it."""
        card = {
            **self.content(),
            "max_turns": self.max_turns,
            "first_observation": self.first_observation,
            "next_observation": self.next_observation,
            "hints": self.hints,
            "textworld": version("textworld"),
        }
        return {**card, "hash": hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()[:16]}


@dataclass(kw_only=True)
class GeneratedGames(Games):
    """Games made from seeds, where every split is a range of seeds, both ends included."""

    generator: ClassVar[str]

    train_seeds: SeedRange
    demo_seeds: SeedRange
    validation_seeds: SeedRange
    test_seeds: SeedRange
    cache_dir: str | None
    workers: Annotated[int, Ge(1)]

    def __post_init__(self) -> None:
        super().__post_init__()
        for split in SPLITS:
            setattr(self, f"{split}_seeds", list(getattr(self, f"{split}_seeds")))
        self.cache = GameCache(self.cache_dir)

    @classmethod
    def problems(cls, **keys: Any) -> list[str]:
        """Seed ranges must run upwards and share no seed: a game met in training says nothing in a test."""
        found = []
        ranges = {f"{split}_seeds": keys[f"{split}_seeds"] for split in SPLITS}
        for name, (first, last) in ranges.items():
            if first > last:
                found.append(f"{name}: the first seed must not be above the last, got [{first}, {last}]")
            for other, (other_first, other_last) in ranges.items():
                if name < other and first <= other_last and other_first <= last:
                    shared = f"{max(first, other_first)} to {min(last, other_last)}"
                    found.append(f"{name}: shares seeds {shared} with {other}; splits must be disjoint")
        return found

    @abstractmethod
    def options(self, split: str) -> dict[str, Any]:
        """The generator's options for games of a split."""

    def tasks(self, split: str, count: int | None = None) -> list[Task]:
        first, last = getattr(self, f"{split}_seeds")
        wanted = last + 1 if count is None else min(last + 1, first + count)
        spec = {"generator": self.generator, "options": self.options(split)}
        return [Task(f"{self.name}/{split}/{seed}", split, seed, spec) for seed in range(first, wanted)]

    def recipe(self, task: Task) -> Recipe:
        return Recipe(task.spec["generator"], task.spec["options"], task.seed)

    def files(self, task: Task) -> GameFiles:
        return self.cache.files(self.recipe(task))

    def prepare(self, tasks: Sequence[Task], progress: Callable[[int, int], None] | None = None) -> None:
        self.cache.prepare([self.recipe(task) for task in tasks], self.workers, progress)

    def content(self) -> dict[str, Any]:
        options = {split: self.options(split) for split in SPLITS}
        seeds = {split: getattr(self, f"{split}_seeds") for split in SPLITS}
        return {"generator": self.generator, "options": options, "seeds": seeds}
