"""Lines a model may write, against the real parser."""

import pytest

from meowtea.envs.player_command import META_WORDS, plain_command
from meowtea.types import Outcome

pytestmark = pytest.mark.filterwarnings("ignore:Game .* is not fully supported")

REJECTED = [
    "",
    "   ",
    "\n\n",
    "\x00\x01\x1b",
    "***",
    ".",
    "x" * 10_000,
    "open basket " * 900,
    "QUIT",
    "  quit  ",
    "quit. look",
    "tw-extra-infos score",
    "tw-trace-actions off",
    "tw-print state",
    "Restart!",
    "\x07save",
    "トランク",
]


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("open chest", "open chest"),
        ("  open\tchest \r\n", "open chest"),
        ("**open chest**", "open chest"),
        ('"Open chest."', "Open chest"),
        ("open chest\nI will open it now.", "open chest"),
        ("take key. unlock door", "take key"),
        ("take key then unlock door", "take key"),
        ("take key, unlock door; open door", "take key"),
        ("look at king-size bed", "look at king-size bed"),
        ("take pirate's map", "take pirate's map"),
        ("take the key\x1b[0m", "take the key 0m"),
        ("say *** The End ***", "say The End"),
        ("strengthen door", "strengthen door"),
    ],
)
def test_one_plain_command_is_left(line, command):
    assert plain_command(line) == command


@pytest.mark.parametrize("line", REJECTED, ids=lambda line: repr(line[:20]))
def test_other_lines_are_no_command(line):
    assert plain_command(line) is None


def test_rejected_lines_do_no_harm_to_a_real_game(textworld_of):
    environment = textworld_of("custom")
    task = environment.tasks("test", 1)[0]
    env = environment.make_env()
    env.reset(task)
    plan = env.walkthrough()
    undisturbed = [env.step(command) for command in plan]
    for lines in (REJECTED, sorted(META_WORDS), [f"{word} on" for word in sorted(META_WORDS)]):
        env.reset(task)
        steps = []
        for command in plan:
            for line in lines:
                step = env.step(line)
                assert step.valid_command is False and step.outcome is None, line
                assert step.observation == "That's not a verb I recognise."
            steps.append(env.step(command))
        assert steps == undisturbed


def dictionary(rom: bytes) -> list[str]:
    """The words a story file knows (Z-Machine Standards Document 1.1, sections 3 and 13), cut to nine letters."""
    alphabets = ("abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", " \n0123456789.,!?_#'\"/\\-:()")
    address = int.from_bytes(rom[8:10], "big")
    address += 1 + rom[address]
    size, count = rom[address], int.from_bytes(rom[address + 1 : address + 3], "big")
    words = []
    for entry in range(address + 3, address + 3 + size * count, size):
        letters, shift = "", 0
        for place in range(entry, entry + 6, 2):
            pair = int.from_bytes(rom[place : place + 2], "big")
            for code in (pair >> 10 & 31, pair >> 5 & 31, pair & 31):
                if code in (4, 5):
                    shift = code - 3
                else:
                    letters += alphabets[shift][code - 6] if code >= 6 else ""
                    shift = 0
        words.append(letters)
    return words


@pytest.mark.parametrize("kind", ["custom", pytest.param("tw-simple", marks=pytest.mark.slow)])
def test_no_word_of_the_dictionary_ends_or_silences_the_game(kind, textworld_of):
    environment = textworld_of(kind)
    task = environment.tasks("test", 1)[0]
    words = dictionary(environment.files(task).story.read_bytes())
    assert {"quit", "take", "superbrie"} <= set(words) and len(words) > 200
    env = environment.make_env()
    env.reset(task)
    for word in words:
        for line in (word, f"{word} on"):
            assert env.step(line).outcome is None, line
            after = env.step("look")
            assert after.valid_command and after.observation.startswith("-= "), line


def test_a_forged_ending_wins_nothing(textworld_of):
    environment = textworld_of("custom")
    env = environment.make_env()
    env.reset(environment.tasks("test", 1)[0])
    for line in ("say *** The End ***", "say ] *** The End ***", "say <score> 9 </score>", "*** You lost! ***"):
        step = env.step(line)
        assert (step.outcome, step.score, step.progress) == (None, 0.0, 0.0)
    for command in env.walkthrough():
        step = env.step(command)
    assert step.outcome is Outcome.WON
