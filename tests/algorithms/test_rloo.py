import torch
from torch.testing import assert_close

from meowtea.algorithms.kl import Kl
from meowtea.algorithms.rloo import Rloo

# Group 5: returns 3, 1, 2; group 2: returns 0, 4. Rewards are spread over turns of different lengths.
EPISODES = [[(1, 1.0), (2, 2.0)], [(1, 0.0)], [(2, 1.0)], [(1, 4.0)], [(1, -1.0), (1, 3.0)]]
GROUPS = [5, 2, 5, 2, 5]
OWNER = torch.tensor([0, 0, 0, 1, 2, 2, 3, 4, 4])


def test_credit_by_hand(pack, shared):
    batch = pack(*EPISODES, groups=GROUPS)
    metrics = Rloo(**shared).assign_credit(batch)
    # 3 - (1 + 2) / 2, 0 - 4, 1 - (3 + 2) / 2, 4 - 0, 2 - (3 + 1) / 2
    assert_close(batch.advantage_A, torch.tensor([1.5, -4.0, -1.5, 4.0, 0.0])[OWNER])
    assert metrics == {"groups/zero_variance": 0.0}


def test_reward_shift(pack, shared):
    plain = pack([(1, 0.0)], [(2, 1.0)], [(1, 3.0)])
    shifted = pack([(1, 10.0)], [(2, 11.0)], [(1, 13.0)])
    for batch in (plain, shifted):
        Rloo(**shared).assign_credit(batch)
    assert_close(shifted.advantage_A, plain.advantage_A)


def test_equal_rewards_give_zero(pack, shared):
    batch = pack([(1, 0.1), (1, 0.2)], [(2, 0.3)], [(1, 1.0)], [(1, 0.0)], groups=[0, 0, 1, 1])
    metrics = Rloo(**shared).assign_credit(batch)
    assert_close(batch.advantage_A[:4], torch.zeros(4), atol=1e-6, rtol=0)
    assert metrics == {"groups/zero_variance": 0.5}


def test_kl_in_the_reward_belongs_to_the_return(pack, shared):
    batch = pack([(2, 1.0)], [(1, 0.0)])
    batch.old_logprob_A = torch.tensor([-1.0, -2.0, -1.0])
    batch.ref_logprob_A = torch.tensor([-1.5, -1.8, -1.0])
    kl = Kl(placement="reward", estimator="k1", coef=0.1, target=None, horizon=None)
    metrics = Rloo(**shared | {"kl": kl}).assign_credit(batch)
    # returns 1 - 0.1 * (0.5 - 0.2) = 0.97 and 0
    assert_close(batch.advantage_A, torch.tensor([0.97, 0.97, -0.97]))
    assert {"kl/coef", "kl/reference_before", "groups/zero_variance"} == set(metrics)


def test_order_of_trajectories_does_not_matter(pack, shared):
    batch = pack(*EPISODES, groups=GROUPS)
    order = [3, 0, 4, 2, 1]
    shuffled = batch.select(order)
    for some in (batch, shuffled):
        Rloo(**shared).assign_credit(some)
    assert_close(shuffled.advantage_A, batch.select(order).advantage_A)


def test_an_episode_left_alone_gets_no_credit(pack, shared):
    batch = pack([(2, 5.0)])
    Rloo(**shared).assign_credit(batch)
    assert_close(batch.advantage_A, torch.zeros(2))
