"""What an algorithm is: credit on the action axis, and a loss per action token. Pure tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from meowtea.errors import BatchError

if TYPE_CHECKING:
    from torch import Tensor

    from meowtea.batch import TokenBatch

LossAverage = Literal["token", "trajectory", "sum"]


class Algorithm(Protocol):
    """
    needs_critic / needs_reference / needs_old_logprob: whether value_A / ref_logprob_A / old_logprob_A must be on
    the batch before assign_credit. Without old_logprob_A the policy that is improved is taken for the old one,
    which is exact as long as a batch gives one optimizer step.
    needs_entropy: whether policy_loss must get entropy_A.
    learns_without_advantage: False if tokens with advantage 0 have no gradient (no entropy bonus, no KL in the loss):
        the learner may then leave out trajectories that have no other.
    min_group_size: episodes per task below which the estimator is undefined.
    epochs, minibatches: passes over a batch, and optimizer steps per pass.
    loss_average: how action tokens are weighed in an optimizer step, see average.token_weights.
    """

    needs_critic: bool
    needs_reference: bool
    needs_old_logprob: bool
    needs_entropy: bool
    learns_without_advantage: bool
    min_group_size: int
    epochs: int
    minibatches: int
    loss_average: LossAverage

    def assign_credit(self, batch: TokenBatch) -> dict[str, float]:
        """Fill advantage_A (and return_A with a critic) in place from rewards, values and logprobs. Returns metrics.

        Call it once per batch, on the whole batch: an adaptive KL coefficient moves here.
        """
        ...

    def policy_loss(
        self, logprob_A: Tensor, entropy_A: Tensor | None, batch: TokenBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss per action token (A,), unreduced, and metrics per token (A,), detached.

        The loss of an optimizer step is sum(loss_A * weight_A) with weight_A = token_weights(the step's whole batch,
        loss_average), a metric is sum(metric_A * weight_A) / sum(weight_A): neither depends on how the step was cut
        into micro-batches. entropy_A (A,) is in nats and may be None unless needs_entropy.
        """
        ...

    def state_dict(self) -> dict[str, float]:
        """What must survive a restart (an adaptive KL coefficient, say)."""
        ...

    def load_state_dict(self, state: dict[str, float]) -> None: ...


class ActorCritic(Algorithm, Protocol):
    """An algorithm with needs_critic = True.

    critic_lr: peak learning rate of the critic. critic_warmup_steps: first RL steps (batches) in which only the
    critic learns. critic_layers: transformer layers the critic keeps, counted from the embedding; None keeps all.
    """

    critic_lr: float
    critic_warmup_steps: int
    critic_layers: int | None

    def value_loss(self, value_A: Tensor, batch: TokenBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """As policy_loss, for the critic: value_A (A,) is the value of the history before each action token."""
        ...


def filled(batch: TokenBatch, name: str) -> Tensor:
    """A quantity that the learner or assign_credit must have put on the batch. Raises BatchError if it is missing."""
    value = getattr(batch, name)
    if value is None:
        raise BatchError(f"token batch: {name} is empty; annotate the batch and assign credit before computing a loss")
    return value
