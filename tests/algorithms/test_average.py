import pytest
import torch
from torch.testing import assert_close

from meowtea.algorithms.average import token_weights


@pytest.mark.parametrize(
    ("loss_average", "expected"),
    [
        ("token", [1 / 4] * 4),  # 4 tokens
        ("trajectory", [1 / 6, 1 / 6, 1 / 6, 1 / 2]),  # 2 trajectories of 3 tokens and of 1
        ("sum", [1 / 2] * 4),  # 2 trajectories
    ],
)
def test_weights(pack, loss_average, expected):
    batch = pack([(1, 0.0), (2, 1.0)], [(1, 0.0)])
    assert_close(token_weights(batch, loss_average), torch.tensor(expected))


@pytest.mark.parametrize("loss_average", ["token", "trajectory", "sum"])
def test_equal_lengths_weigh_alike(pack, loss_average):
    weight_A = token_weights(pack([(2, 0.0)], [(1, 0.0), (1, 1.0)]), loss_average)
    assert len(weight_A.unique()) == 1
