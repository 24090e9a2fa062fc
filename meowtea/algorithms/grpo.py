"""GRPO and Dr. GRPO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le

from meowtea.algorithms.base import LossAverage
from meowtea.algorithms.groups import SAME, group_mean, group_std, informative_groups, trajectory_sum
from meowtea.algorithms.kl import Kl, NoKl
from meowtea.algorithms.surrogate import Surrogate

if TYPE_CHECKING:
    from torch import Tensor

    from meowtea.batch import TokenBatch


class Grpo:
    """Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300, equation 3 and section 4.1.2): the
    advantage of every token is its trajectory's return, minus the mean and over the standard deviation of its group.

    normalize_std = false with loss_average = sum is Dr. GRPO (Liu et al. 2025, arXiv 2503.20783).
    1. The return is the undiscounted sum of the rewards of all turns: one number for every token.
    2. A KL penalty in the reward (the paper has it in the loss) is centred within the group but not divided by its
       standard deviation: where all rewards agree, that would blow the penalty's noise up to full size.
    3. A group whose returns agree has advantage 0, as has a group of which one episode is left.

    Bias: enumerated on the game of tests/algorithms/mdp.py (groups of 4), the expected gradient has cosine 0.999 with
    the true one and 1.19 of its length with sum, 0.991 with token and 0.937 with trajectory averaging. Dr. GRPO has
    the true direction and (G - 1) / G of the length, because the mean includes the episode itself. Between tasks the
    division weighs those up where episodes hardly differ, which one game cannot show.
    """

    needs_critic = False
    min_group_size = 2

    def __init__(
        self,
        *,
        normalize_std: bool,
        clip_low: Annotated[float, Gt(0), Le(1)],
        clip_high: Annotated[float, Gt(0)],
        importance_cap: Annotated[float, Ge(1)] | None,
        entropy_coef: Annotated[float, Ge(0)],
        loss_average: LossAverage,
        epochs: Annotated[int, Ge(1)],
        minibatches: Annotated[int, Ge(1)],
        kl: Kl | NoKl,
    ):
        self.normalize_std = normalize_std
        self.epochs, self.minibatches, self.loss_average, self.kl = epochs, minibatches, loss_average, kl
        self.surrogate = Surrogate(clip_low, clip_high, importance_cap, entropy_coef, kl)
        self.needs_reference = kl.needs_reference
        self.needs_old_logprob = kl.needs_old_logprob or epochs * minibatches > 1
        self.needs_entropy = entropy_coef > 0
        self.learns_without_advantage = self.surrogate.learns_without_advantage

    def assign_credit(self, batch: TokenBatch) -> dict[str, float]:
        """advantage_A from the returns of each group."""
        reward_A, metrics = self.kl.penalise(batch)
        count, group_B = batch.trajectory_count, batch.group_B
        return_B = trajectory_sum(batch.reward_A, batch.trajectory_A, count)
        penalty_B = trajectory_sum(batch.reward_A - reward_A, batch.trajectory_A, count)
        advantage_B = return_B - group_mean(return_B, group_B)
        if self.normalize_std:
            std_B = group_std(return_B, group_B)
            advantage_B = (advantage_B / std_B).where(std_B > SAME, 0.0)
        advantage_B = advantage_B - (penalty_B - group_mean(penalty_B, group_B))
        batch.advantage_A = advantage_B[batch.trajectory_A]
        zero_variance = 1 - informative_groups(return_B, group_B).float().mean()
        return metrics | {"groups/zero_variance": float(zero_variance)}

    def policy_loss(
        self, logprob_A: Tensor, entropy_A: Tensor | None, batch: TokenBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The clipped surrogate: see surrogate.Surrogate."""
        return self.surrogate.loss(logprob_A, entropy_A, batch)

    def state_dict(self) -> dict[str, float]:
        return self.kl.state_dict()

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.kl.load_state_dict(state)
