"""Keeping the policy near a frozen reference: a KL penalty in the reward or in the loss.

Estimators of KL(policy || reference) from one sampled token (Schulman 2020, "Approximating KL divergence"), with
d = log policy - log reference:
  k1 = d                    unbiased, high variance, may be negative
  k2 = d^2 / 2              biased, low variance; its gradient is that of the KL of the token
  k3 = exp(-d) - 1 + d      unbiased, low variance, never negative; its gradient is that of KL(reference || policy)
In the loss all of them hold fixed how the current token changes later states; in the reward that is accounted for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt

from meowtea.algorithms.base import filled

if TYPE_CHECKING:
    from torch import Tensor

    from meowtea.batch import TokenBatch

Estimator = Literal["k1", "k2", "k3"]
MOST_NATS = 20.0  # exponents are cut here, so that one absurd token cannot turn a loss into infinity


def estimate_kl(logprob_A: Tensor, ref_logprob_A: Tensor, estimator: Estimator) -> Tensor:
    """(A,) nats; in expectation over tokens sampled from the policy, KL(policy || reference) per token."""
    d_A = logprob_A - ref_logprob_A
    if estimator == "k1":
        return d_A
    if estimator == "k2":
        return d_A.square() / 2
    return (-d_A).clamp(max=MOST_NATS).exp() - 1 + d_A


class NoKl:
    """No reference model, no penalty."""

    in_loss = False
    needs_reference = False
    needs_old_logprob = False

    def penalise(self, batch: TokenBatch) -> tuple[Tensor, dict[str, float]]:
        return batch.reward_A, {}

    def loss(self, logprob_A: Tensor, batch: TokenBatch) -> tuple[Tensor | float, dict[str, Tensor]]:
        return 0.0, {}

    def state_dict(self) -> dict[str, float]:
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        pass


class Kl:
    """A KL penalty with a fixed or an adaptive coefficient (Ziegler et al. 2019, arXiv 1909.08593, section 2.2).

    placement: 'reward' takes coef * KL off the reward of every action token, 'loss' adds it to the loss of every one.
    coef: loss or reward units per nat; the first one if adaptive. 0 needs no reference model.
    target: nats per action token that the coefficient is steered to; None keeps it fixed.
    horizon: episodes in which an error of 20% or more changes the coefficient by 20%. With target only.
    """

    def __init__(
        self,
        *,
        placement: Literal["reward", "loss"],
        estimator: Estimator,
        coef: Annotated[float, Ge(0)],
        target: Annotated[float, Gt(0)] | None,
        horizon: Annotated[int, Ge(1)] | None,
    ):
        self.placement, self.estimator, self.coef = placement, estimator, coef
        self.in_loss = placement == "loss" and coef > 0
        self.target, self.horizon = target, horizon
        self.needs_reference = coef > 0
        self.needs_old_logprob = coef > 0 and (placement == "reward" or target is not None)

    @staticmethod
    def problems(**keys: Any) -> list[str]:
        """Keys that would have no effect, or none that is meant."""
        found = []
        if keys["placement"] == "loss" and keys["estimator"] == "k1":
            found.append(
                "estimator: k1 in the loss has an expected gradient of zero; choose k2, k3 or placement=reward"
            )
        if keys["target"] is None and keys["horizon"] is not None:
            found.append("horizon: has no effect while target is null; set a target or horizon=null")
        if keys["target"] is not None and keys["horizon"] is None:
            found.append("horizon: must be a number of episodes when target is set, got null; 10000 is usual")
        if keys["target"] is not None and keys["coef"] == 0:
            found.append("coef: must be above 0 when target is set: an adaptive coefficient of 0 stays 0")
        return found

    def penalise(self, batch: TokenBatch) -> tuple[Tensor, dict[str, float]]:
        """(A,) the rewards after the penalty, if it belongs there, and metrics. Moves an adaptive coefficient."""
        if not self.needs_old_logprob:
            return batch.reward_A, {}
        kl_A = estimate_kl(filled(batch, "old_logprob_A"), filled(batch, "ref_logprob_A"), self.estimator)
        mean = float(kl_A.mean())
        metrics = {"kl/reference_before": mean, "kl/coef": self.coef}
        reward_A = batch.reward_A - self.coef * kl_A if self.placement == "reward" else batch.reward_A
        if self.target is not None and self.horizon is not None:
            error = min(max(mean / self.target - 1, -0.2), 0.2)
            self.coef *= 1 + error * min(batch.trajectory_count / self.horizon, 1.0)
        return reward_A, metrics

    def loss(self, logprob_A: Tensor, batch: TokenBatch) -> tuple[Tensor | float, dict[str, Tensor]]:
        """(A,) what to add to the loss, differentiable in logprob_A, and metrics per token."""
        if self.placement == "reward" or not self.needs_reference:
            return 0.0, {}
        kl_A = estimate_kl(logprob_A, filled(batch, "ref_logprob_A"), self.estimator)
        return self.coef * kl_A, {"kl/reference": kl_A.detach()}

    def state_dict(self) -> dict[str, float]:
        return {"kl_coef": self.coef}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.coef = state["kl_coef"]
