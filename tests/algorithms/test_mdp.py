"""Expected gradients, by enumeration of every group of 4 episodes, against the gradient of the expected return.

What the docstrings of the algorithms say about bias is what is asserted here.
"""

import mdp
import pytest
import torch
from torch.testing import assert_close

from meowtea.algorithms.grpo import Grpo
from meowtea.algorithms.ppo import Ppo
from meowtea.algorithms.reinforce_pp import ReinforcePP
from meowtea.algorithms.rloo import Rloo

AVERAGES = ["sum", "token", "trajectory"]


@pytest.fixture(scope="module")
def groups():
    return mdp.groups()


@pytest.fixture(scope="module")
def truth():
    return mdp.policy_gradient()


def half_too_low(chosen):
    return mdp.values(chosen) / 2


def assert_bias(gradient, truth, cosine, length):
    assert mdp.compare(gradient, truth) == (pytest.approx(cosine, abs=1e-3), pytest.approx(length, abs=1e-2))


def test_the_game_is_enumerated_whole(groups):
    assert len(mdp.EPISODES) == 11
    assert float(mdp.probability(mdp.LOGITS).sum()) == pytest.approx(1, abs=1e-6)
    assert sum(prob for prob, *_ in groups) == pytest.approx(1, abs=1e-5)
    assert float(mdp.values([0])[0]) == pytest.approx(float(mdp.expected_return(mdp.LOGITS)), abs=1e-6)


def test_the_true_gradient_agrees_with_finite_differences(truth):
    step = 1e-2
    for row, token in ((0, 0), (3, 1), (7, 0)):
        move = torch.zeros_like(mdp.LOGITS)
        move[row, token] = step
        slope = (mdp.expected_return(mdp.LOGITS + move) - mdp.expected_return(mdp.LOGITS - move)) / (2 * step)
        assert float(truth[row, token]) == pytest.approx(float(slope), abs=1e-4)


def test_rloo_is_unbiased(groups, truth, shared):
    assert_close(mdp.expected_gradient(Rloo(**shared), "sum", groups), truth, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 1.0])
def test_ppo_with_exact_values_is_unbiased(groups, truth, ppo_keys, gae_lambda):
    ppo = Ppo(**ppo_keys | {"gae_lambda": gae_lambda})
    assert_close(mdp.expected_gradient(ppo, "sum", groups, mdp.values), truth, atol=1e-5, rtol=1e-4)


def test_ppo_at_lambda_one_is_unbiased_for_a_wrong_critic(groups, truth, ppo_keys):
    assert_close(mdp.expected_gradient(Ppo(**ppo_keys), "sum", groups, half_too_low), truth, atol=1e-5, rtol=1e-4)


def test_dr_grpo_is_the_true_gradient_times_g_minus_one_over_g(groups, truth, shared):
    gradient = mdp.expected_gradient(Grpo(normalize_std=False, **shared), "sum", groups)
    assert_close(gradient, 0.75 * truth, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("loss_average", "cosine", "length"), [("token", 0.995, 0.346), ("trajectory", 0.946, 0.409)])
def test_bias_of_averaging(groups, truth, shared, loss_average, cosine, length):
    assert_bias(mdp.expected_gradient(Rloo(**shared), loss_average, groups), truth, cosine, length)


@pytest.mark.parametrize(
    ("loss_average", "cosine", "length"), list(zip(AVERAGES, [0.999, 0.991, 0.937], [1.186, 0.415, 0.491], strict=True))
)
def test_bias_of_grpo(groups, truth, shared, loss_average, cosine, length):
    grpo = Grpo(normalize_std=True, **shared)
    assert_bias(mdp.expected_gradient(grpo, loss_average, groups), truth, cosine, length)


@pytest.mark.parametrize(
    ("loss_average", "cosine", "length"), list(zip(AVERAGES, [0.993, 0.989, 0.939], [1.403, 0.488, 0.600], strict=True))
)
def test_bias_of_reinforce_pp(groups, truth, shared, loss_average, cosine, length):
    reinforce_pp = ReinforcePP(gamma=1.0, **shared)
    assert_bias(mdp.expected_gradient(reinforce_pp, loss_average, groups), truth, cosine, length)


@pytest.mark.parametrize(
    ("loss_average", "cosine", "length"), list(zip(AVERAGES, [0.994, 0.978, 0.907], [1.534, 0.531, 0.635], strict=True))
)
def test_bias_of_whitening_in_ppo(groups, truth, ppo_keys, loss_average, cosine, length):
    ppo = Ppo(**ppo_keys | {"whiten_advantages": True})
    assert_bias(mdp.expected_gradient(ppo, loss_average, groups, mdp.values), truth, cosine, length)


@pytest.mark.parametrize(("gae_lambda", "cosine", "length"), [(0.0, 0.968, 0.802), (0.5, 0.991, 0.876)])
def test_bias_of_a_wrong_critic(groups, truth, ppo_keys, gae_lambda, cosine, length):
    ppo = Ppo(**ppo_keys | {"gae_lambda": gae_lambda})
    assert_bias(mdp.expected_gradient(ppo, "sum", groups, half_too_low), truth, cosine, length)
