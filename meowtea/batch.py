"""TokenBatch: trajectories laid end to end, and the invariants that keep learning honest.

Axes: P tasks per step, G episodes per task, K turns of an episode, B episodes in the batch,
N packed sequences (N >= B), T packed tokens, A action tokens (those the policy sampled), V vocabulary.
A tensor's name ends with its axes. Every quantity of learning lives on the A axis, so algorithms need no masks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from meowtea.errors import BatchError
from meowtea.types import Trajectory


@dataclass
class TokenBatch:
    """Packed trajectories.

    token_T, position_T: ids and positions, sequences laid end to end; position restarts at 0 in each.
    cu_seqlens_N1: (N+1,) offsets of the sequences in T.
    action_index_A: where in T each action token stands. Its logits are those at action_index_A - 1.
    turn_A: index of the turn within its trajectory; trajectory_A: index of the trajectory in the batch.
    group_B: task group of each trajectory; terminal_B: True if the environment ended it (no bootstrap).
    rollout_logprob_A: nats, as the engine sampled. reward_A: a turn's reward on its last action token, else 0.
    The others are filled by the learner (old, ref, value) and the algorithm (advantage, return).
    """

    token_T: Tensor
    position_T: Tensor
    cu_seqlens_N1: Tensor
    action_index_A: Tensor
    turn_A: Tensor
    trajectory_A: Tensor
    group_B: Tensor
    terminal_B: Tensor
    rollout_logprob_A: Tensor
    reward_A: Tensor
    temperature: float = 1.0  # of the sampling distribution: the learner's logprobs use it too
    old_logprob_A: Tensor | None = None
    ref_logprob_A: Tensor | None = None
    value_A: Tensor | None = None
    advantage_A: Tensor | None = None
    return_A: Tensor | None = None

    @classmethod
    def pack(cls, trajectories: Sequence[Trajectory], temperature: float = 1.0) -> TokenBatch:
        """Lay trajectories end to end. Broken episodes and episodes without an action are errors."""
        token: list[int] = []
        position: list[int] = []
        offsets = [0]
        index: list[int] = []
        turn_of: list[int] = []
        trajectory_of: list[int] = []
        logprob: list[float] = []
        reward: list[float] = []
        for b, trajectory in enumerate(trajectories):
            if trajectory.outcome.broken:
                raise BatchError(f"trajectory {b} ({trajectory.task.id}) broke ({trajectory.outcome}): not for updates")
            if len(trajectory.rewards) != len(trajectory.turns):
                raise BatchError(
                    f"trajectory {b} ({trajectory.task.id}) has {len(trajectory.turns)} turns "
                    f"but {len(trajectory.rewards)} rewards: score it before packing"
                )
            for k, turn in enumerate(trajectory.turns):
                if k == 0 and not turn.starts_sequence:
                    raise BatchError(f"trajectory {b} ({trajectory.task.id}): its first turn must start a sequence")
                if len(turn.action_ids) == 0 or len(turn.action_ids) != len(turn.action_logprobs):
                    raise BatchError(
                        f"trajectory {b} ({trajectory.task.id}), turn {k}: {len(turn.action_ids)} action ids and "
                        f"{len(turn.action_logprobs)} logprobs; there must be as many of both, and at least one"
                    )
                if turn.starts_sequence and position:
                    offsets.append(len(token))
                start = len(token) - offsets[-1]
                ids = list(turn.context_ids) + list(turn.action_ids)
                action_start = len(token) + len(turn.context_ids)
                token.extend(ids)
                position.extend(range(start, start + len(ids)))
                index.extend(range(action_start, action_start + len(turn.action_ids)))
                turn_of.extend([k] * len(turn.action_ids))
                trajectory_of.extend([b] * len(turn.action_ids))
                logprob.extend(turn.action_logprobs)
                reward.extend([0.0] * (len(turn.action_ids) - 1) + [float(trajectory.rewards[k])])
        if not index:
            raise BatchError("no action tokens: nothing to learn from")
        offsets.append(len(token))
        batch = cls(
            token_T=torch.tensor(token),
            position_T=torch.tensor(position),
            cu_seqlens_N1=torch.tensor(offsets, dtype=torch.int32),
            action_index_A=torch.tensor(index),
            turn_A=torch.tensor(turn_of),
            trajectory_A=torch.tensor(trajectory_of),
            group_B=torch.tensor([t.group for t in trajectories]),
            terminal_B=torch.tensor([t.outcome.terminal for t in trajectories]),
            rollout_logprob_A=torch.tensor(logprob, dtype=torch.float32),
            reward_A=torch.tensor(reward, dtype=torch.float32),
            temperature=temperature,
        )
        batch.validate(trajectories)
        return batch

    @property
    def trajectory_count(self) -> int:
        return len(self.group_B)

    @property
    def action_count(self) -> int:
        return len(self.action_index_A)

    def reward_B(self) -> Tensor:
        """(B,) sum of rewards of each trajectory: its return at discount 1."""
        return self.reward_A.new_zeros(self.trajectory_count).index_add_(0, self.trajectory_A, self.reward_A)

    def sequence_A(self) -> Tensor:
        """(A,) the packed sequence each action token stands in."""
        return torch.searchsorted(self.cu_seqlens_N1[1:].long(), self.action_index_A, right=True)

    def to(self, device: torch.device | str) -> TokenBatch:
        moved: dict[str, Any] = {
            f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def select(self, trajectories: Sequence[int]) -> TokenBatch:
        """The sub-batch of these trajectories, in this order. Every filled A quantity comes along."""
        sequence_A = self.sequence_A()
        actions, tokens, offsets, owner = [], [], [0], []
        shift = []
        for new, b in enumerate(trajectories):
            chosen = (self.trajectory_A == b).nonzero()[:, 0]
            actions.append(chosen)
            owner.append(torch.full_like(chosen, new))
            for n in sequence_A[chosen].unique(sorted=True).tolist():
                start, stop = int(self.cu_seqlens_N1[n]), int(self.cu_seqlens_N1[n + 1])
                here = chosen[sequence_A[chosen] == n]
                shift.append(torch.full_like(here, offsets[-1] - start))
                tokens.append(torch.arange(start, stop))
                offsets.append(offsets[-1] + stop - start)
        action, token = torch.cat(actions), torch.cat(tokens)
        pick = torch.tensor(list(trajectories))
        on_A: dict[str, Any] = {
            f.name: v[action]
            for f in fields(self)
            if f.name.endswith("_A") and isinstance(v := getattr(self, f.name), Tensor)
        }
        on_A["action_index_A"] = on_A["action_index_A"] + torch.cat(shift)
        on_A["trajectory_A"] = torch.cat(owner)
        return replace(
            self,
            token_T=self.token_T[token],
            position_T=self.position_T[token],
            cu_seqlens_N1=torch.tensor(offsets, dtype=torch.int32),
            group_B=self.group_B[pick],
            terminal_B=self.terminal_B[pick],
            **on_A,
        )

    def validate(self, trajectories: Sequence[Trajectory] | None = None) -> None:
        """Raise BatchError at the first violated invariant. Cheap: run every step."""

        def require(condition: object, sentence: str) -> None:
            if not bool(condition):
                raise BatchError(f"token batch: {sentence}")

        tokens, actions = len(self.token_T), self.action_count
        offsets = self.cu_seqlens_N1.long()
        require(len(self.position_T) == tokens, "positions and tokens differ in number")
        require(offsets[0] == 0 and offsets[-1] == tokens, "the sequences do not cover the tokens exactly")
        require((offsets.diff() > 0).all(), "a packed sequence is empty")
        starts = torch.zeros(tokens, dtype=torch.long)
        starts[offsets[1:-1]] = offsets.diff()[:-1]
        require(
            (self.position_T == torch.arange(tokens) - starts.cumsum(0)).all(),
            "positions do not count up from 0 within each sequence",
        )
        require((self.action_index_A.diff() > 0).all(), "action indices do not increase")
        require((self.position_T[self.action_index_A] > 0).all(), "an action token has no token before it")
        for field_ in fields(self):
            value = getattr(self, field_.name)
            if field_.name.endswith("_A") and isinstance(value, Tensor):
                require(value.shape == (actions,), f"{field_.name} is not on the action axis")
                if value.is_floating_point():
                    require(value.isfinite().all(), f"{field_.name} has a value that is not finite")
        require((self.rollout_logprob_A <= 1e-4).all(), "a rollout logprob is above 0")
        require((self.trajectory_A.diff() >= 0).all(), "trajectories are out of order on the action axis")
        require(
            len(self.trajectory_A.unique()) == self.trajectory_count, "a trajectory of the batch has no action token"
        )
        same = self.trajectory_A[1:] == self.trajectory_A[:-1]
        require((self.turn_A.diff()[same] >= 0).all(), "turns are out of order within a trajectory")
        last = torch.ones(actions, dtype=torch.bool)
        last[:-1] = (self.turn_A.diff() != 0) | ~same
        require((self.reward_A[~last] == 0).all(), "a reward is not on the last action token of its turn")
        if trajectories is not None:
            sums = self.reward_B().tolist()
            for b, trajectory in enumerate(trajectories):
                require(
                    math.isclose(sums[b], sum(trajectory.rewards), rel_tol=1e-4, abs_tol=1e-4),
                    f"the rewards of trajectory {b} sum to {sums[b]}, not {sum(trajectory.rewards)}",
                )
            sampled = [i for t in trajectories for turn in t.turns for i in turn.action_ids]
            require(self.token_T[self.action_index_A].tolist() == sampled, "action tokens differ from those sampled")
