"""Multi-turn reinforcement learning, top to bottom.

One step: act -> score -> tokens -> credit -> improve -> publish -> record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from meowtea.algorithms.groups import informative_groups
from meowtea.batch import TokenBatch
from meowtea.errors import TrainingError
from meowtea.rollout.collect import Job, jobs_for
from meowtea.seeds import derive_seed
from meowtea.stats import mean
from meowtea.train.budget import Stopwatch
from meowtea.types import Outcome, Task, Trajectory

if TYPE_CHECKING:
    from meowtea.train.experiment import Experiment


def reinforce(x: Experiment) -> None:
    """Play and learn until the budget's games are played `budget.epochs` times or its minutes are over."""
    games = x.tasks("train", x.budget.games)
    clock = Stopwatch(x.progress.spending.rl_seconds)

    with x.display.stage("rl", x.rl_steps) as bar:
        while not x.cursor.finished and not out_of_time(x, clock):
            # act: every task of the step, a group of episodes each, all at once
            acting = Stopwatch()
            x.engine.wake()
            played, kept = act(x, games)
            x.engine.sleep()
            acting_seconds = acting.seconds

            # score: one reward per turn; what broke is not an episode of the policy
            usable = without_broken(kept, x.algorithm.min_group_size)
            for trajectory in played:
                if not trajectory.outcome.broken:
                    x.reward.score(trajectory)
            x.run.write_trajectories(x.progress.step + 1, played)

            # tokens: episodes laid end to end, learning happens on the action tokens alone
            batch = TokenBatch.pack(usable, temperature=x.collector.temperature)

            # credit: which token deserves what
            learning = Stopwatch()
            metrics = x.learner.annotate(batch, x.algorithm)
            metrics |= x.algorithm.assign_credit(batch)
            batch.validate(usable)

            # improve: the algorithm's loss, the learner's optimizer steps
            metrics |= x.learner.improve(batch, x.algorithm)

            # publish: the engine plays the next step with the new weights
            x.publish()

            # record: what happened, what it cost, and where to go on from
            x.progress.rl_step += 1
            x.progress.cursor = x.cursor.position
            for name in [name for name in metrics if name.endswith("seconds")]:
                metrics[f"time/{name.removesuffix('_seconds').removesuffix('/seconds')}"] = metrics.pop(name)
            learned_tokens = int(metrics.get("learner/tokens", 0))  # 0 while only the critic learns
            spend(x, played, learned_tokens, clock)
            metrics |= rollout_metrics(played)
            metrics |= {"time/act": acting_seconds, "time/learn": learning.seconds}
            metrics["speed/sampled_tokens_per_second"] = metrics["rollout/action_tokens"] / max(acting_seconds, 1e-9)
            metrics["speed/learner_tokens_per_second"] = learned_tokens / max(learning.seconds, 1e-9)
            if x.evaluator.validate_every and x.progress.rl_step % x.evaluator.validate_every == 0:
                metrics |= x.validate(f"RL step {x.progress.rl_step}")
            x.record(metrics)
            bar.update(x.progress.rl_step, metrics)
            x.save_if_due()


def act(x: Experiment, games: Sequence[Task]) -> tuple[list[Trajectory], list[Trajectory]]:
    """(every episode of the step, those to learn from).

    They are the same unless rollout.refill lets further games replace those whose episodes all ended alike.
    """
    played: list[Trajectory] = []
    kept: list[Trajectory] = []
    groups = 0
    for attempt in range(x.collector.refill + 1):
        dealt = x.cursor.deal(x.collector.tasks_per_step - len({t.group for t in kept}))
        jobs = jobs_for([games[i] for i in dealt], x.collector.group_size)
        jobs = [Job(job.task, job.group + groups, job.episode) for job in jobs]
        groups += len(dealt)
        seed = derive_seed(x.seed, "rollout", x.progress.rl_step, attempt)
        new = x.wait(x.collector.collect(jobs, x.collector.sampling(), seed, x.watch(x.display.episode)))
        played += new
        if attempt == x.collector.refill or x.cursor.finished:
            kept += new  # nothing will replace them
            break
        kept += informative(x, new)
        if len({t.group for t in kept}) == x.collector.tasks_per_step:
            break
    return played, kept


def informative(x: Experiment, played: Sequence[Trajectory]) -> list[Trajectory]:
    """The episodes of groups whose returns differ."""
    whole = without_broken(played, x.algorithm.min_group_size, may_be_empty=True)
    for trajectory in whole:
        x.reward.score(trajectory)
    reward_B = torch.tensor([sum(t.rewards) for t in whole])
    group_B = torch.tensor([t.group for t in whole], dtype=torch.long)
    good = set(group_B.unique()[informative_groups(reward_B, group_B)].tolist())
    return [t for t in whole if t.group in good]


def without_broken(played: Sequence[Trajectory], min_group_size: int, may_be_empty: bool = False) -> list[Trajectory]:
    """Episodes an update may use: not broken, at least one action, enough of their group left."""
    whole = [t for t in played if not t.outcome.broken and t.turns]
    sizes = Counter(t.group for t in whole)
    usable = [t for t in whole if sizes[t.group] >= min_group_size]
    if not usable and not may_be_empty:
        errors = Counter(t.error or t.outcome.value for t in played)
        raise TrainingError(
            f"none of the {len(played)} episodes of this step can be used; most frequent cause: "
            f"{errors.most_common(1)[0][0] if errors else 'none was played'}. The last checkpoint is kept: "
            "mend the cause and run the same command again"
        )
    return usable


def spend(x: Experiment, played: Sequence[Trajectory], learned_tokens: int, clock: Stopwatch) -> None:
    """Write this step's costs into the run's spending."""
    spending = x.progress.spending
    spending.games = x.cursor.distinct
    spending.episodes += len(played)
    spending.broken_episodes += sum(t.outcome.broken for t in played)
    spending.action_tokens += sum(t.action_count for t in played)
    spending.learner_tokens += learned_tokens
    spending.rl_seconds = clock.seconds


def rollout_metrics(played: Sequence[Trajectory]) -> dict[str, float]:
    """What the episodes of a step looked like, learned from or not. Outcomes are of all, the rest of whole ones."""
    usable = [t for t in played if not t.outcome.broken]
    turns = [turn for t in usable for turn in t.turns]
    known = [turn.valid_command for turn in turns if turn.valid_command is not None]
    outcomes = Counter(t.outcome for t in played)
    parts = {name for t in usable for name in t.reward_parts}
    return (
        {
            "rollout/success": mean([t.won for t in usable]),
            "rollout/score": mean([t.score / t.max_score for t in usable]),
            "rollout/turns": mean([len(t.turns) for t in usable]),
            "rollout/reply_tokens": mean([len(turn.action_ids) for turn in turns]),
            "rollout/truncated_replies": mean([turn.truncated_reply for turn in turns]),
            "rollout/invalid_share": 1 - mean(known) if known else 0.0,
            "rollout/episodes": len(played),
            "rollout/action_tokens": sum(t.action_count for t in played),
            "reward/mean": mean([sum(t.rewards) for t in usable]),
        }
        | {f"reward/{name}": mean([sum(t.reward_parts.get(name, [])) for t in usable]) for name in sorted(parts)}
        | {f"outcome/{outcome.value}": outcomes[outcome] / len(played) for outcome in Outcome}
    )


def out_of_time(x: Experiment, clock: Stopwatch) -> bool:
    return x.budget.minutes is not None and clock.seconds >= 60 * x.budget.minutes
