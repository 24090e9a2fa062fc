"""Numbers worked out by hand in the comments."""

import pytest
import torch
from torch.testing import assert_close

from meowtea.algorithms.gae import gae, returns_to_go

# Two episodes: tokens of rewards (0, 0.5 | 1) with values (0.1, 0.2 | 0.4), and one token of -1 valued 0.3.
REWARD = torch.tensor([0.0, 0.5, 1.0, -1.0])
VALUE = torch.tensor([0.1, 0.2, 0.4, 0.3])
TRAJECTORY = torch.tensor([0, 0, 0, 1])


def test_by_hand():
    # gamma 0.9, lambda 0.8, so 0.72 together.
    # delta: 1 - 0.4 = 0.6;  0.5 + 0.9 * 0.4 - 0.2 = 0.66;  0 + 0.9 * 0.2 - 0.1 = 0.08;  -1 - 0.3 = -1.3
    # advantage: 0.6;  0.66 + 0.72 * 0.6 = 1.092;  0.08 + 0.72 * 1.092 = 0.86624;  -1.3
    assert_close(gae(REWARD, VALUE, TRAJECTORY, 0.9, 0.8), torch.tensor([0.86624, 1.092, 0.6, -1.3]))


def test_lambda_one_is_return_minus_value():
    assert_close(gae(REWARD, VALUE, TRAJECTORY, 1.0, 1.0), torch.tensor([1.5 - 0.1, 1.5 - 0.2, 1 - 0.4, -1 - 0.3]))


def test_lambda_zero_is_the_temporal_difference():
    # 0.2 - 0.1, 0.5 + 0.4 - 0.2, 1 - 0.4, -1 - 0.3
    assert_close(gae(REWARD, VALUE, TRAJECTORY, 1.0, 0.0), torch.tensor([0.1, 0.7, 0.6, -1.3]))


def test_returns_to_go_discount_per_token():
    # 1;  0.5 + 0.5 * 1 = 1;  0 + 0.5 * 1 = 0.5;  -1
    assert_close(returns_to_go(REWARD, TRAJECTORY, 0.5), torch.tensor([0.5, 1.0, 1.0, -1.0]))


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 1.0])
def test_zero_rewards_and_values_give_zero(gae_lambda):
    zeros = torch.zeros(4)
    assert_close(gae(zeros, zeros, TRAJECTORY, 0.9, gae_lambda), zeros)
