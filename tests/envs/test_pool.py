"""The pool against environments that die, hang, raise and contradict themselves."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from meowtea.envs.pool import EnvFailure, EnvPool
from meowtea.envs.validate import validate
from meowtea.types import Outcome, Step

pytestmark = pytest.mark.filterwarnings("ignore:Game .* is not fully supported")  # jericho knows commercial games only


@pytest.fixture
def pool_of():
    """pool_of(environment, **changes): a pool that is closed after the test."""
    pools = []

    def make(environment, **changes) -> EnvPool:
        pools.append(EnvPool(environment, **{"workers": 1, "call_timeout": 30.0, "retries": 2, **changes}))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


async def play(pool: EnvPool, task, commands=None) -> list[Step]:
    game = await pool.open(task)
    try:
        plan = await game.walkthrough() if commands is None else commands
        return [game.first, *[await game.step(command) for command in plan]]
    finally:
        await game.close()


def played_here(environment, task) -> list[Step]:
    env = environment.make_env()
    first = env.reset(task)
    return [first, *[env.step(command) for command in env.walkthrough()]]


def play_all(pool, tasks):
    async def run():
        return await asyncio.gather(*(play(pool, task) for task in tasks))

    return asyncio.run(run())


def test_many_games_at_once_give_what_one_process_gives(toy_of, pool_of):
    toy = toy_of(hints="admissible")
    tasks = toy.tasks("train", 40)
    pool = pool_of(toy, workers=2)
    expected = [played_here(toy, task) for task in tasks]
    assert play_all(pool, tasks) == expected
    assert play_all(pool, tasks) == expected  # and on another event loop
    assert set(pool.stats.values()) == {0}


@pytest.mark.parametrize("fault", ["raise", "hang", "kill"])
def test_a_passing_fault_is_repaired_and_leaves_no_trace(fault, toy_of, pool_of, tmp_path):
    toy = toy_of(fault=fault, fault_turn=2, fault_times=2, fault_folder=str(tmp_path))
    tasks = toy.tasks("train", 6)
    pool = pool_of(toy, call_timeout=1.0)
    assert play_all(pool, tasks) == [played_here(toy_of(), task) for task in tasks]
    assert pool.stats["failed"] == 0 and pool.stats["retried"] == 2
    assert pool.stats["restarts"] == (0 if fault == "raise" else 2)
    assert pool.stats["replays"] >= 2


@pytest.mark.parametrize(
    ("fault", "outcome", "told"),
    [
        ("raise", Outcome.ENV_ERROR, r"OSError: the toy was told to raise \(2 attempts\)"),
        ("hang", Outcome.TIMEOUT, r"no answer within 0.5 seconds \(2 attempts\)"),
        ("kill", Outcome.ENV_ERROR, r"the worker process died \(2 attempts\)"),
    ],
)
def test_a_lasting_fault_is_a_failure_with_its_outcome(fault, outcome, told, toy_of, pool_of):
    toy = toy_of(fault=fault, fault_turn=2)
    task = toy.tasks("train", 1)[0]
    pool = pool_of(toy, call_timeout=0.5, retries=1)
    with pytest.raises(EnvFailure, match=told) as caught:
        asyncio.run(play(pool, task))
    assert caught.value.outcome is outcome
    assert caught.value.detail.startswith(task.id)
    assert pool.stats["retried"] == 1 and pool.stats["failed"] == 1


def test_other_games_of_a_killed_worker_go_on(toy_of, pool_of):
    toy = toy_of()
    tasks = toy.tasks("train", 5)
    pool = pool_of(toy)

    async def run():
        games = [await pool.open(task) for task in tasks]
        steps = [[game.first] for game in games]
        plans = [await game.walkthrough() for game in games]
        for turn in range(toy.max_turns):
            if turn == 1:
                os.kill(pool.pids[0], signal.SIGKILL)
            for game, plan, seen in zip(games, plans, steps, strict=True):
                if turn < len(plan):
                    seen.append(await game.step(plan[turn]))
        return steps

    assert asyncio.run(run()) == [played_here(toy, task) for task in tasks]
    assert pool.stats == {"restarts": 1, "replays": 5, "retried": 1, "failed": 0}


def test_an_environment_that_replays_differently_is_an_error(toy_of, pool_of):
    toy = toy_of(fault="differ", fault_turn=1)
    pool = pool_of(toy)

    async def run():
        game = await pool.open(toy.tasks("train", 1)[0])
        await game.step("left")
        os.kill(pool.pids[0], signal.SIGKILL)
        await game.step("right")

    with pytest.raises(EnvFailure, match="not deterministic") as caught:
        asyncio.run(run())
    assert caught.value.outcome is Outcome.ENV_ERROR
    assert pool.stats["failed"] == 1


def test_deadline_does_not_count_the_wait_for_other_games(toy_of, pool_of, tmp_path):
    toy = toy_of(fault="hang", fault_turn=1, fault_times=1, fault_folder=str(tmp_path))
    tasks = toy.tasks("train", 8)
    pool = pool_of(toy, call_timeout=1.5)
    started = time.monotonic()
    play_all(pool, tasks)  # seven games wait for the one that hangs, longer than their own deadline
    assert time.monotonic() - started > 1.5
    assert pool.stats["retried"] == 1 and pool.stats["failed"] == 0


def test_games_stay_with_the_worker_that_held_the_fewest(toy_of, pool_of):
    toy = toy_of()
    pool = pool_of(toy, workers=3)

    async def run():
        games = [await pool.open(task) for task in toy.tasks("train", 6)]
        first = [game._slot.index for game in games]
        await games[1].close()
        await games[4].close()
        later = [(await pool.open(task))._slot.index for task in toy.tasks("test", 2)]
        return first, later

    assert asyncio.run(run()) == ([0, 1, 2, 0, 1, 2], [1, 1])


def test_a_cancelled_opening_leaves_no_game_behind(toy_of, pool_of):
    toy = toy_of()
    pool = pool_of(toy)
    held = []

    async def run():
        opening = asyncio.create_task(pool.open(toy.tasks("train", 1)[0]))
        await asyncio.sleep(0)  # submitted; the worker is still starting
        opening.cancel()
        await asyncio.wait([opening])
        slot = pool._slots[0]
        held.append(await slot.submit(slot._call, "count"))
        return slot.open_games

    assert asyncio.run(run()) == 0
    assert held == [0]


def test_misuse_is_an_error_and_not_a_failure(toy_of, pool_of):
    toy = toy_of()
    pool = pool_of(toy)

    async def run():
        game = await pool.open(toy.tasks("train", 1)[0])
        for command in await game.walkthrough():
            await game.step(command)
        with pytest.raises(RuntimeError, match="has ended"):
            await game.step("left")
        await game.close()
        await game.close()
        with pytest.raises(RuntimeError, match="closed"):
            await game.step("left")
        pool.close()
        with pytest.raises(RuntimeError, match="closed"):
            await pool.open(toy.tasks("train", 1)[0])

    asyncio.run(run())
    assert set(pool.stats.values()) == {0}


def test_close_ends_a_hanging_call_at_once(toy_of, pool_of):
    toy = toy_of(fault="hang")
    pool = pool_of(toy, call_timeout=600.0)
    (pid,) = pool.pids

    async def run():
        game = await pool.open(toy.tasks("train", 1)[0])
        call = asyncio.create_task(game.step("left"))
        await asyncio.sleep(0.2)
        started = time.monotonic()
        pool.close()
        with pytest.raises(EnvFailure, match="pool was closed"):
            await call
        await game.close()
        return time.monotonic() - started

    assert asyncio.run(run()) < 5
    assert not os.path.exists(f"/proc/{pid}")


def test_a_damaged_game_fails_without_retries(textworld_of, pool_of, tmp_path):
    shutil.copytree(textworld_of("custom").cache.root, tmp_path, dirs_exist_ok=True)
    environment = textworld_of("custom", cache_dir=str(tmp_path))
    task = environment.tasks("test", 1)[0]
    story = environment.files(task).story
    story.write_bytes(story.read_bytes()[:5000])
    pool = pool_of(environment)
    with pytest.raises(EnvFailure, match=r"1\.z8 is damaged"):
        asyncio.run(play(pool, task))
    assert pool.stats == {"restarts": 0, "replays": 0, "retried": 0, "failed": 1}


def test_real_games_survive_the_death_of_their_worker(textworld_of, pool_of):
    environment = textworld_of("custom", hints="admissible")
    tasks = environment.tasks("test", 2)
    pool = pool_of(environment)

    async def run():
        games = [await pool.open(task) for task in tasks]
        steps = [[game.first] for game in games]
        plans = [await game.walkthrough() for game in games]
        for turn in range(4):
            os.kill(pool.pids[0], signal.SIGKILL) if turn == 2 else None
            for game, plan, seen in zip(games, plans, steps, strict=True):
                seen.append(await game.step(plan[turn]))
        return steps

    steps = asyncio.run(run())
    assert [seen[-1].outcome for seen in steps] == [Outcome.WON, Outcome.WON]
    assert steps == [played_here(environment, task) for task in tasks]
    assert pool.stats["replays"] == 2


def test_validate_names_the_games_that_cannot_be_won(toy_of, pool_of, tmp_path):
    toy = toy_of()
    tasks, seen = toy.tasks("train", 5), []
    assert validate(pool_of(toy), tasks, lambda done, total: seen.append((done, total))) == []
    assert seen == [(n, 5) for n in range(1, 6)]
    broken = toy_of(fault="raise", fault_turn=3, fault_times=1, fault_folder=str(tmp_path))
    failures = validate(pool_of(broken, retries=0), tasks)
    assert len(failures) == 1 and "told to raise" in failures[0] and "toy-4/train/" in failures[0]


PARENT = """
import asyncio, os, sys
from meowtea.envs.pool import EnvPool
from meowtea.envs.toy import Toy
toy = Toy(rooms=3, max_turns=9, hints="none", fault=sys.argv[1] if sys.argv[1] != "none" else None, fault_turn=1,
          fault_times=None, fault_folder=None)
