"""Game making and environment steps: the pool against one process, side by side in one run.

    python scripts/bench/environments.py [--games 12] [--steps 3000] [--workers 2]

Every number is a rate of this machine at this moment; the ratios are what to look at.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import tempfile
import time
import warnings

from meowtea.envs.pool import EnvPool
from meowtea.envs.textworld import Custom
from meowtea.types import Task

COMMANDS = ("look", "inventory", "go north", "go south", "go east", "go west", "xyzzy")
IN_FLIGHT = 32  # games played at once through the pool


def environment(cache: str, workers: int, hints: str = "none") -> Custom:
    return Custom(
        rooms=2,
        objects=3,
        quest_length=4,
        quest_breadth=5,
        max_turns=12,
        first_observation=["objective", "room", "inventory"],
        next_observation=["feedback"],
        hints=hints,  # type: ignore[arg-type]
        train_seeds=[30001, 35000],
        demo_seeds=[40001, 40101],
        validation_seeds=[50001, 50100],
        test_seeds=[1, 100],
        cache_dir=cache,
        workers=workers,
    )


def make_games(games: int, workers: int) -> float:
    """Games per second with that many maker processes, their start included."""
    with tempfile.TemporaryDirectory() as cache:
        env = environment(cache, workers)
        started = time.perf_counter()
        env.prepare(env.tasks("train", games))
        return games / (time.perf_counter() - started)


def plain_steps(env: Custom, tasks: list[Task], steps: int) -> float:
    """Commands per second of TextWorld itself in this process: text, score and ending only."""
    import textworld

    infos = textworld.EnvInfos(feedback=True, won=True, lost=True, score=True)
    games = [textworld.start(str(env.files(task).story), infos) for task in tasks]
    for game in games:
        game.reset()
    dice = random.Random(0)
    started = time.perf_counter()
    for number in range(steps):
        games[number % len(games)].step(dice.choice(COMMANDS))
    return steps / (time.perf_counter() - started)


def own_steps(env: Custom, tasks: list[Task], steps: int) -> float:
    """Commands per second of one process through our TextEnv: clean text and progress as well."""
    games = [env.make_env() for _ in tasks]
    for game, task in zip(games, tasks, strict=True):
        game.reset(task)
    dice = random.Random(0)
    started = time.perf_counter()
    for number in range(steps):
        games[number % len(games)].step(dice.choice(COMMANDS))
    rate = steps / (time.perf_counter() - started)
    for game in games:
        game.close()
    return rate


def pool_steps(env: Custom, tasks: list[Task], steps: int, workers: int) -> tuple[float, float]:
    """Commands and game starts per second through the pool, with IN_FLIGHT games at once."""

    async def play(pool: EnvPool) -> tuple[float, float]:
        started = time.perf_counter()
        games = await asyncio.gather(*(pool.open(tasks[i % len(tasks)]) for i in range(IN_FLIGHT)))
        opened = IN_FLIGHT / (time.perf_counter() - started)
        each = steps // IN_FLIGHT

        async def commands(game: object, seed: int) -> None:
            dice = random.Random(seed)
            for _ in range(each):
                await game.step(dice.choice(COMMANDS))  # type: ignore[attr-defined]

        started = time.perf_counter()
        await asyncio.gather(*(commands(game, seed) for seed, game in enumerate(games)))
        return each * IN_FLIGHT / (time.perf_counter() - started), opened

    async def warm_up(pool: EnvPool) -> None:
        for game in await asyncio.gather(*(pool.open(tasks[0]) for _ in range(workers))):
            await game.close()

    with EnvPool(env, workers=workers, call_timeout=60.0, retries=0) as pool:
        asyncio.run(warm_up(pool))
        return asyncio.run(play(pool))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=12, help="games to make")
    parser.add_argument("--steps", type=int, default=3000, help="commands to play")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes of the pool")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", "Game .* is not fully supported")

    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; w2-o3-q4 games")
    one, many = make_games(options.games, 1), make_games(options.games, options.workers)
    row("making, 1 process", one, "games/s", one)
    row(f"making, {options.workers} processes", many, "games/s", one)
    with tempfile.TemporaryDirectory() as cache:
        env = environment(cache, options.workers)
        tasks = env.tasks("train", 8)
        env.prepare(tasks)
        plain = plain_steps(env, tasks, options.steps)
        row("TextWorld itself, 1 process", plain, "steps/s", plain)
        row("our environment, 1 process", own_steps(env, tasks, options.steps), "steps/s", plain)
        for hints in ("none", "admissible"):
            env = environment(cache, options.workers, hints)
            for workers in sorted({1, options.workers}):
                rate, opened = pool_steps(env, tasks, options.steps, workers)
                row(f"pool of {workers}, hints={hints}", rate, "steps/s", plain, f"{opened:.0f} game starts/s")


def row(name: str, rate: float, unit: str, base: float, note: str = "") -> None:
    print(f"{name:<32}{rate:>10.1f} {unit:<8} x{rate / base:<6.2f} {note}".rstrip(), flush=True)


if __name__ == "__main__":
    main()
