"""What an algorithm is: credit on the action axis, and a loss per action token. Pure tensors."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from meowtea.batch import TokenBatch


class Algorithm(Protocol):
    """
    needs_critic / needs_reference: whether value_A / ref_logprob_A must be on the batch before assign_credit.
    min_group_size: episodes per task below which the estimator is undefined.
    epochs, minibatches: passes over a batch, and optimizer steps per pass.
    loss_average: 'token' weighs every action token of an optimizer step alike, 'trajectory' every trajectory.
    """

    needs_critic: bool
    needs_reference: bool
    min_group_size: int
    epochs: int
    minibatches: int
    loss_average: str

    def assign_credit(self, batch: TokenBatch) -> dict[str, float]:
        """Fill advantage_A (and return_A with a critic) in place from rewards, values and logprobs. Returns metrics."""
        ...

    def policy_loss(
        self, logprob_A: Tensor, entropy_A: Tensor, batch: TokenBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss per action token (A,), unreduced, and metrics per token (A,), detached.

        The learner weighs and sums them: sum(loss_A * weight_A) with weights that sum to 1 over the whole
        optimizer step, so no result depends on how the step was cut into micro-batches.
        """
        ...

    def value_loss(self, value_A: Tensor, batch: TokenBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The same for the critic; only called when needs_critic."""
        ...

    def state_dict(self) -> dict[str, float]:
        """What must survive a restart (an adaptive KL coefficient, say)."""
        ...

    def load_state_dict(self, state: dict[str, float]) -> None: ...
