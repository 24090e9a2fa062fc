import pytest
import torch
from torch.testing import assert_close

from meowtea.algorithms.kl import Kl
from meowtea.algorithms.reinforce_pp import ReinforcePP


def test_credit_by_hand(pack, shared):
    batch = pack([(1, 0.5), (1, 1.0)], [(2, 0.0)])
    metrics = ReinforcePP(gamma=1.0, **shared).assign_credit(batch)
    # returns to go 1.5, 1, 0, 0: mean 0.625, squares 0.765625 + 0.140625 + 2 * 0.390625 = 1.6875, over 3: 0.5625
    assert_close(batch.advantage_A, torch.tensor([0.875, 0.375, -0.625, -0.625]) / 0.75)
    assert metrics["returns/mean"] == pytest.approx(0.625)


def test_discount_per_token(pack, shared):
    batch = pack([(2, 4.0)])
    ReinforcePP(gamma=0.5, **shared).assign_credit(batch)
    # returns to go 2, 4: mean 3, standard deviation sqrt(2)
    assert_close(batch.advantage_A, torch.tensor([-1.0, 1.0]) / 2**0.5)


def test_kl_in_the_reward(pack, shared):
    batch = pack([(2, 1.0)], [(1, 0.0)])
    batch.old_logprob_A = torch.tensor([-1.0, -2.0, -1.0])
    batch.ref_logprob_A = torch.tensor([-2.0, -2.0, -2.0])
    kl = Kl(placement="reward", estimator="k1", coef=1.0, target=None, horizon=None)
    ReinforcePP(gamma=1.0, **shared | {"kl": kl}).assign_credit(batch)
    # token rewards -1, 1 | -1; returns to go 0, 1, -1: mean 0, standard deviation 1
    assert_close(batch.advantage_A, torch.tensor([0.0, 1.0, -1.0]))


def test_equal_returns_give_zero(pack, shared):
    batch = pack([(2, 0.3)], [(1, 0.3)])
    ReinforcePP(gamma=1.0, **shared).assign_credit(batch)
    assert_close(batch.advantage_A, torch.zeros(3))


def test_shift_and_scale_of_the_returns(pack, shared):
    plain, moved = pack([(2, 0.0)], [(1, 1.0)]), pack([(2, 5.0)], [(1, 8.0)])
    for batch in (plain, moved):
        ReinforcePP(gamma=1.0, **shared).assign_credit(batch)
    assert_close(moved.advantage_A, plain.advantage_A)


def test_order_of_trajectories_does_not_matter(pack, shared):
    batch = pack([(1, 0.5), (1, 1.0)], [(2, 0.0)], [(1, -1.0)])
    order = [2, 0, 1]
    shuffled = batch.select(order)
    for some in (batch, shuffled):
        ReinforcePP(gamma=1.0, **shared).assign_credit(some)
    assert_close(shuffled.advantage_A, batch.select(order).advantage_A)


def test_one_token_gets_no_credit(pack, shared):
    batch = pack([(1, 5.0)])
    ReinforcePP(gamma=1.0, **shared).assign_credit(batch)
    assert_close(batch.advantage_A, torch.zeros(1))
