"""Checkpoints that are whole or not there: written aside, hashed, renamed; verified when read."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Annotated, Any

from annotated_types import Ge

from meowtea.errors import CheckpointError

log = logging.getLogger(__name__)

DISK_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


class CheckpointStore:
    """The checkpoints of one run: `<folder>/step-00000012/{state.pt, policy/, manifest.json}`.

    every: steps between checkpoints. keep_last: newest ones that stay. keep_every: those whose step is a
    multiple of it stay as well.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: Annotated[int, Ge(1)],
        keep_last: Annotated[int, Ge(1)],
        keep_every: Annotated[int, Ge(1)] | None,
    ):
        self.folder, self.every, self.keep_last, self.keep_every = folder, every, keep_last, keep_every

    def due(self, step: int) -> bool:
        """Whether `step` is one that is saved."""
        return step % self.every == 0

    def save(self, step: int, state: dict[str, Any], export: Callable[[Path], None] | None = None) -> Path:
        """Write a checkpoint and return its folder; a crash at any moment leaves it whole or absent.

        state: tensors, numbers, strings and containers of them. export(folder): writes the policy for others to load.
        Raises CheckpointError if it cannot be written; those before it are kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.sweep()
        final = self.folder / f"step-{step:08d}"
        partial = self.folder / f".tmp-{final.name}"
        try:
            partial.mkdir()
            self._write(partial, step, state, export)
        except Exception as error:  # told or passed on below, never swallowed
            shutil.rmtree(partial, ignore_errors=True)
            if _disk_is_full(error):
                raise CheckpointError(self._no_room(step, state)) from error
            if isinstance(error, OSError):
                raise CheckpointError(f"{self.folder}: checkpoint of step {step} cannot be written: {error}") from error
            raise
        if final.exists():
            final.rename(self.folder / f".old-{final.name}")
        partial.rename(final)
        _sync(self.folder)
        self.sweep()
        self._prune(step)
        return final

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Step and state of the newest whole checkpoint; None if none was ever saved. Damaged ones are warned about.
        Raises CheckpointError if there are some and all are damaged. For the process that writes the run."""
        self.sweep()
        for folder in self._whole():
            return _step(folder), _read_state(folder)
        return None

    def latest_policy(self) -> Path | None:
        """Folder of the newest whole exported policy, in Hugging Face format. Errors as in `latest`.

        Changes nothing: another process may be writing the run.
        """
        for folder in self._whole():
            if (folder / "policy").is_dir():
                return folder / "policy"
        return None

    def steps(self) -> list[int]:
        """Steps of the checkpoints on disk, oldest first; damaged ones are not told apart."""
        return sorted(_step(folder) for folder in self.folder.glob("step-*"))

    def sweep(self) -> None:
        """Clear what killed saves left behind, and put back a checkpoint that was being replaced."""
        for old in self.folder.glob(".old-step-*"):
            final = self.folder / old.name.removeprefix(".old-")
            if final.exists():
                shutil.rmtree(old)
            else:
                old.rename(final)
        for partial in self.folder.glob(".tmp-step-*"):
            shutil.rmtree(partial)

    def _write(self, folder: Path, step: int, state: dict[str, Any], export: Callable[[Path], None] | None) -> None:
        files = {"state.pt": _write_state(folder / "state.pt", state)}
        if export is not None:
            (folder / "policy").mkdir()
            export(folder / "policy")
            for path in sorted((folder / "policy").rglob("*")):
                if path.is_file():
                    _sync(path)
                    files[path.relative_to(folder).as_posix()] = _hash(path)
        manifest = folder / "manifest.json"
        manifest.write_text(json.dumps({"step": step, "sha256": files}, indent=1), encoding="utf-8")
        _sync(manifest)
        _sync(folder)

    def _whole(self) -> Iterator[Path]:
        """Whole checkpoints, newest first."""
        folders = sorted(self.folder.glob("step-*"), reverse=True)
        found = False
        for folder in folders:
            damage = _damage(folder)
            if damage is None:
                found = True
                yield folder
            else:
                log.warning("checkpoint %s is damaged (%s); going back to the one before it", folder, damage)
        if folders and not found:
            raise CheckpointError(
                f"{self.folder}: all {len(folders)} checkpoints are damaged; put back a copy, or delete the run's "
                "folder to start over"
            )

    def _prune(self, newest: int) -> None:
        """Drop what keep_last and keep_every do not keep, and later steps: those were damaged, and gone back from."""
        steps = [step for step in self.steps() if step <= newest]
        kept = set(steps[-self.keep_last :])
        if self.keep_every is not None:
            kept |= {step for step in steps if step % self.keep_every == 0}
        for step in set(self.steps()) - kept:
            shutil.rmtree(self.folder / f"step-{step:08d}")

    def _no_room(self, step: int, state: dict[str, Any]) -> str:
        needed, free = _tensor_bytes(state), shutil.disk_usage(self.folder).free
        kept = self.steps()
        previous = f"the checkpoint of step {kept[-1]} is kept" if kept else "there is no earlier checkpoint"
        return (
            f"{self.folder}: no room for the checkpoint of step {step}: it needs at least {needed:,} bytes, {free:,} "
            f"are free; {previous}. Make room (checkpoint.keep_last={self.keep_last}), then run the same command again"
        )


class _HashingFile:
    """A file opened for writing that hashes what passes through, so a large file is not read again.

    error: the OSError a write ran into; torch may report it as something else.
    """

    def __init__(self, file: IO[bytes]):
        self._file, self._sha256 = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            written = self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self._sha256.update(data)
        return written

    def flush(self) -> None:
        self._file.flush()

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


def _disk_is_full(error: Exception) -> bool:
    """Also where safetensors, written in Rust, tells it in words only."""
    if isinstance(error, OSError):
        return error.errno in DISK_FULL
    return any(f"code: {number}," in str(error) or f"os error {number})" in str(error) for number in DISK_FULL)


def _write_state(path: Path, state: dict[str, Any]) -> str:
    import torch

    with path.open("wb") as file:
        hashing = _HashingFile(file)
        try:
            torch.save(state, hashing)  # type: ignore[arg-type]
        except RuntimeError as error:
            if hashing.error is not None:
                raise hashing.error from error
            raise
        file.flush()
        os.fsync(file.fileno())
    return hashing.hexdigest()


def _read_state(folder: Path) -> dict[str, Any]:
    import torch

    # weights_only: a checkpoint from elsewhere must not run code
    state: dict[str, Any] = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    return state


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["sha256"]
        changed = [name for name, digest in files.items() if _hash(folder / name) != digest]
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return f"{changed[0]} is not what was written" if changed else None


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _sync(path: Path) -> None:
    """Have the system put a file or folder on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _tensor_bytes(value: Any) -> int:
    if hasattr(value, "element_size"):
        return int(value.numel() * value.element_size())
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return 0
    return sum(_tensor_bytes(item) for item in value)
