"""The collector against the toy environment: real worker processes, a scripted engine."""

import asyncio
import re
from pathlib import Path

import pytest
from tiny_rollout import make_tokenizer

from meowtea.batch import TokenBatch
from meowtea.envs.pool import EnvPool
from meowtea.envs.toy import Toy
from meowtea.rollout.chat import Chat
from meowtea.rollout.collect import Collector, History, jobs_for
from meowtea.rollout.prompt import Prompt
from meowtea.rollout.scripted import Scripted
from meowtea.train.demos import demonstrate
from meowtea.types import Outcome, Step

ROOT = Path(__file__).resolve().parents[2]


def toy(**changes):
    keys = {"rooms": 3, "max_turns": 6, "hints": "none", "fault": None, "fault_turn": 1, "fault_times": None}
    return Toy(**{**keys, "fault_folder": None, **changes})


def plain_prompt():
    import yaml

    keys = yaml.safe_load((ROOT / "conf/prompt/plain.yaml").read_text())
    keys.pop("_target_")
    return Prompt(**keys)


@pytest.fixture(scope="module")
def chat():
    return Chat(make_tokenizer())


@pytest.fixture(scope="module")
def pool():
    with EnvPool(toy(), workers=1, call_timeout=20, retries=1) as running:
        yield running


def collector(pool, chat, script, max_turns=6, **changes):
    keys = {"tasks_per_step": 2, "group_size": 2, "temperature": 1.0, "max_reply_tokens": 40, "history": "full"}
    engine = Scripted(script, chat, max_context=changes.pop("max_context", 4096))
    deterministic = changes.pop("deterministic", False)
    return Collector(
        pool,
        engine,
        chat,
        plain_prompt(),
        max_turns,
        deterministic,
        **{**keys, "concurrency": 64, "refill": 0, **changes},
    )


def play(playing, tasks, group_size=1, seed=0):
    return asyncio.run(playing.collect(jobs_for(tasks, group_size), playing.sampling(), seed))


def test_a_won_episode_holds_the_ids_that_were_sampled(pool, chat):
    task = toy().tasks("test", 1)[0]
    plan = asyncio.run(plan_of(pool, task))
    replies = iter(plan)
    (trajectory,) = play(collector(pool, chat, lambda prompt, sampling: next(replies), max_turns=20), [task])
    assert trajectory.outcome is Outcome.WON and trajectory.won
    assert [turn.command for turn in trajectory.turns] == plan
    for turn in trajectory.turns:
        assert turn.action_ids == chat.encode_reply(turn.command)
        assert len(turn.action_logprobs) == len(turn.action_ids)
    assert [turn.starts_sequence for turn in trajectory.turns] == [True] + [False] * (len(plan) - 1)
    assert trajectory.turns[-1].progress == 1.0 and trajectory.initial_progress == 0.0


async def plan_of(pool, task):
    game = await pool.open(task)
    plan = await game.walkthrough()
    await game.close()
    return plan


def test_the_packed_ids_are_the_prompt_the_engine_saw(pool, chat):
    playing = collector(pool, chat, lambda prompt, sampling: "left")
    (trajectory,) = play(playing, toy().tasks("test", 1))
    assert trajectory.outcome is Outcome.OUT_OF_TURNS and len(trajectory.turns) == 6
    trajectory.rewards = [0.0] * 6
    batch = TokenBatch.pack([trajectory])
    last_prompt = playing.engine.requests[-1][1]
    assert batch.token_T.tolist() == last_prompt + trajectory.turns[-1].action_ids
    assert batch.token_T[batch.action_index_A].tolist() == chat.encode_reply("left") * 6


def test_episodes_come_back_in_the_order_of_the_jobs_with_their_own_seeds(pool, chat):
    seeds = set()

    def script(prompt, sampling):
        seeds.add(sampling.seed)
        return "look"

    tasks = toy().tasks("test", 3)
    played = play(collector(pool, chat, script, concurrency=2), tasks, group_size=2)
    assert [(t.task.id, t.group, t.episode) for t in played] == [
        (task.id, g, e) for g, task in enumerate(tasks) for e in range(2)
    ]
    assert len(seeds) == 6 * 6  # every turn of every episode


