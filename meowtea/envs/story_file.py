"""The two files of a TextWorld game, and whether they are whole."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from meowtea.errors import DataError


@dataclass(frozen=True)
class GameFiles:
    """`story`: the .z8 file that is played; beside it the .json that TextWorld defines the game by."""

    story: Path

    @property
    def definition(self) -> Path:
        return self.story.with_suffix(".json")

    def hashes(self) -> str:
        """SHA-256 of both files, one a line."""
        return "".join(
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.suffix}\n"
            for path in (self.story, self.definition)
        )

    def content_hash(self) -> str:
        """SHA-256 of the definition alone: the story file also holds the day it was compiled."""
        try:
            return hashlib.sha256(self.definition.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(f"game file {self.definition} cannot be read: {error}") from None

    def check(self) -> None:
        """Raises DataError naming the file if it is missing, cut short or altered.

        A story file carries its own length and checksum (Z-Machine Standards Document 1.1, section 11.1).
        """
        try:
            rom = self.story.read_bytes()
            text = self.definition.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"game file {self.story} cannot be used: {error}; a game is a .z8 file and the .json made with it"
            ) from None
        length = int.from_bytes(rom[0x1A:0x1C], "big") * 8
        checksum = int.from_bytes(rom[0x1C:0x1E], "big")
        if rom[:1] != b"\x08" or not 0x40 < length <= len(rom) or sum(rom[0x40:length]) % 0x10000 != checksum:
            raise DataError(f"game file {self.story} is damaged or no .z8 story file; make or copy it again")
        try:
            whole = isinstance(json.loads(text), dict)
        except ValueError:
            whole = False
        if not whole:
            raise DataError(f"game file {self.definition} is damaged: not a JSON object; make or copy it again")
