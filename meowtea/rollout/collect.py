"""Playing episodes: one coroutine per episode, all of a batch at once, no barrier between turns."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt

from meowtea.seeds import derive_seed
from meowtea.types import Outcome, Step, Task, Trajectory, Turn

if TYPE_CHECKING:
    from meowtea.envs.pool import EnvPool
    from meowtea.rollout.chat import Chat, Conversation
    from meowtea.rollout.engine import Engine, Sampling
    from meowtea.rollout.prompt import Prompt


@dataclass(frozen=True)
class Job:
    """One episode to play. group numbers the task within the batch, episode the try at it."""

    task: Task
    group: int
    episode: int = 0

    @property
    def session(self) -> str:
        return f"{self.group:06d}/{self.episode:06d}"


def jobs_for(tasks: Sequence[Task], group_size: int) -> list[Job]:
    """Every task `group_size` times."""
    return [Job(task, group, episode) for group, task in enumerate(tasks) for episode in range(group_size)]


class Collector:
    """Plays jobs through an engine and an environment pool.

    tasks_per_step, group_size: P and G of an RL step. temperature: of training episodes (never top-p there:
    behaviour log-probabilities must be those of a distribution the learner can reproduce).
    max_reply_tokens: per turn. history: 'full', or the number of latest turns that stay in the prompt.
    concurrency: episodes that run at the same time.
    """

    def __init__(
        self,
        pool: EnvPool,
        engine: Engine,
        chat: Chat,
        prompt: Prompt,
        max_turns: int,
        deterministic: bool = False,
        protocol: str = "",
        *,
        tasks_per_step: Annotated[int, Ge(1)],
        group_size: Annotated[int, Ge(1)],
        temperature: Annotated[float, Gt(0)],
        max_reply_tokens: Annotated[int, Ge(1)],
        history: Literal["full"] | Annotated[int, Ge(1)],
        concurrency: Annotated[int, Ge(1)],
        refill: Annotated[int, Ge(0)],
    ):
        self.pool, self.engine, self.chat, self.prompt = pool, engine, chat, prompt
        self.max_turns, self.deterministic, self.protocol = max_turns, deterministic, protocol
        self.tasks_per_step, self.group_size, self.temperature = tasks_per_step, group_size, temperature
        self.max_reply_tokens, self.history, self.concurrency = max_reply_tokens, history, concurrency
        self.refill = refill

    def sampling(self, temperature: float | None = None, top_p: float = 1.0) -> Sampling:
        """How replies are sampled; without arguments as in training."""
        from meowtea.rollout.engine import Sampling

        return Sampling(
            temperature=self.temperature if temperature is None else temperature,
            top_p=top_p,
            max_tokens=self.max_reply_tokens,
            stop_token_ids=tuple(self.chat.stop_token_ids),
        )

    async def collect(
        self,
        jobs: Sequence[Job],
        sampling: Sampling,
        seed: int,
        on_episode: Callable[[Trajectory], None] | None = None,
    ) -> list[Trajectory]:
        """Play all jobs and return their trajectories in the order of the jobs, broken ones included.

        Every request gets a seed of its own from (seed, session, turn). With `deterministic` the jobs run in
        waves of `concurrency`: the engine then forms its batches without looking at the clock.
        """

        async def play(job: Job) -> Trajectory:
            try:
                trajectory = await self._episode(job, sampling, seed)
            finally:
                self.engine.leave(job.session)
            if on_episode:
                on_episode(trajectory)
            return trajectory

        async def play_when_free(job: Job) -> Trajectory:
            async with gate:
                self.engine.enter(job.session)
                return await play(job)

        if self.deterministic:
            trajectories = []
            for start in range(0, len(jobs), self.concurrency):
                wave = jobs[start : start + self.concurrency]
                for job in wave:
                    self.engine.enter(job.session)
                trajectories += await gather(play(job) for job in wave)
            return trajectories
        gate = asyncio.Semaphore(self.concurrency)
        return await gather(play_when_free(job) for job in jobs)

    async def _episode(self, job: Job, sampling: Sampling, seed: int) -> Trajectory:
        from meowtea.envs.pool import EnvFailure

        trajectory = Trajectory(job.task, job.group, [], Outcome.ENV_ERROR, 0.0, 1.0, episode=job.episode)
        trajectory.protocol = self.protocol
        try:
            game = await self.pool.open(job.task)
        except EnvFailure as failure:
            trajectory.outcome, trajectory.error = failure.outcome, failure.detail
            return trajectory
        try:
            await self._play(game, job, sampling, seed, trajectory)
        except EnvFailure as failure:
            trajectory.outcome, trajectory.error = failure.outcome, failure.detail
        finally:
            await game.close()
        return trajectory

    async def _play(self, game: Any, job: Job, sampling: Sampling, seed: int, trajectory: Trajectory) -> None:
        """Fill `trajectory` turn by turn until it has an outcome."""
        step: Step = game.first
        trajectory.initial_progress, trajectory.max_score = step.progress, step.max_score
        history = History(self.chat, self.prompt, self.history)
        while True:
            started = time.monotonic()
            context_ids, starts_sequence = history.observe(step)
            if len(history.ids) + sampling.max_tokens > self.engine.max_context:
                trajectory.outcome = Outcome.OUT_OF_TOKENS
                break
            turn_seed = derive_seed(seed, job.session, len(trajectory.turns)) % 2**31
            version = self.engine.policy_version
            completion = await self.engine.generate(history.ids, replace(sampling, seed=turn_seed), job.session)
            reply = self.chat.reply_text(completion.ids)
            command = self.prompt.command(reply)
            history.act(completion.ids)
            turn = Turn(
                context_ids=context_ids,
                action_ids=completion.ids,
                action_logprobs=completion.logprobs,
                starts_sequence=starts_sequence,
                observation=step.observation,
                reply=reply,
                command=command,
                truncated_reply=completion.finish_reason == "length",
                policy_version=version,
            )
            step = await game.step(command)
            turn.score, turn.progress, turn.valid_command = step.score, step.progress, step.valid_command
            turn.seconds = time.monotonic() - started
            trajectory.turns.append(turn)
            trajectory.score, trajectory.final_observation = step.score, step.observation
            if step.outcome is not None:
                trajectory.outcome = step.outcome
                break
            if len(trajectory.turns) >= self.max_turns:
                trajectory.outcome = Outcome.OUT_OF_TURNS
                break


class History:
    """The prompt of an episode: everything so far, or the task and the last `keep` turns."""

    def __init__(self, chat: Chat, prompt: Prompt, keep: Literal["full"] | int):
        self.chat, self.prompt, self.keep = chat, prompt, keep
        self._texts: list[str] = []  # user messages
        self._replies: list[list[int]] = []
        self._conversation: Conversation = chat.start(prompt.system)

    @property
    def ids(self) -> list[int]:
        return self._conversation.ids

    def observe(self, step: Step) -> tuple[list[int], bool]:
        """(ids appended, whether they are a whole new prompt) for what the environment just said."""
        text = self.prompt.next(step) if self._texts else self.prompt.first(step)
        self._texts.append(text)
        if self.keep == "full" or len(self._replies) <= self.keep:
            context_ids = self._conversation.user(text)
            return context_ids, len(self._texts) == 1 or self._conversation.rewritten
        # The window has moved: the task stays on top, the turns before the window are gone.
        first_kept = len(self._replies) - self.keep
        self._conversation = self.chat.start(self.prompt.system)
        self._conversation.user(f"{self._texts[0]}\n\n[...]\n\n{self._texts[first_kept]}")
        for k in range(first_kept, len(self._replies)):
            self._conversation.reply(self._replies[k])
            self._conversation.user(self._texts[k + 1])
        return list(self._conversation.ids), True

    def act(self, action_ids: list[int]) -> None:
        self._replies.append(action_ids)
        self._conversation.reply(action_ids)


async def gather(coroutines: Iterator[Any]) -> list[Any]:
    """asyncio.gather that cancels the others when one fails, so that no episode goes on unseen."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
