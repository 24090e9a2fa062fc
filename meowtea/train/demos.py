"""Demonstrations: an expert's walkthrough played in the real game, or conversations read from files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meowtea.envs.base import EnvFailure
from meowtea.errors import DataError
from meowtea.rollout.collect import History, gather
from meowtea.types import Outcome, Step, Task, Trajectory, Turn

if TYPE_CHECKING:
    from meowtea.envs.pool import EnvPool
    from meowtea.rollout.chat import Chat
    from meowtea.rollout.prompt import Prompt


async def demonstrate(
    pool: EnvPool, chat: Chat, prompt: Prompt, tasks: Sequence[Task], history: Any = "full"
) -> list[Trajectory]:
    """Play each task's walkthrough and write it down as the policy would have: same prompt, same tokens.

    Errors: DataError if a walkthrough does not win (the game is wrong, or the environment is).
    """

    async def play(index: int, task: Task) -> Trajectory:
        try:
            return await demonstration(index, task)
        except EnvFailure as failure:
            raise DataError(
                f"the demonstration of {task.id} broke ({failure}); run the same command again, "
                "or raise env_pool.retries or env_pool.call_timeout"
            ) from failure

    async def demonstration(index: int, task: Task) -> Trajectory:
        game = await pool.open(task)
        try:
            plan = await game.walkthrough()
            step: Step = game.first
            trajectory = Trajectory(task, index, [], Outcome.LOST, 0.0, step.max_score, step.progress)
            past = History(chat, prompt, history)
            for command in plan:
                context_ids, starts_sequence = past.observe(step)
                reply = prompt.reply(command)
                action_ids = chat.encode_reply(reply)
                past.act(action_ids)
                observation, step = step.observation, await game.step(command)
                turn = expert_turn(context_ids, action_ids, starts_sequence, observation, reply, command)
                turn.score, turn.progress, turn.valid_command = step.score, step.progress, step.valid_command
                trajectory.turns.append(turn)
                if step.outcome is not None:
                    break
        finally:
            await game.close()
        if step.outcome is not Outcome.WON:
            raise DataError(
                f"task {task.id}: its walkthrough of {len(plan)} commands ends with outcome "
                f"{step.outcome or 'none'}, not 'won'; make the game again (meowtea games validate=true names all such)"
            )
        trajectory.outcome, trajectory.score = step.outcome, step.score
        trajectory.rewards = [0.0] * len(trajectory.turns)
        return trajectory

    return await gather(play(index, task) for index, task in enumerate(tasks))


def expert_turn(
    context_ids: list[int],
    action_ids: list[int],
    starts_sequence: bool,
    observation: str,
    reply: str,
    command: str,
) -> Turn:
    """A turn nobody sampled: its behaviour logprobs are 0 (the expert is sure)."""
    return Turn(
        context_ids=context_ids,
        action_ids=action_ids,
        action_logprobs=[0.0] * len(action_ids),
        starts_sequence=starts_sequence,
        observation=observation,
        reply=reply,
        command=command,
    )


def read_demonstrations(path: Path, chat: Chat) -> list[Trajectory]:
    """Chat-format demonstrations: JSON Lines with `messages`, a file or a folder of .jsonl files.

    Roles must be an optional `system`, then `user` and `assistant` in turn, `assistant` last.
    Errors: DataError naming the file, the line and what is wrong with it.
    """
    if not path.exists():
        raise DataError(f"sft.demonstrations: {path} does not exist; give a .jsonl file, a folder of them, or null")
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    trajectories: list[Trajectory] = []
    for file in files:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    messages = parse_messages(line, f"{file}:{number}")
                    trajectories.append(from_messages(messages, chat, f"{file.name}:{number}", len(trajectories)))
    if not trajectories:
        raise DataError(f"sft.demonstrations: {path} holds no demonstration; each line must be {{'messages': [...]}}")
    return trajectories


def parse_messages(line: str, place: str) -> list[dict[str, str]]:
    """The messages of one line, checked."""
    try:
        messages = json.loads(line)["messages"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{place}: not a JSON object with 'messages' ({error})") from error
    if not isinstance(messages, list) or not all(
        isinstance(m, dict) and isinstance(m.get("content"), str) for m in messages
    ):
        raise DataError(f"{place}: 'messages' must be a list of objects with a text 'content'")
    roles = [message.get("role") for message in messages]
    talk = roles[1:] if roles[:1] == ["system"] else roles
    if not talk or len(talk) % 2 or talk != ["user", "assistant"] * (len(talk) // 2):
        raise DataError(
            f"{place}: roles are {roles}; allowed are an optional 'system', then 'user' and 'assistant' in turn"
        )
    return messages


def from_messages(messages: list[dict[str, str]], chat: Chat, name: str, index: int) -> Trajectory:
    """One conversation as a trajectory; every assistant message is an action."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    talk = messages[1:] if system is not None else messages
    conversation = chat.start(system)
    turns: list[Turn] = []
    for user, assistant in zip(talk[::2], talk[1::2], strict=True):
        context_ids = conversation.user(user["content"])
        action_ids = chat.encode_reply(assistant["content"])
        conversation.reply(action_ids)
        starts = not turns or conversation.rewritten
        text = assistant["content"]
        turns.append(expert_turn(context_ids, action_ids, starts, user["content"], text, text))
    task = Task(id=name, split="demo", seed=index)
    return Trajectory(task, index, turns, Outcome.WON, 1.0, 1.0, rewards=[0.0] * len(turns))
