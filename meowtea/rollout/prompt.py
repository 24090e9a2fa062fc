"""What the policy is told, and how a command is read out of its reply. Text only."""

from __future__ import annotations

import re
from string import Formatter
from typing import Annotated, Any

from annotated_types import Ge

from meowtea.types import Step

FIELDS = {
    "first": {"objective", "observation"},
    "next": {"observation"},
    "hint": {"commands"},
    "action": {"command"},
}


class Prompt:
    """Templates of the messages of an episode.

    system: system message; None leaves it to the model's chat template.
    first, next: user message for the first and every later observation.
    hint: put behind the user message when the environment lists the possible commands; None shows nothing.
    action: what a reply looks like. Text around {command} must be there, else the reply holds no command.
    max_command_chars: longer commands are cut.
    """

    def __init__(
        self,
        *,
        system: str | None,
        first: str,
        next: str,
        hint: str | None,
        action: str,
        max_command_chars: Annotated[int, Ge(1)],
    ):
        self.system, self.max_command_chars = system, max_command_chars
        self._first, self._next, self._hint, self._action = first, next, hint, action
        self._before, self._after = action.split("{command}")

    @staticmethod
    def problems(**keys: Any) -> list[str]:
        """Templates with unknown fields, or without one they need."""
        found = []
        for key, allowed in FIELDS.items():
            template = keys.get(key)
            if not isinstance(template, str):
                continue
            options = ", ".join("{" + name + "}" for name in sorted(allowed))
            try:
                used = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
            except ValueError as error:
                found.append(f"{key}: not a template ({error}); write a brace that is text twice, like {{{{")
                continue
            found += [f"{key}: unknown field {{{name}}}; allowed are {options}" for name in used if name not in allowed]
            needed = {"first": "observation", "next": "observation", "hint": "commands", "action": "command"}[key]
            if used.count(needed) != 1:
                found.append(f"{key}: needs {{{needed}}} exactly once, has it {used.count(needed)} times")
        return found

    def first(self, step: Step) -> str:
        """The user message for what a reset returned."""
        return self._with_hint(
            self._first.format(objective=step.objective or "", observation=step.observation), step.admissible
        )

    def next(self, step: Step) -> str:
        """The user message for what a command led to."""
        return self._with_hint(self._next.format(observation=step.observation), step.admissible)

    def command(self, reply: str) -> str:
        """The command in a reply: its first line, without control characters. Empty if it holds none."""
        _, found, text = reply.rpartition(self._before) if self._before else ("", "x", reply)
        if not found:
            return ""
        if self._after:
            text, found, _ = text.partition(self._after)
            if not found:
                return ""
        lines = [line for line in text.splitlines() if line.strip()]
        # Control and private-use characters, and what stands for undecodable bytes, mean nothing to a game.
        clean = "".join(c for c in lines[0] if c.isprintable() and c != "\ufffd") if lines else ""
        return re.sub(r"\s+", " ", clean).strip()[: self.max_command_chars].strip()

    def reply(self, command: str) -> str:
        """What an expert writes to give this command."""
        return self._action.format(command=command)

    def _with_hint(self, text: str, commands: list[str] | None) -> str:
        if commands is None or self._hint is None:
            return text
        return text + self._hint.format(commands=", ".join(commands))
