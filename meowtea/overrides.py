"""The `key=value` words of a command line: all mistakes at once, then in the form Hydra wants them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meowtea.config import GROUPS, KEYS, options, overrides_from_run
from meowtea.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest allowed word, or nothing."""
    close = difflib.get_close_matches(word, list(allowed), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def prepare(command: str, words: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Hydra overrides for these words. Raises ConfigError with every mistake that shows before composing.

    Three things are made easy: `experiment=x` needs no `+` though a command has no experiment by default; a wrong
    key inside a group is let through, so that `check` can report it together with all other problems; and
    `run=<folder>` makes the run's own config the default of every group.
    """
    parsed, problems = _parse(words)
    if not any(override.key_or_group == "hydra.searchpath" for override in parsed):  # else folders are not all known
        for override in parsed:
            problems += _problems(command, override, folders)
    if problems:
        raise ConfigError(problems)
    ready = [_for_hydra(command, override, folders) for override in parsed]
    run = next((o.value() for o in parsed if o.key_or_group == "run"), None) if "run" in KEYS[command] else None
    if run is None:
        return ready
    if not isinstance(run, str):
        raise ConfigError([f"run: takes one folder, got {run}; call the command once per run"])
    told = {override.key_or_group for override in parsed}
    return [o for o in overrides_from_run(command, run) if o.partition("=")[0] not in told] + ready


def _parse(words: Sequence[str]) -> tuple[list[Override], list[str]]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    parsed: list[Override] = []
    problems: list[str] = []
    for word in words:
        try:
            parsed += parser.parse_overrides([word])
        except HydraException as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            problems.append(f"{word}: not a key=value override ({reason}); put quotes around special characters")
    return parsed, problems


def _problems(command: str, override: Override, folders: Sequence[Path]) -> list[str]:
    name = override.key_or_group
    root = name.split(".")[0].split("/")[0]
    if root == "hydra":
        return []
    if "." not in name and (offered := options(name, folders)):
        return _option_problems(override, offered)
    allowed = [*GROUPS[command], *KEYS[command]]
    if "." not in name and root in GROUPS[command]:
        return [] if isinstance(override.value(), dict) else [f"{name}: is a group of keys, not a value"]
    if root in allowed or override.is_add() or override.is_force_add():
        return []
    extra = [folder.name for place in folders for folder in place.iterdir() if folder.is_dir()]
    return [f"{root}: `meowtea {command}` has no such key{did_you_mean(root, allowed + extra)}"]


def _option_problems(override: Override, offered: Sequence[str]) -> list[str]:
    """Every option named, also inside a sweep, must exist."""
    from hydra.core.override_parser.types import ValueType

    name = override.key_or_group
    if override.is_delete() or override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        return []
    named: list[Any]
    if override.is_sweep_override():
        named = [str(option) for option in override.sweep_string_iterator()]
    else:
        value = override.value()
        named = value if isinstance(value, list) else [value]
    return [
        f"{name}={option}: no such option{did_you_mean(str(option), offered)} ({name} takes {', '.join(offered)})"
        for option in named
        if option is not None and str(option) not in (*offered, "from_run")
    ]


def _for_hydra(command: str, override: Override, folders: Sequence[Path]) -> str:
    line = override.input_line or ""
    plain = not (override.is_delete() or override.is_add() or override.is_force_add())
    name = override.key_or_group
    if not plain or override.is_hydra_override():
        return line
    if "." in name:
        return f"++{line}"
    if name.split("/")[0] not in GROUPS[command] and options(name, folders):
        return f"+{line}"
    return line
