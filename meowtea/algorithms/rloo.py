"""RLOO: REINFORCE leave-one-out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le

from meowtea.algorithms.base import LossAverage
from meowtea.algorithms.groups import informative_groups, mean_of_others, trajectory_sum
from meowtea.algorithms.kl import Kl, NoKl
from meowtea.algorithms.surrogate import Surrogate

if TYPE_CHECKING:
    from torch import Tensor

    from meowtea.batch import TokenBatch


class Rloo:
    """REINFORCE leave-one-out (Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740, equation 8): the advantage of
    every token is its trajectory's return minus the mean return of the other episodes of the task.

    1. The return is the undiscounted sum of the rewards of all turns, minus the KL penalty if it is in the reward.
    2. Clipped ratios, for more than one optimizer step per batch; with one step they are 1.
    3. An episode left alone in its group has no baseline and gets advantage 0.

    Bias: none with loss_average = sum. Enumerated on the game of tests/algorithms/mdp.py (groups of 4), the expected
    gradient has cosine 0.995 with the true one with token averaging, whose divisor depends on the batch, and 0.946
    with trajectory averaging, which makes the tokens of long episodes count less.
    """

    needs_critic = False
    min_group_size = 2

    def __init__(
        self,
        *,
        clip_low: Annotated[float, Gt(0), Le(1)],
        clip_high: Annotated[float, Gt(0)],
        importance_cap: Annotated[float, Ge(1)] | None,
        entropy_coef: Annotated[float, Ge(0)],
        loss_average: LossAverage,
        epochs: Annotated[int, Ge(1)],
        minibatches: Annotated[int, Ge(1)],
        kl: Kl | NoKl,
    ):
        self.epochs, self.minibatches, self.loss_average, self.kl = epochs, minibatches, loss_average, kl
        self.surrogate = Surrogate(clip_low, clip_high, importance_cap, entropy_coef, kl)
        self.needs_reference = kl.needs_reference
        self.needs_old_logprob = kl.needs_old_logprob or epochs * minibatches > 1
        self.needs_entropy = entropy_coef > 0
        self.learns_without_advantage = self.surrogate.learns_without_advantage

    def assign_credit(self, batch: TokenBatch) -> dict[str, float]:
        """advantage_A from the returns of each group."""
        reward_A, metrics = self.kl.penalise(batch)
        return_B = trajectory_sum(reward_A, batch.trajectory_A, batch.trajectory_count)
        batch.advantage_A = (return_B - mean_of_others(return_B, batch.group_B))[batch.trajectory_A]
        plain_B = trajectory_sum(batch.reward_A, batch.trajectory_A, batch.trajectory_count)
        zero_variance = 1 - informative_groups(plain_B, batch.group_B).float().mean()
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
