"""The clipped surrogate that every policy gradient here minimises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meowtea.algorithms.base import filled
from meowtea.algorithms.kl import MOST_NATS

if TYPE_CHECKING:
    from torch import Tensor

    from meowtea.algorithms.kl import Kl, NoKl
    from meowtea.batch import TokenBatch


def importance_weight(old_logprob_A: Tensor, rollout_logprob_A: Tensor, cap: float) -> Tensor:
    """(A,) truncated importance weights (Ionides 2008, equation 2), min(learner / engine probability, cap).

    Engine and learner compute the same weights with other kernels and precisions, so tokens come from a slightly
    different policy (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training").
    Below the cap the weight removes that difference from the token's own term; the cap bounds the variance.
    """
    return (old_logprob_A - rollout_logprob_A).clamp(max=MOST_NATS).exp().clamp(max=cap)


class Surrogate:
    """PPO's clipped objective (Schulman et al. 2017, arXiv 1707.06347, equation 7), per action token, negated.

    1. The clip range may be wider above (clip_high) than below (DAPO, arXiv 2503.14476, equation 10).
    2. Times a truncated importance weight between engine and learner, unless importance_cap is None.
    3. Minus entropy_coef * entropy, plus a KL penalty where it belongs to the loss; these are not weighted.
    """

    def __init__(
        self, clip_low: float, clip_high: float, importance_cap: float | None, entropy_coef: float, kl: Kl | NoKl
    ):
        self.clip_low, self.clip_high, self.importance_cap = clip_low, clip_high, importance_cap
        self.entropy_coef, self.kl = entropy_coef, kl
        # Only then can a token with advantage 0 have a gradient.
        self.learns_without_advantage = entropy_coef > 0 or kl.in_loss

    def loss(self, logprob_A: Tensor, entropy_A: Tensor | None, batch: TokenBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss per action token (A,) and metrics per action token, as Algorithm.policy_loss."""
        advantage_A = filled(batch, "advantage_A")
        old_logprob_A = logprob_A.detach() if batch.old_logprob_A is None else batch.old_logprob_A
        log_ratio_A = logprob_A - old_logprob_A
        ratio_A = log_ratio_A.clamp(max=MOST_NATS).exp()
        low, high = 1 - self.clip_low, 1 + self.clip_high
        loss_A = -(ratio_A * advantage_A).minimum(ratio_A.clamp(low, high) * advantage_A)
        ratio_value_A = ratio_A.detach()
        metrics = {
            "policy/clipped_low": ((ratio_value_A < low) & (advantage_A < 0)).float(),
            "policy/clipped_high": ((ratio_value_A > high) & (advantage_A > 0)).float(),
            "policy/kl_old": ratio_value_A - 1 - log_ratio_A.detach(),
        }
        if self.importance_cap is not None:
            weight_A = importance_weight(old_logprob_A, batch.rollout_logprob_A, self.importance_cap)
            loss_A = loss_A * weight_A
            metrics["policy/importance_weight"] = weight_A
            metrics["policy/importance_capped"] = (weight_A >= self.importance_cap).float()
        if entropy_A is not None:
            loss_A = loss_A - self.entropy_coef * entropy_A
        kl_loss_A, kl_metrics = self.kl.loss(logprob_A, batch)
        return loss_A + kl_loss_A, metrics | kl_metrics
