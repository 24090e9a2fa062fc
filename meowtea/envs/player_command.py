"""What a player's line may say to a text game: one plain command that acts inside the game's world."""

from __future__ import annotations

import re

MAX_CHARACTERS = 160  # longer lines are not commands; the interpreter's own buffer holds 198 bytes

# First words that act on the interpreter instead of the world: they would end, reset, save, rewind or silence the
# game, write files, or open a question that swallows the next command. Inform's dictionary keeps nine letters.
META_WORDS = frozenset(
    re.findall(
        r"\w+",
        """quit q restart restore save verify version undo oops o script unscript noscript transcript transcrip
        recording replay superbrief superbrie verbose long brief short normal notify pronouns nouns score full fullscore
        fullscor restrict goal amusing print_state print_st tw""",
    )
)


def plain_command(line: str) -> str | None:
    """The single command in `line`, or None if there is none that may be sent to the game.

    Control characters and punctuation become blanks (so no line can forge the marks that the game prints), and of
    several commands joined by '.', ',', ';' or 'then' only the first counts: one turn is one command.
    """
    lines = [part for part in re.split(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+", line) if part.strip()]
    if not lines or len(lines[0].strip()) > MAX_CHARACTERS:
        return None
    words = re.sub(r"[^A-Za-z0-9'.,;\- ]", " ", lines[0])
    words = re.split(r"[.,;]|\bthen\b", words.strip(" .,;"), maxsplit=1, flags=re.IGNORECASE)[0]
    command = " ".join(words.split())
    first_word = re.split(r"[^a-z0-9_]", command.lower(), maxsplit=1)[0]
    if not command or first_word in META_WORDS:
        return None
    return command
