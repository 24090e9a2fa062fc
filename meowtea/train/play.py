"""The command `play`: one episode on the terminal, played by a person, a policy or the expert."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from meowtea.errors import ConfigError
from meowtea.seeds import derive_seed
from meowtea.types import Outcome, Step, Task, Trajectory

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from meowtea.envs.pool import EnvPool


def play(cfg: DictConfig) -> None:
    """Play game number `task` of a split and show every turn."""
    from hydra.utils import instantiate

    environment = instantiate(cfg.env)
    tasks: list[Task] = environment.tasks(cfg.split, cfg.task + 1)
    if len(tasks) <= cfg.task:
        raise ConfigError([f"task: the {cfg.split} split has {len(tasks)} games, counted from 0; got {cfg.task}"])
    task = tasks[cfg.task]
    environment.prepare([task])
    if cfg.player == "policy":
        show(play_policy(cfg, task))
        return
    with ExitStack() as closing:
        pool: EnvPool = instantiate(cfg.env_pool, environment)
        closing.callback(pool.close)
        by_hand = play_person if cfg.player == "person" else play_expert
        asyncio.run(by_hand(pool, task, environment.max_turns))


def play_policy(cfg: DictConfig, task: Task) -> Trajectory:
    """One episode by a run's policy, a checkpoint or the model as shipped, sampled as evaluations are."""
    from meowtea.rollout.collect import Job
    from meowtea.train.main import policy_folder
    from meowtea.train.player import Player

    with ExitStack() as closing:
        player = Player(cfg, closing, policy_folder(cfg))
        sampling = player.collector.sampling(player.evaluator.temperature, player.evaluator.top_p)
        seed = derive_seed(player.seed, "play")
        played: list[Trajectory] = player.wait(player.collector.collect([Job(task, 0)], sampling, seed))
    return played[0]


async def play_person(pool: EnvPool, task: Task, max_turns: int) -> None:
    """A person at the keyboard. An empty line asks again; end of input gives up."""
    game = await pool.open(task)
    step: Step = game.first
    print(f"{task.id}, {max_turns} turns. An end of input (Ctrl-D) gives up.\n\n{step.observation}")
    for turn in range(1, max_turns + 1):
        command = await asyncio.to_thread(ask, f"\n[{turn}/{max_turns}] > ")
        if command is None:
            print("\ngiven up")
            break
        step = await game.step(command)
        print(step.observation)
        if step.outcome is not None:
            break
    else:
        step.outcome = Outcome.OUT_OF_TURNS
    tell_end(step.outcome, step.score, step.max_score)
    await game.close()


def ask(question: str) -> str | None:
    """The next line that is not empty; None at the end of input."""
    try:
        while not (command := input(question).strip()):
            pass
    except EOFError:
        return None
    return command


async def play_expert(pool: EnvPool, task: Task, max_turns: int) -> None:
    """The environment's own walkthrough, in the real game."""
    game = await pool.open(task)
    step: Step = game.first
    print(f"{task.id}\n\n{step.observation}")
    for turn, command in enumerate(await game.walkthrough(), 1):
        step = await game.step(command)
        print(f"\n[{turn}/{max_turns}] > {command}\n{step.observation}")
    tell_end(step.outcome, step.score, step.max_score)
    await game.close()


def show(trajectory: Trajectory) -> None:
    """A played episode, turn by turn."""
    print(trajectory.task.id)
    for number, turn in enumerate(trajectory.turns, 1):
        print(f"\n{turn.observation}\n\n[{number}] > {printable(turn.reply)}")
    print(f"\n{trajectory.final_observation}")
    tell_end(trajectory.outcome, trajectory.score, trajectory.max_score)


def printable(text: str) -> str:
    """Text of a model, safe for a terminal: control characters are shown, not obeyed."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def tell_end(outcome: Any, score: float, max_score: float) -> None:
    print(f"\n{outcome or 'not finished'}, {score:g} of {max_score:g} points")
