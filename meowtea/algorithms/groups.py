"""Statistics within the groups of episodes that played the same task."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SAME = 1e-6  # returns closer than this are equal: float sums of equal rewards differ by rounding


def trajectory_sum(x_A: Tensor, trajectory_A: Tensor, count: int) -> Tensor:
    """(B,) sum over the action tokens of each trajectory."""
    return x_A.new_zeros(count).index_add_(0, trajectory_A, x_A)


def group_mean(x_B: Tensor, group_B: Tensor) -> Tensor:
    """(B,) mean of the group each trajectory belongs to."""
    index_B, size_P = _groups(group_B)
    return (_sum(x_B, index_B, len(size_P)) / size_P)[index_B]


def group_std(x_B: Tensor, group_B: Tensor) -> Tensor:
    """(B,) sample standard deviation (n - 1 below the line) of each trajectory's group; 0 in a group of one."""
    index_B, size_P = _groups(group_B)
    square_P = _sum((x_B - group_mean(x_B, group_B)) ** 2, index_B, len(size_P))
    return (square_P / (size_P - 1).clamp(min=1)).sqrt()[index_B]


def mean_of_others(x_B: Tensor, group_B: Tensor) -> Tensor:
    """(B,) mean of the other trajectories of the group; in a group of one there are none, so its own value."""
    index_B, size_P = _groups(group_B)
    size_B = size_P[index_B]
    others_B = (_sum(x_B, index_B, len(size_P))[index_B] - x_B) / (size_B - 1).clamp(min=1)
    return others_B.where(size_B > 1, x_B)


def informative_groups(reward_B: Tensor, group_B: Tensor) -> Tensor:
    """(P,) bool, groups in ascending order: the returns of its episodes differ, so it says which were better.

    Groups without that carry no gradient in GRPO and RLOO; a collector may play other tasks in their place.
    """
    index_B, size_P = _groups(group_B)
    low_P = reward_B.new_full((len(size_P),), float("inf")).scatter_reduce_(0, index_B, reward_B, "amin")
    high_P = reward_B.new_full((len(size_P),), float("-inf")).scatter_reduce_(0, index_B, reward_B, "amax")
    return high_P - low_P > SAME


def _groups(group_B: Tensor) -> tuple[Tensor, Tensor]:
    _, index_B, size_P = group_B.unique(return_inverse=True, return_counts=True)
    return index_B, size_P


def _sum(x_B: Tensor, index_B: Tensor, count: int) -> Tensor:
    return x_B.new_zeros(count).index_add_(0, index_B, x_B)
