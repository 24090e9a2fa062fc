"""REINFORCE++."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le

from meowtea.algorithms.base import LossAverage
from meowtea.algorithms.gae import returns_to_go
from meowtea.algorithms.kl import Kl, NoKl
from meowtea.algorithms.surrogate import Surrogate
from meowtea.algorithms.whitening import whiten

if TYPE_CHECKING:
    from torch import Tensor

    from meowtea.batch import TokenBatch


class ReinforcePP:
    """REINFORCE++ (Hu et al. 2025, arXiv 2501.03262, equations 4 and 5): the advantage of a token is the sum of
    rewards from it on, with a KL penalty in every token's reward, normalised over all action tokens of the batch.

    1. Rewards of turns count from their turn on only, for a multi-turn episode has several.
    2. gamma discounts per token; the paper has 1.
    3. The paper's clip is PPO's, symmetric; here it may be wider above.

    Bias: the mean and deviation depend on the batch they normalise, and the mean weighs long episodes more. Enumerated
    on the game of tests/algorithms/mdp.py (4 episodes a batch), the expected gradient has cosine 0.993 with the true
    one and 1.40 of its length with sum, 0.989 with token and 0.939 with trajectory averaging.
    """

    needs_critic = False
    min_group_size = 1

    def __init__(
        self,
        *,
        gamma: Annotated[float, Gt(0), Le(1)],
        clip_low: Annotated[float, Gt(0), Le(1)],
        clip_high: Annotated[float, Gt(0)],
        importance_cap: Annotated[float, Ge(1)] | None,
        entropy_coef: Annotated[float, Ge(0)],
        loss_average: LossAverage,
        epochs: Annotated[int, Ge(1)],
        minibatches: Annotated[int, Ge(1)],
        kl: Kl | NoKl,
    ):
        self.gamma = gamma
        self.epochs, self.minibatches, self.loss_average, self.kl = epochs, minibatches, loss_average, kl
        self.surrogate = Surrogate(clip_low, clip_high, importance_cap, entropy_coef, kl)
        self.needs_reference = kl.needs_reference
        self.needs_old_logprob = kl.needs_old_logprob or epochs * minibatches > 1
        self.needs_entropy = entropy_coef > 0
        self.learns_without_advantage = self.surrogate.learns_without_advantage

    def assign_credit(self, batch: TokenBatch) -> dict[str, float]:
        """advantage_A from the returns to go of the whole batch."""
        reward_A, metrics = self.kl.penalise(batch)
        return_A = returns_to_go(reward_A, batch.trajectory_A, self.gamma)
        batch.advantage_A = whiten(return_A)
        return metrics | {"returns/mean": float(return_A.mean()), "returns/std": float(return_A.std(correction=0))}

    def policy_loss(
        self, logprob_A: Tensor, entropy_A: Tensor | None, batch: TokenBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The clipped surrogate: see surrogate.Surrogate."""
        return self.surrogate.loss(logprob_A, entropy_A, batch)

    def state_dict(self) -> dict[str, float]:
        return self.kl.state_dict()

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.kl.load_state_dict(state)
