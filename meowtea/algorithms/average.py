"""How much each action token counts in the loss of one optimizer step."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from meowtea.algorithms.base import LossAverage
    from meowtea.batch import TokenBatch


def token_weights(batch: TokenBatch, loss_average: LossAverage) -> Tensor:
    """(A,) weights over the whole batch of an optimizer step, to be cut into micro-batches afterwards.

    token: every action token alike, 1 / A (DAPO, arXiv 2503.14476, equation 8).
    trajectory: every trajectory alike, its tokens share 1 / B (GRPO, arXiv 2402.03300, equation 3): long
    trajectories lose weight per token.
    sum: 1 / B for every token, the tokens of a trajectory are summed (Dr. GRPO, arXiv 2503.20783, up to a constant).
    Only this is the policy gradient itself; `token` divides it by a mean length that depends on the batch.
    The weights of `token` and `trajectory` sum to 1, those of `sum` to the mean number of action tokens A / B.
    """
    ones_A = batch.rollout_logprob_A.new_ones(batch.action_count)
    if loss_average == "token":
        return ones_A / batch.action_count
    if loss_average == "sum":
        return ones_A / batch.trajectory_count
    length_B = ones_A.new_zeros(batch.trajectory_count).index_add_(0, batch.trajectory_A, ones_A)
    return 1 / (batch.trajectory_count * length_B[batch.trajectory_A])
