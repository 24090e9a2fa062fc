"""Messages out of steps, commands out of replies."""

from pathlib import Path

import pytest
import yaml

from meowtea.rollout.prompt import Prompt
from meowtea.types import Step

CONF = Path(__file__).parents[2] / "conf" / "prompt"


def load(name, **changes):
    keys = yaml.safe_load((CONF / f"{name}.yaml").read_text()) | changes
    assert keys.pop("_target_") == "meowtea.rollout.prompt.Prompt"
    assert Prompt.problems(**keys) == []
    return Prompt(**keys)


FIRST = Step(observation="You see {a} key.", objective="Open the door")
HINTED = Step(observation="A room.", admissible=["go north", "look"])


def test_plain_is_the_observation_itself():
    prompt = load("plain")
    assert prompt.system is None
    assert prompt.first(FIRST) == prompt.next(FIRST) == "You see {a} key."
    assert prompt.next(HINTED) == "A room.\n\nPossible commands: go north, look"


def test_paper_names_task_state_and_action():
    prompt = load("paper")
    assert prompt.first(FIRST) == "Your task is: Open the door. state: You see {a} key. your action:"
    assert prompt.next(FIRST) == "state: You see {a} key. your action:"


def test_without_a_hint_template_commands_are_not_shown():
    assert load("plain", hint=None).next(HINTED) == "A room."


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_an_experts_reply_holds_the_command(name):
    prompt = load(name)
    assert prompt.command(prompt.reply("take the red key")) == "take the red key"


@pytest.mark.parametrize(
    ("reply", "command"),
    [
        ("go north", "go north"),
        ("  go   north \nand then look", "go north"),
        ("\n\nlook", "look"),
        ("open\x00 the\x1b[31m door\u200b", "open the[31m door"),
        ("caf\ufffd", "caf"),
        ("日本 é", "日本 é"),
        ("", ""),
        ("\x00\x01", ""),
        ("x" * 10_000, "x" * 200),
    ],
)
def test_commands_are_one_clean_line(reply, command):
    assert load("plain").command(reply) == command


@pytest.mark.parametrize(
    ("reply", "command"),
    [
        ("<think>A key!</think><action>take key</action>", "take key"),
        ("<think>not <action>look</action></think>\n<action> go north </action> bye", "go north"),
        ("take key", ""),
        ("<think>hm</think><action>take key", ""),
        ("<action></action>", ""),
    ],
)
def test_think_takes_the_command_from_its_tags(reply, command):
    assert load("think").command(reply) == command


def test_unknown_and_missing_fields_are_problems():
    keys = {"system": None, "max_command_chars": 9}
    good = {"first": "{observation}", "next": "{observation}", "hint": None, "action": "{command}"}
    assert Prompt.problems(**keys, **good) == []
    assert Prompt.problems(**keys, **(good | {"next": "{objective} {observation}"})) == [
        "next: unknown field {objective}; allowed are {observation}"
    ]
    assert Prompt.problems(**keys, **(good | {"action": "do it", "first": "{observation"})) == [
        "first: not a template (expected '}' before end of string); write a brace that is text twice, like {{",
        "action: needs {command} exactly once, has it 0 times",
    ]
