"""Demonstrations from files; those played in an environment are tested with the collector."""

import json

import pytest

from meowtea.batch import TokenBatch
from meowtea.errors import DataError
from meowtea.learner.model import Model
from meowtea.rollout.chat import Chat
from meowtea.train.demos import read_demonstrations


@pytest.fixture(scope="module")
def chat():
    model = Model(name="tiny-random", source="random", revision=None, dtype="fp32", device="cpu")
    return Chat(model.tokenizer())


def talk(*contents, system=None):
    messages = [{"role": "user" if k % 2 == 0 else "assistant", "content": c} for k, c in enumerate(contents)]
    return ([{"role": "system", "content": system}] if system else []) + messages


def write(folder, *rows, name="demos.jsonl"):
    path = folder / name
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps({"messages": row}) for row in rows))
    return path


def test_assistant_messages_become_actions_and_nothing_else(tmp_path, chat):
    write(tmp_path, talk("You see a door.", "open door", "It is open.", "go north", system="Play."), name="a.jsonl")
    write(tmp_path, talk("Hello.", "look"), "", name="b.jsonl")
    demos = read_demonstrations(tmp_path, chat)
    assert [len(demo.turns) for demo in demos] == [2, 1]
    batch = TokenBatch.pack(demos)
    actions = [i for text in ("open door", "go north", "look") for i in chat.encode_reply(text)]
    assert batch.token_T[batch.action_index_A].tolist() == actions
    whole = chat.encode(talk("You see a door.", "open door", "It is open.", system="Play."))
    assert batch.token_T.tolist()[: len(whole)] == whole


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{broken", r"demos.jsonl:1: not a JSON object with 'messages'"),
        ('{"text": "hello"}', r"demos.jsonl:1: not a JSON object with 'messages'"),
        ('{"messages": "hello"}', "must be a list of objects"),
        ('{"messages": [{"role": "user", "content": 3}]}', "must be a list of objects"),
        ('{"messages": []}', "roles are"),
        (talk("one", "two", "three"), "roles are"),
        ([{"role": "tool", "content": "x"}, {"role": "assistant", "content": "y"}], "roles are"),
    ],
)
def test_a_bad_line_is_named_with_its_fault(tmp_path, chat, row, message):
    with pytest.raises(DataError, match=message):
        read_demonstrations(write(tmp_path, row), chat)


def test_a_missing_or_empty_source_is_one_clear_message(tmp_path, chat):
    with pytest.raises(DataError, match="does not exist"):
        read_demonstrations(tmp_path / "nowhere.jsonl", chat)
    with pytest.raises(DataError, match="holds no demonstration"):
        read_demonstrations(tmp_path, chat)
