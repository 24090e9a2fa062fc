"""Proof that tasks can be won: every walkthrough is played in the real game."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from meowtea.envs.pool import EnvFailure, EnvPool
from meowtea.types import Outcome, Task

AT_ONCE = 64  # games open at a time; a TextWorld game takes about 2 MiB


def validate(pool: EnvPool, tasks: Sequence[Task], progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Plays the walkthroughs of prepared tasks; one line for each that does not win, in the order of the tasks.

    progress(done, total) is called as it goes on.
    """
    return asyncio.run(_validate(pool, tasks, progress))


async def _validate(pool: EnvPool, tasks: Sequence[Task], progress: Callable[[int, int], None] | None) -> list[str]:
    gate, done = asyncio.Semaphore(AT_ONCE), 0

    async def check(task: Task) -> str | None:
        nonlocal done
        async with gate:
            failure = await play_walkthrough(pool, task)
        done += 1
        if progress:
            progress(done, len(tasks))
        return failure

    results = await asyncio.gather(*map(check, tasks))
    return [failure for failure in results if failure is not None]


async def play_walkthrough(pool: EnvPool, task: Task) -> str | None:
    """None if the task's walkthrough wins, else one line on how it ended."""
    try:
        game = await pool.open(task)
    except EnvFailure as failure:
        return str(failure)
    try:
        commands = await game.walkthrough()
        step = game.first
        for number, command in enumerate(commands, 1):
            step = await game.step(command)
            if step.outcome is Outcome.WON and number == len(commands):
                return None
            if step.outcome is not None:
                return f"{task.id}: '{command}', command {number} of {len(commands)}, ends it as {step.outcome}"
        return f"{task.id}: not won after its {len(commands)} commands; the game says: {step.observation[-200:]!r}"
    except EnvFailure as failure:
        return str(failure)
    finally:
        await game.close()
