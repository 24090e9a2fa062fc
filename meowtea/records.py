"""Files of a run directory: JSON Lines, atomic writes, and how two configs differ."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from meowtea.config import is_neutral
from meowtea.errors import CheckpointError

if TYPE_CHECKING:
    from meowtea.types import Trajectory

log = logging.getLogger(__name__)


class JsonLines:
    """A file with one JSON object per line, each with its step."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append {"step": step, **values}; safe once this returns, whatever happens to the process."""
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def replace(self, keys: Sequence[str], values: Mapping[str, Any]) -> None:
        """Write a row, in place of earlier ones that are the same in these keys."""
        kept = [row for row in self.read() if any(row.get(key) != values.get(key) for key in keys)]
        write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in [*kept, values]))

    def read(self) -> list[dict[str, Any]]:
        """Every whole line; one cut by a crash is left out."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                log.warning("%s: a damaged line is left out", self.path)
        return rows

    def truncate_after(self, step: int) -> None:
        """Keep the lines up to and with `step`."""
        if self.path.exists():
            kept = [json.dumps(row) + "\n" for row in self.read() if row["step"] <= step]
            write_atomically(self.path, "".join(kept))


def write_trajectories(path: Path, trajectories: Iterable[Trajectory]) -> None:
    """One episode per line, with its text, ids, logprobs, rewards and outcome."""
    with writing(path.parent):
        path.parent.mkdir(exist_ok=True)
    write_atomically(path, "".join(json.dumps(trajectory.to_json()) + "\n" for trajectory in trajectories))


def config_differences(before: Any, now: Any) -> list[str]:
    """`key: a there, b now` for every key that can change a result and differs."""
    old, new = (_flat(OmegaConf.to_container(config, resolve=True)) for config in (before, now))
    absent = "nothing"
    return [
        f"{name}: {old.get(name, absent)} there, {new.get(name, absent)} now"
        for name in sorted(old.keys() | new.keys())
        if not is_neutral(name) and old.get(name, absent) != new.get(name, absent)
    ]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A mapping as indented JSON."""
    write_atomically(path, json.dumps(content, indent=1) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Written to a temporary name beside it, then renamed: readers see the old file or the whole new one."""
    partial = path.with_name(f".{path.name}.tmp")
    with writing(path):
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A full or read-only disk is one clear message, and the run goes on from its last checkpoint."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written: {error.strerror}; make room or mend it, then run the same command again"
        ) from error


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    items: Sequence[tuple[Any, Any]] = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    if not items:
        return {prefix: json.dumps(value)}
    return {key: text for name, item in items for key, text in _flat(item, f"{prefix}.{name}".lstrip(".")).items()}


def read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