async def main():
    pool = EnvPool(toy, workers=2, call_timeout=60.0, retries=0)
    games = [await pool.open(task) for task in toy.tasks("train", 2)]
    print(*pool.pids, flush=True)
    await asyncio.gather(*(game.step("left") for game in games))
    await asyncio.sleep(60)
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("stopped", flush=True)
    os._exit(0)
"""


def start_parent(fault: str) -> tuple[subprocess.Popen, list[int]]:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, fault],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # as from a terminal: under nohup or in a background job SIGINT would be ignored, and that is inherited
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    return parent, [int(pid) for pid in parent.stdout.readline().split()]


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline, f"a worker of {pids} outlives its parent"
        time.sleep(0.05)


@pytest.mark.parametrize("state", ["none", "hang"], ids=["idle", "busy"])
def test_workers_die_with_a_killed_parent(state):
    parent, pids = start_parent(state)
    assert len(pids) == 2 and all(os.path.exists(f"/proc/{pid}") for pid in pids)
    parent.kill()
    parent.wait()
    wait_until_gone(pids)


def test_ctrl_c_in_the_terminal_prints_nothing_from_workers():
    parent, pids = start_parent("none")
    time.sleep(0.3)
    os.killpg(parent.pid, signal.SIGINT)
    out, err = parent.communicate(timeout=20)
    assert out == "stopped\n" and err == ""
    wait_until_gone(pids)


def test_the_pool_and_its_workers_need_no_heavy_library():
    heavy = "torch transformers textworld numpy vllm hydra"
    code = (
        "import sys, meowtea.envs.pool, meowtea.envs.textworld, meowtea.envs.toy, meowtea.envs.validate\n"
        f"sys.exit(' '.join(m for m in '{heavy}'.split() if m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == "\n"


class Modules:
    """A target for a worker: tells what the process has imported after a game was started."""

    def __init__(self, environment, task):
        self.environment, self.task = environment, task

    def imported(self) -> list[str]:
        self.environment.make_env().reset(self.task)
        return [name for name in ("torch", "transformers", "vllm", "textworld") if name in sys.modules]


def test_a_worker_that_plays_textworld_has_not_imported_torch(textworld_of):
    from meowtea.envs.worker import Worker

    environment = textworld_of("custom")
    worker = Worker(Modules(environment, environment.tasks("test", 1)[0]))
    try:
        assert worker.call("imported", timeout=60) == ["textworld"]
    finally:
        worker.close()
