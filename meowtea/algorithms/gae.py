"""Discounted sums along the action tokens of each trajectory, through all its turns and sequences in time order."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def gae(reward_A: Tensor, value_A: Tensor, trajectory_A: Tensor, gamma: float, gae_lambda: float) -> Tensor:
    """Generalized advantage estimation (Schulman et al. 2016, arXiv 1506.02438, equation 16), (A,).

    delta_t = r_t + gamma V_{t+1} - V_t, where t + 1 is the next *action token* of the trajectory, whichever turn it is
    in (arXiv 2510.01132, section 3), and advantage_t = delta_t + gamma lambda advantage_{t+1}. So gamma and lambda
    count tokens, not turns: with gamma < 1 a long reply discounts more than a short one.

    After the last action token the value is 0, also for an episode that ran out of turns or tokens: those limits
    belong to the task (success within the limit is what is measured), so no reward can follow.
    """
    reward, value, trajectory = reward_A.tolist(), value_A.tolist(), trajectory_A.tolist()
    advantage = [0.0] * len(reward)
    next_value = next_advantage = 0.0
    for t in reversed(range(len(reward))):
        if t + 1 == len(reward) or trajectory[t + 1] != trajectory[t]:
            next_value = next_advantage = 0.0
        delta = reward[t] + gamma * next_value - value[t]
        advantage[t] = next_advantage = delta + gamma * gae_lambda * next_advantage
        next_value = value[t]
    return value_A.new_tensor(advantage)


def returns_to_go(reward_A: Tensor, trajectory_A: Tensor, gamma: float) -> Tensor:
    """(A,) sum of the rewards from each action token on, discounted by gamma per token."""
    return gae(reward_A, reward_A.new_zeros(len(reward_A)), trajectory_A, gamma, 1.0)
