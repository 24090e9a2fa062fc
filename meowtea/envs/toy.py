"""A tiny deterministic text game in plain Python, for fast tests and debug runs, which can also break on demand."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge

from meowtea.types import Outcome, Step, Task

Fault = Literal["raise", "hang", "kill", "differ"]

SPLITS = {"train": 1000, "demo": 2000, "validation": 3000, "test": 0}  # the seed before the first
DOORS = ("red", "blue", "green", "white")


class Toy:
    """A corridor of rooms with a key in one and a door in another. (The Environment protocol.)

    The right door, unlocked with the key, wins; any other door loses. The seed says where things are and which
    door is right. Commands: left, right, take key, open COLOUR door.
    """

    def __init__(
        self,
        *,
        rooms: Annotated[int, Ge(2)],
        max_turns: Annotated[int, Ge(1)],
        hints: Literal["none", "admissible"],
        fault: Fault | None,
        fault_turn: Annotated[int, Ge(1)],
        fault_times: Annotated[int, Ge(0)] | None,
        fault_folder: str | None,
    ):
        self.rooms, self.max_turns, self.hints = rooms, max_turns, hints
        self.fault, self.fault_turn, self.fault_times = fault, fault_turn, fault_times
        self.fault_folder = fault_folder

    @classmethod
    def problems(cls, **keys: Any) -> list[str]:
        if keys["fault"] is not None and keys["fault_times"] is not None and keys["fault_folder"] is None:
            return ["fault_folder: is needed to count the faults of all processes; set it, or fault_times=null"]
        return []

    @property
    def name(self) -> str:
        return f"toy-{self.rooms}"

    def tasks(self, split: str, count: int | None = None) -> list[Task]:
        first = SPLITS[split] + 1
        wanted = 1000 if count is None else min(count, 1000)
        return [
            Task(f"{self.name}/{split}/{seed}", split, seed, {"rooms": self.rooms})
            for seed in range(first, first + wanted)
        ]

    def prepare(self, tasks: Sequence[Task], progress: Callable[[int, int], None] | None = None) -> None:
        """Nothing to make."""
        if progress:
            progress(len(tasks), len(tasks))

    def make_env(self) -> ToyGame:
        return ToyGame(self)

    def games_hash(self, tasks: Sequence[Task]) -> str:
        """SHA-256 over what decides these games."""
        return hashlib.sha256("\n".join(f"{task.id} {task.spec}" for task in tasks).encode()).hexdigest()

    def protocol(self) -> dict[str, Any]:
        card = {"generator": "toy", "rooms": self.rooms, "max_turns": self.max_turns, "hints": self.hints}
        return {**card, "hash": hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()[:16]}

    def break_down(self, turn: int) -> str:
        """Do what `fault` says if it is due; returns what to add to the observation."""
        if self.fault is None or turn != self.fault_turn or not self._take_fault():
            return ""
        if self.fault == "raise":
            raise OSError("the toy was told to raise")
        if self.fault == "hang":
            time.sleep(3600)
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return f" (This is process {os.getpid()}.)"

    def _take_fault(self) -> bool:
        """Faults left? They are counted by files, because a fault may take its process with it."""
        if self.fault_times is None or self.fault_folder is None:
            return True
        for number in range(self.fault_times):
            try:
                os.close(os.open(f"{self.fault_folder}/fault-{number}", os.O_CREAT | os.O_EXCL))
                return True
            except FileExistsError:
                continue
        return False


class ToyGame:
    """One running game. (The TextEnv protocol.)"""

    def __init__(self, toy: Toy):
        self.toy = toy
        self.outcome: Outcome | None = None
        self.place: int | None = None

    def reset(self, task: Task) -> Step:
        dice = random.Random(task.seed)
        self.rooms: int = task.spec["rooms"]
        self.start, self.key_room = dice.sample(range(self.rooms), 2)
        self.door_room = dice.randrange(self.rooms)
        self.door = dice.choice(DOORS)
        self.place, self.has_key, self.turn, self.outcome = self.start, False, 0, None
        objective = f"Find the key and open the {self.door} door."
        self.plan_length = len(self.walkthrough())
        step = self._step(f"{objective} {self._room()}", None)
        step.objective = objective
        return step

    def step(self, command: str) -> Step:
        if self.place is None or self.outcome is not None:
            raise RuntimeError("no game is running: call reset first")
        self.turn += 1
        addition = self.toy.break_down(self.turn)
        valid = command in self._commands()
        if not valid:
            return self._step(f"You cannot do that.{addition}", False)
        if command in ("left", "right"):
            self.place += 1 if command == "right" else -1
            text = self._room()
        elif command == "take key":
            self.has_key, text = True, "You have the key."
        elif not self.has_key:
            text = "It is locked."
        else:
            self.outcome = Outcome.WON if command == f"open {self.door} door" else Outcome.LOST
            text = "You are out!" if self.outcome is Outcome.WON else "You fall into a pit."
        return self._step(text + addition, True)

    def walkthrough(self) -> list[str]:
        """The shortest way from the start."""
        return self._plan(self.start, False)

    def close(self) -> None:
        self.place = None

    def _commands(self) -> list[str]:
        assert self.place is not None
        commands = [name for name, place in (("left", 0), ("right", self.rooms - 1)) if self.place != place]
        if self.place == self.key_room and not self.has_key:
            commands.append("take key")
        if self.place == self.door_room:
            commands += [f"open {colour} door" for colour in DOORS]
        return commands

    def _room(self) -> str:
        text = f"You are in room {self.place} of {self.rooms}."
        if self.place == self.key_room and not self.has_key:
            text += " There is a key."
        if self.place == self.door_room:
            text += f" There are doors: {', '.join(DOORS)}."
        return text

    def _plan(self, place: int, has_key: bool) -> list[str]:
        """The shortest way from there."""

        def walk(start: int, end: int) -> list[str]:
            return (["right"] if end > start else ["left"]) * abs(end - start)

        plan = []
        if not has_key:
            plan, place = [*walk(place, self.key_room), "take key"], self.key_room
        return [*plan, *walk(place, self.door_room), f"open {self.door} door"]

    def _step(self, observation: str, valid: bool | None) -> Step:
        won = self.outcome is Outcome.WON
        left = 0 if won else self.plan_length  # of the plan; all of it once the game is lost
        if self.outcome is None and self.place is not None:
            left = min(left, len(self._plan(self.place, self.has_key)))
        return Step(
            observation=observation,
            score=float(self.has_key) + float(won),
            max_score=2.0,
            outcome=self.outcome,
            valid_command=valid,
            admissible=self._commands() if self.toy.hints == "admissible" else None,
            progress=1.0 - left / self.plan_length,
        )
