"""PPO with a critic of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le

from meowtea.algorithms.base import LossAverage, filled
from meowtea.algorithms.gae import gae
from meowtea.algorithms.kl import Kl, NoKl
from meowtea.algorithms.surrogate import Surrogate
from meowtea.algorithms.whitening import whiten

if TYPE_CHECKING:
    from torch import Tensor

    from meowtea.batch import TokenBatch


class Ppo:
    """Proximal policy optimisation over action tokens (Schulman et al. 2017, arXiv 1707.06347, equations 7 and 9), with
    advantages from a critic by token-level GAE through all turns (arXiv 2510.01132, section 3).

    1. Actor and critic share no weights, so the losses are separate and have learning rates of their own.
    2. value_clip keeps the new value near the old one (Engstrom et al. 2020, arXiv 2005.12729, section 3).
    3. Episodes that ran out of turns or tokens are not bootstrapped: see gae.gae.

    Bias: none at gae_lambda = 1 for any critic, or at any gae_lambda for an exact one, with whiten_advantages = false
    and loss_average = sum. Enumerated on the game of tests/algorithms/mdp.py (4 episodes a batch, sum), the expected
    gradient has cosine 0.968 with the true one and 0.80 of its length for a critic half too low at gae_lambda = 0
    (0.991 and 0.88 at 0.5), and 0.994 and 1.53 for an exact critic with whitening; whitening with token averaging
    makes it 0.978, with trajectory averaging 0.907.
    """

    needs_critic = True
    min_group_size = 1

    def __init__(
        self,
        *,
        critic_lr: Annotated[float, Gt(0)],
        critic_warmup_steps: Annotated[int, Ge(0)],
        critic_layers: Annotated[int, Ge(1)] | None,
        gamma: Annotated[float, Gt(0), Le(1)],
        gae_lambda: Annotated[float, Ge(0), Le(1)],
        whiten_advantages: bool,
        value_clip: Annotated[float, Gt(0)] | None,
        clip_low: Annotated[float, Gt(0), Le(1)],
        clip_high: Annotated[float, Gt(0)],
        importance_cap: Annotated[float, Ge(1)] | None,
        entropy_coef: Annotated[float, Ge(0)],
        loss_average: LossAverage,
        epochs: Annotated[int, Ge(1)],
        minibatches: Annotated[int, Ge(1)],
        kl: Kl | NoKl,
    ):
        self.critic_lr, self.critic_warmup_steps, self.critic_layers = critic_lr, critic_warmup_steps, critic_layers
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self.whiten_advantages, self.value_clip = whiten_advantages, value_clip
        self.epochs, self.minibatches, self.loss_average, self.kl = epochs, minibatches, loss_average, kl
        self.surrogate = Surrogate(clip_low, clip_high, importance_cap, entropy_coef, kl)
        self.needs_reference = kl.needs_reference
        self.needs_old_logprob = kl.needs_old_logprob or epochs * minibatches > 1
        self.needs_entropy = entropy_coef > 0
        self.learns_without_advantage = self.surrogate.learns_without_advantage

    def assign_credit(self, batch: TokenBatch) -> dict[str, float]:
        """advantage_A by GAE, and return_A = advantage + value, what the critic is to predict."""
        value_A = filled(batch, "value_A")
        reward_A, metrics = self.kl.penalise(batch)
        advantage_A = gae(reward_A, value_A, batch.trajectory_A, self.gamma, self.gae_lambda)
        batch.return_A = advantage_A + value_A
        batch.advantage_A = whiten(advantage_A) if self.whiten_advantages else advantage_A
        unexplained = advantage_A.var(correction=0) / batch.return_A.var(correction=0).clamp(min=1e-8)
        return metrics | {
            "critic/value": float(value_A.mean()),
            "critic/return": float(batch.return_A.mean()),
            "critic/explained_variance": float(1 - unexplained),
        }

    def policy_loss(
        self, logprob_A: Tensor, entropy_A: Tensor | None, batch: TokenBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The clipped surrogate: see surrogate.Surrogate."""
        return self.surrogate.loss(logprob_A, entropy_A, batch)

    def value_loss(self, value_A: Tensor, batch: TokenBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Half the squared error (A,); with value_clip the larger of that and of the clipped value's."""
        return_A, old_value_A = filled(batch, "return_A"), filled(batch, "value_A")
        error_A = (value_A - return_A).square()
        if self.value_clip is None:
            return error_A / 2, {"critic/error": error_A.detach()}
        near_A = old_value_A + (value_A - old_value_A).clamp(-self.value_clip, self.value_clip)
        near_error_A = (near_A - return_A).square()
        clipped_A = (near_error_A > error_A).float()
        return error_A.maximum(near_error_A) / 2, {"critic/error": error_A.detach(), "critic/clipped": clipped_A}

    def state_dict(self) -> dict[str, float]:
        return self.kl.state_dict()

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.kl.load_state_dict(state)