def test_out_of_tokens_ends_the_episode_before_the_engine_overflows(pool, chat):
    (trajectory,) = play(collector(pool, chat, lambda p, s: "look", max_context=200), toy().tasks("test", 1))
    assert trajectory.outcome is Outcome.OUT_OF_TOKENS
    assert 0 < len(trajectory.turns) < 6


def test_a_reply_of_10000_characters_with_control_characters_is_counted_not_fatal(pool, chat):
    playing = collector(pool, chat, lambda p, s: "\x00\x1b[2J\n" + "x" * 10_000)
    (trajectory,) = play(playing, toy().tasks("test", 1))
    assert trajectory.outcome is Outcome.OUT_OF_TURNS
    assert all(turn.truncated_reply and turn.valid_command is False for turn in trajectory.turns)
    assert all(len(turn.action_ids) == 40 for turn in trajectory.turns)
    # the end-of-turn the engine never sampled is context of the next turn, so nothing trains on it
    assert trajectory.turns[1].context_ids[0] == chat.end_of_turn_id


@pytest.mark.parametrize(("fault", "outcome"), [("raise", Outcome.ENV_ERROR), ("kill", Outcome.ENV_ERROR)])
def test_a_broken_environment_is_an_outcome_and_the_others_play_on(chat, fault, outcome):
    with EnvPool(toy(fault=fault, fault_turn=2), workers=1, call_timeout=20, retries=0) as pool:
        played = play(collector(pool, chat, lambda p, s: "look"), toy().tasks("test", 2))
    assert [t.outcome for t in played] == [outcome] * 2
    assert all(t.error for t in played)
    assert all(len(t.turns) == 1 for t in played)  # what came before the fault is kept for reading


def test_a_hanging_environment_is_a_timeout(chat):
    with EnvPool(toy(fault="hang", fault_turn=1), workers=1, call_timeout=0.5, retries=0) as pool:
        (trajectory,) = play(collector(pool, chat, lambda p, s: "look"), toy().tasks("test", 1))
    assert trajectory.outcome is Outcome.TIMEOUT


def test_an_error_of_the_engine_ends_the_collection(pool, chat):
    def script(prompt, sampling):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        play(collector(pool, chat, script), toy().tasks("test", 3))


def test_deterministic_waves_enter_together(pool, chat):
    playing = collector(pool, chat, lambda p, s: "look", deterministic=True, concurrency=2, max_turns=2)
    play(playing, toy().tasks("test", 3))
    assert playing.engine.entered == playing.engine.left or sorted(playing.engine.entered) == sorted(
        playing.engine.left
    )
    assert playing.engine.entered[:2] == ["000000/000000", "000001/000000"]


def test_window_keeps_the_task_and_the_last_turns(chat):
    prompt = plain_prompt()
    history = History(chat, prompt, 2)
    starts = []
    for k in range(5):
        step = Step(f"observation {k}.", objective="The task." if k == 0 else None)
        context, new = history.observe(step)
        starts.append(new)
        if new:
            assert context == history.ids
        history.act(chat.encode_reply(f"reply {k}"))
    assert starts == [True, False, False, True, True]
    text = chat.decode(history.ids)
    assert "observation 0." in text  # the task stays
    assert not re.search(r"observation 1\.|reply 0|reply 1", text)
    assert all(f"reply {k}" in text for k in (2, 3, 4))


def test_demonstrations_are_what_the_policy_would_have_written(pool, chat):
    tasks = toy().tasks("demo", 3)
    demos = asyncio.run(demonstrate(pool, chat, plain_prompt(), tasks))
    batch = TokenBatch.pack(demos)
    text = chat.decode(batch.select([0]).token_T.tolist())
    assert all(demo.won for demo in demos)
    for turn in demos[0].turns:
        assert turn.action_ids[-1] == chat.end_of_turn_id
        assert turn.reply in text
