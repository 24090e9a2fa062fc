"""One running TextWorld game: the real interpreter, its text made clean, its state read from the game itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from meowtea.envs.player_command import plain_command
from meowtea.envs.story_file import GameFiles
from meowtea.errors import DataError
from meowtea.types import Outcome, Step, Task

if TYPE_CHECKING:
    from textworld.core import Environment, GameState

FirstPart = Literal["objective", "room", "inventory"]
NextPart = Literal["feedback", "objective", "room", "inventory"]

INTERPRETER_SEED = 20251001  # any fixed number: the same commands must give the same text
NOT_UNDERSTOOD = "That's not a verb I recognise."  # the games' own words
STATUS_LINE = re.compile(r">?[ \t]{8,}[^\n]*?-?\d+/-?\d+\s*\Z")
ROOM_HEADING = re.compile(r"^-= .+ =-[ \t]*$", re.MULTILINE)
FAREWELL = re.compile(r"\s*Would you like to RESTART.*\Z", re.DOTALL)


def clean(text: str) -> str:
    """A screen without the status line, the prompt and runs of blank lines."""
    text = STATUS_LINE.sub("", FAREWELL.sub("", text))
    text = re.sub(r"^[ \t]+|[ \t]+$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\n{3,}", "\n\n", text.strip())
    return text.removesuffix(">").rstrip()


class TextWorldGame:
    """Plays one game after another. (The TextEnv protocol.)"""

    def __init__(
        self,
        files: Callable[[Task], GameFiles],
        first: Sequence[FirstPart],
        following: Sequence[NextPart],
        admissible: bool,
    ):
        """files: where the game of a task lies.

        first, following: the parts of the observation after reset and after a command, in order.

        admissible: whether to list the admissible commands, which costs about a quarter of the speed.
        """
        self.files, self.first, self.following, self.admissible = files, first, following, admissible
        self._env: Environment | None = None
        self._state: GameState | None = None
        self._outcome: Outcome | None = None
        self._walkthrough: list[str] = []
        self._policy_length = 0

    def reset(self, task: Task) -> Step:
        """Start the game. Errors: DataError naming a file that is missing, damaged or without a quest."""
        import textworld

        files = self.files(task)
        files.check()
        self.close()
        wanted = textworld.EnvInfos(
            feedback=True,
            won=True,
            lost=True,
            score=True,
            max_score=True,
            objective=True,
            policy_commands=True,
            admissible_commands=self.admissible,
            description="room" in self.following,  # asked of the game after every command: half the speed
            inventory="inventory" in self.following,
        )
        self._env = textworld.start(str(files.story), wanted)
        self._env.seed(INTERPRETER_SEED)
        state = self._env.reset()
        if not state.max_score:
            raise DataError(f"game file {files.story} has no quest: nothing in it can be won")
        self._policy_length = len(state.policy_commands)
        self._walkthrough = list(state.get("extra.walkthrough") or state.policy_commands)
        opening = clean(state.feedback)
        heading = ROOM_HEADING.search(opening)
        objective = state.objective.strip()
        parts = {"objective": objective, "room": opening[heading.start() :] if heading else opening}
        if "inventory" in self.first:
            # Asked as a player would; requesting it as an info would have it printed after every command.
            state = self._env.step("inventory")[0]
            parts["inventory"] = clean(state.feedback)
        self._state, self._outcome = state, None
        step = self._step(self._join(parts, self.first), state, None)
        step.objective = objective
        return step

    def step(self, command: str) -> Step:
        """Play one line. What is no plain command is answered here and never reaches the game."""
        if self._env is None or self._state is None:
            raise RuntimeError("no game is running: call reset first")
        if self._outcome is not None:
            raise RuntimeError(f"the game is over ({self._outcome}): call reset to start another")
        plain = plain_command(command)
        if plain is None:
            parts = self._parts(self._state)
            parts["feedback"] = NOT_UNDERSTOOD
            return self._step(self._join(parts, self.following), self._state, False)
        moves = self._state.moves
        state = self._env.step(plain)[0]
        # The game counts a move for every command that its parser accepts, also for one that achieves nothing.
        valid = state.moves > moves
        self._state = state
        if state.won or state.lost:
            self._outcome = Outcome.WON if state.won else Outcome.LOST
        return self._step(self._join(self._parts(state), self.following), state, valid)

    def walkthrough(self) -> list[str]:
        """The commands the game's maker wrote down as a solution from the start."""
        return list(self._walkthrough)

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = self._state = None

    def _parts(self, state: GameState) -> dict[str, str]:
        return {
            "feedback": clean(state.feedback),
            "objective": state.objective.strip(),
            "room": clean(state.description or ""),
            "inventory": clean(state.inventory or ""),
        }

    def _join(self, parts: dict[str, str], order: Sequence[str]) -> str:
        return "\n\n".join(parts[name] for name in order if parts[name])

    def _step(self, observation: str, state: GameState, valid: bool | None) -> Step:
        return Step(
            observation=observation,
            score=float(state.score or 0),
            max_score=float(state.max_score),
            outcome=self._outcome,
            valid_command=valid,
            admissible=list(state.admissible_commands) if self.admissible else None,
            progress=self._progress(state),
        )

    def _progress(self, state: GameState) -> float | None:
        """Share of the winning policy already done; 0 once no policy is left (lost, or the way is blocked).

        None for a game that came without a policy.
        """
        if state.won:
            return 1.0
        if self._policy_length == 0:
            return None
        if not state.policy_commands:
            return 0.0
        return max(0.0, 1.0 - len(state.policy_commands) / self._policy_length)
