import pytest
import torch
from torch.testing import assert_close

from meowtea.algorithms.kl import Kl
from meowtea.algorithms.ppo import Ppo
from meowtea.errors import BatchError

EPISODES = [[(2, 0.5), (1, 1.0)], [(1, -1.0)]]
VALUE = torch.tensor([0.1, 0.2, 0.4, 0.3])


def test_credit_by_hand(pack, ppo_keys):
    batch = pack(*EPISODES)
    batch.value_A = VALUE
    metrics = Ppo(**ppo_keys | {"gamma": 0.9, "gae_lambda": 0.8}).assign_credit(batch)
    assert_close(batch.advantage_A, torch.tensor([0.86624, 1.092, 0.6, -1.3]))  # as worked out in test_gae
    assert_close(batch.return_A, torch.tensor([0.96624, 1.292, 1.0, -1.0]))
    assert metrics["critic/value"] == pytest.approx(0.25)
    assert metrics["critic/return"] == pytest.approx(2.25824 / 4)
    batch.validate()


def test_credit_runs_through_rewritten_histories(pack, ppo_keys):
    """A window opens a new packed sequence at every turn: the same credit as in one sequence."""
    whole, windowed = pack(*EPISODES), pack(*EPISODES, window=True)
    assert len(windowed.cu_seqlens_N1) > len(whole.cu_seqlens_N1)
    whole.value_A = windowed.value_A = VALUE
    for batch in (whole, windowed):
        Ppo(**ppo_keys).assign_credit(batch)
    assert_close(windowed.advantage_A, whole.advantage_A)


def test_whitening(pack, ppo_keys):
    batch = pack(*EPISODES)
    batch.value_A = VALUE
    Ppo(**ppo_keys | {"whiten_advantages": True}).assign_credit(batch)
    # advantages 1.4, 1.3, 0.6, -1.3: mean 0.5, deviations 0.9, 0.8, 0.1, -1.8, squares sum to 4.7, over 3
    std = (4.7 / 3) ** 0.5
    assert_close(batch.advantage_A, torch.tensor([0.9, 0.8, 0.1, -1.8]) / std)
    assert_close(batch.return_A, torch.tensor([1.5, 1.5, 1.0, -1.0]))  # what the critic learns is never whitened


def test_kl_in_the_reward_reaches_the_tokens_before_it(pack, ppo_keys):
    batch = pack([(2, 1.0)])
    batch.value_A = torch.zeros(2)
    batch.old_logprob_A, batch.ref_logprob_A = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.8])
    kl = Kl(placement="reward", estimator="k1", coef=0.1, target=None, horizon=None)
    Ppo(**ppo_keys | {"kl": kl}).assign_credit(batch)
    # token rewards -0.05 and 1.02
    assert_close(batch.advantage_A, torch.tensor([0.97, 1.02]))


def test_order_of_trajectories_does_not_matter(pack, ppo_keys):
    batch = pack(*EPISODES)
    batch.value_A = VALUE
    swapped = batch.select([1, 0])
    ppo = Ppo(**ppo_keys | {"whiten_advantages": True})
    ppo.assign_credit(batch)
    ppo.assign_credit(swapped)
    assert_close(swapped.advantage_A, batch.select([1, 0]).advantage_A)


@pytest.mark.parametrize(
    ("value", "clip", "loss", "gradient"),
    [
        # return 1, old value 0
        (0.4, None, 0.18, -0.6),  # 0.6 squared over 2
        (0.4, 0.5, 0.18, -0.6),  # within the range: no difference
        (0.8, 0.5, 0.125, 0.0),  # moved too far towards the return: the clipped value 0.5 counts, no gradient
        (-0.8, 0.5, 1.62, -1.8),  # moved too far away: the plain error is the larger one and pulls it back
    ],
)
def test_value_loss(pack, ppo_keys, value, clip, loss, gradient):
    batch = pack([(1, 1.0)])
    batch.value_A, batch.return_A = torch.zeros(1), torch.ones(1)
    value_A = torch.tensor([value], requires_grad=True)
    loss_A, metrics = Ppo(**ppo_keys | {"value_clip": clip}).value_loss(value_A, batch)
    loss_A.sum().backward()
    assert_close(loss_A.detach(), torch.tensor([loss]))
    assert_close(value_A.grad, torch.tensor([gradient]))
    assert_close(metrics["critic/error"], torch.tensor([(1 - value) ** 2]))


def test_needs(ppo_keys):
    ppo = Ppo(**ppo_keys)
    assert ppo.needs_critic and ppo.min_group_size == 1
    assert not (ppo.needs_reference or ppo.needs_old_logprob or ppo.needs_entropy)
    assert Ppo(**ppo_keys | {"minibatches": 2}).needs_old_logprob
    assert Ppo(**ppo_keys | {"epochs": 2}).needs_old_logprob
    assert Ppo(**ppo_keys | {"entropy_coef": 0.1}).needs_entropy


def test_no_values_is_an_error(pack, ppo_keys):
    with pytest.raises(BatchError, match="value_A"):
        Ppo(**ppo_keys).assign_credit(pack(*EPISODES))
