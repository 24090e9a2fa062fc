"""Requests on their way through an engine: who shares a step, who is told of failures, what timing may change."""

import asyncio
import random

import pytest
from tiny_rollout import GREEDY, generate_all, make_engine, plain_greedy, prompts

from meowtea.rollout.engine import Sampling


def watch_steps(engine):
    """A list that gets, for each model step, the sessions whose tokens it read."""
    steps = []
    inner = engine._batcher._read

    def read(chosen):
        steps.append([row.request.session for row, _ in chosen])
        inner(chosen)

    engine._batcher._read = read
    return steps


def test_all_who_ask_in_one_tick_share_the_first_step(policy):
    engine = make_engine(policy)
    steps = watch_steps(engine)
    generate_all(engine, prompts(8), GREEDY)
    assert sorted(steps[0]) == sorted(f"s{i}" for i in range(8))
    assert len(steps) == 8


def test_a_request_joins_while_others_are_in_the_making(policy):
    engine = make_engine(policy)
    steps = watch_steps(engine)
    first, second = prompts(2)

    async def run():
        early = asyncio.ensure_future(engine.generate(first, Sampling(temperature=0, max_tokens=60), "early"))
        while len(steps) < 3:
            await asyncio.sleep(0)
        late = await engine.generate(second, GREEDY, "late")
        assert not early.done()
        return late, await early

    late, early = asyncio.run(run())
    assert late.ids == plain_greedy(policy, second, 8)
    assert early.ids == plain_greedy(policy, first, 60)
    assert any({"early", "late"} == set(step) for step in steps)


def test_a_failing_step_is_told_to_everyone_and_the_engine_goes_on(policy):
    engine = make_engine(policy, max_sequences=2)
    inner, calls = engine._batcher._read, []

    def read(chosen):
        calls.append(chosen)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        inner(chosen)

    engine._batcher._read = read
    asked = prompts(5)

    async def run():
        return await asyncio.gather(
            *(engine.generate(p, GREEDY, str(i)) for i, p in enumerate(asked)), return_exceptions=True
        )

    outcomes = asyncio.run(run())
    assert [str(outcome) for outcome in outcomes] == ["out of memory"] * 5
    assert [c.ids for c in generate_all(engine, asked, GREEDY)] == [plain_greedy(policy, p, 8) for p in asked]


def test_cancelled_requests_free_their_place(policy):
    engine = make_engine(policy, max_sequences=1)
    first, second = prompts(2)

    async def run():
        endless = asyncio.ensure_future(engine.generate(first, Sampling(temperature=0, max_tokens=150), "a"))
        waiting = asyncio.ensure_future(engine.generate(first, Sampling(temperature=0, max_tokens=150), "b"))
        await asyncio.sleep(0.05)
        endless.cancel()
        waiting.cancel()
        return await engine.generate(second, GREEDY, "c")

    assert asyncio.run(run()).ids == plain_greedy(policy, second, 8)
    assert engine._batcher.rows == []


def test_an_interrupted_event_loop_leaves_a_working_engine(policy):
    engine = make_engine(policy)
    first, second = prompts(2)

    async def interrupted():
        left_behind = asyncio.ensure_future(engine.generate(first, Sampling(temperature=0, max_tokens=150), "a"))
        await asyncio.sleep(0.05)
        assert not left_behind.done()

    asyncio.run(interrupted())
    assert generate_all(engine, [second], GREEDY)[0].ids == plain_greedy(policy, second, 8)
    assert engine._batcher.rows == []


def play(policy, delay_seed, deterministic, episodes=7, turns=4, max_sequences=4):
    """Episodes of random length with environments of random slowness; returns what each sampled."""
    engine = make_engine(policy, deterministic, max_sequences=max_sequences)
    steps = watch_steps(engine)
    delays = random.Random(delay_seed)

    async def episode(index):
        rng = random.Random(index)
        name, history, record = f"{index:03d}", prompts(1, seed=index)[0], []
        try:
            for turn in range(rng.randint(1, turns)):
                await asyncio.sleep(delays.random() * 0.01)
                sampling = Sampling(temperature=1.0, max_tokens=rng.randint(1, 6), seed=1000 * index + turn)
                completion = await engine.generate(history, sampling, name)
                record.append((completion.ids, completion.logprobs))
                history = history + completion.ids + [rng.randrange(400) for _ in range(5)]
        finally:
            engine.leave(name)
        return record

    async def run():
        for index in range(episodes):
            engine.enter(f"{index:03d}")
        return await asyncio.gather(*(episode(index) for index in range(episodes)))

    return [asyncio.run(run()) for _ in range(2)], steps


def test_deterministic_replies_do_not_depend_on_timing_to_the_last_bit(policy):
    (first, again), steps = play(policy, delay_seed=1, deterministic=True)
    (second, _), other_steps = play(policy, delay_seed=2, deterministic=True)
    assert first == second
    assert first == again  # nor on what was played before
    assert steps == other_steps


def test_without_deterministic_steps_do_depend_on_timing_but_replies_stay_close(policy):
    (first, _), steps = play(policy, delay_seed=1, deterministic=False)
    (second, _), other_steps = play(policy, delay_seed=2, deterministic=False)
    assert steps != other_steps
    for episode, other in zip(first, second, strict=True):
        for (ids, logprobs), (other_ids, other_logprobs) in zip(episode, other, strict=True):
            assert ids == other_ids
            assert logprobs == pytest.approx(other_logprobs, abs=1e-4)


def test_a_deterministic_batch_waits_for_every_episode(policy):
    engine = make_engine(policy, deterministic=True)
    steps = watch_steps(engine)
    first, second = prompts(2)

    async def run():
        for name in ("a", "b", "c"):
            engine.enter(name)
        one = asyncio.ensure_future(engine.generate(first, GREEDY, "b"))
        await asyncio.sleep(0.02)
        two = asyncio.ensure_future(engine.generate(second, GREEDY, "a"))
        await asyncio.sleep(0.02)
        assert steps == []
        engine.leave("c")  # its environment broke: the others need not wait any longer
        return await asyncio.gather(one, two)

    replies = asyncio.run(run())
    assert [c.ids for c in replies] == [plain_greedy(policy, p, 8) for p in (first, second)]
    assert steps[0] == ["a", "b"]
