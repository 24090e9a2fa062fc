import pytest
import torch
from torch.testing import assert_close

from meowtea.algorithms.grpo import Grpo
from meowtea.algorithms.kl import Kl

# Group 5: returns 3, 1, 2; group 2: returns 0, 4. Rewards are spread over turns of different lengths.
EPISODES = [[(1, 1.0), (2, 2.0)], [(1, 0.0)], [(2, 1.0)], [(1, 4.0)], [(1, -1.0), (1, 3.0)]]
GROUPS = [5, 2, 5, 2, 5]
OWNER = torch.tensor([0, 0, 0, 1, 2, 2, 3, 4, 4])


def test_credit_by_hand(pack, shared):
    batch = pack(*EPISODES, groups=GROUPS)
    metrics = Grpo(normalize_std=True, **shared).assign_credit(batch)
    # group 5: mean 2, standard deviation 1; group 2: mean 2, standard deviation sqrt(8)
    expected_B = torch.tensor([1.0, -2 / 8**0.5, -1.0, 2 / 8**0.5, 0.0])
    assert_close(batch.advantage_A, expected_B[OWNER])
    assert metrics == {"groups/zero_variance": 0.0}


def test_without_standard_deviation(pack, shared):
    batch = pack(*EPISODES, groups=GROUPS)
    Grpo(normalize_std=False, **shared).assign_credit(batch)
    assert_close(batch.advantage_A, torch.tensor([1.0, -2.0, -1.0, 2.0, 0.0])[OWNER])


@pytest.mark.parametrize("normalize_std", [True, False])
def test_reward_shift_and_scale(pack, shared, normalize_std):
    """The same reward added to every episode changes nothing; doubling counts only without normalisation."""
    plain = pack([(1, 0.0)], [(2, 1.0)], [(1, 3.0)])
    shifted = pack([(1, 10.0)], [(2, 11.0)], [(1, 13.0)])
    doubled = pack([(1, 0.0)], [(2, 2.0)], [(1, 6.0)])
    for batch in (plain, shifted, doubled):
        Grpo(normalize_std=normalize_std, **shared).assign_credit(batch)
    assert_close(shifted.advantage_A, plain.advantage_A)
    factor = 1 if normalize_std else 2
    assert_close(doubled.advantage_A, factor * plain.advantage_A)


@pytest.mark.parametrize("normalize_std", [True, False])
def test_equal_rewards_give_zero(pack, shared, normalize_std):
    batch = pack([(1, 0.1), (1, 0.2)], [(2, 0.3)], [(1, 1.0)], [(1, 0.0)], groups=[0, 0, 1, 1])
    metrics = Grpo(normalize_std=normalize_std, **shared).assign_credit(batch)
    assert_close(batch.advantage_A[:4], torch.zeros(4), atol=1e-6, rtol=0)
    assert metrics == {"groups/zero_variance": 0.5}


def test_kl_in_the_reward_is_not_blown_up_where_rewards_agree(pack, shared):
    batch = pack([(1, 1.0)], [(1, 1.0)], [(1, 1.0)], [(1, 3.0)], groups=[0, 0, 1, 1])
    batch.old_logprob_A = torch.tensor([-1.0, -1.0, -1.0, -1.0])
    batch.ref_logprob_A = torch.tensor([-1.2, -1.0, -1.2, -1.0])
    kl = Kl(placement="reward", estimator="k1", coef=0.1, target=None, horizon=None)
    Grpo(normalize_std=True, **shared | {"kl": kl}).assign_credit(batch)
    # penalties 0.02 and 0, centred: 0.01 and -0.01. Group 0 has only those, group 1 also -+ 1 / sqrt(2).
    half = 2**-0.5
    expected = torch.tensor([-0.01, 0.01, -half - 0.01, half + 0.01])
    assert_close(batch.advantage_A, expected)


def test_order_of_trajectories_does_not_matter(pack, shared):
    batch = pack(*EPISODES, groups=GROUPS)
    order = [3, 0, 4, 2, 1]
    shuffled = batch.select(order)
    for some in (batch, shuffled):
        Grpo(normalize_std=True, **shared).assign_credit(some)
    assert_close(shuffled.advantage_A, batch.select(order).advantage_A)


def test_an_episode_left_alone_gets_no_credit(pack, shared):
    batch = pack([(2, 5.0)])
    Grpo(normalize_std=True, **shared).assign_credit(batch)
    assert_close(batch.advantage_A, torch.zeros(2))
