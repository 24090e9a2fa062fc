import pytest
import torch
from torch.testing import assert_close

from meowtea.algorithms.kl import Kl, NoKl
from meowtea.algorithms.surrogate import Surrogate
from meowtea.errors import BatchError


def surrogate(clip_low=0.2, clip_high=0.3, importance_cap=None, entropy_coef=0.0, kl=None):
    return Surrogate(clip_low, clip_high, importance_cap, entropy_coef, kl or NoKl())


def one_token(pack, ratio=1.0, advantage=1.0):
    """A batch of one action token, and a log-probability for it that is `ratio` times the old one."""
    batch = pack([(1, 1.0)])
    batch.old_logprob_A = torch.tensor([-1.0])
    batch.rollout_logprob_A = torch.tensor([-1.0])
    batch.advantage_A = torch.tensor([advantage])
    return batch, (torch.tensor([-1.0]) + torch.tensor([ratio]).log()).requires_grad_()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.25, 2.0, -2.5, -2.5, None),  # above 1 + clip_low but below 1 + clip_high: clip-higher lets it through
        (1.4, 2.0, -2.6, 0.0, "high"),  # -1.3 * 2
        (1.4, -2.0, 2.8, 2.8, None),  # the bad token became likelier: never clipped
        (0.7, -2.0, 1.6, 0.0, "low"),  # 0.8 * 2
        (0.7, 2.0, -1.4, -1.4, None),  # the good token became less likely: never clipped
    ],
)
def test_clipping_on_both_sides(pack, ratio, advantage, loss, gradient, clipped):
    batch, logprob_A = one_token(pack, ratio, advantage)
    loss_A, metrics = surrogate().loss(logprob_A, None, batch)
    loss_A.sum().backward()
    assert_close(loss_A.detach(), torch.tensor([loss]))
    assert_close(logprob_A.grad, torch.tensor([gradient]))
    assert float(metrics["policy/clipped_low"]) == (clipped == "low")
    assert float(metrics["policy/clipped_high"]) == (clipped == "high")
    # k3 of old against new: ratio - 1 - log ratio
    assert_close(metrics["policy/kl_old"], torch.tensor([ratio - 1]) - torch.tensor([ratio]).log())


def test_without_old_logprobs_the_current_policy_is_the_old_one(pack):
    batch, logprob_A = one_token(pack, ratio=1.7, advantage=3.0)
    batch.old_logprob_A = None
    loss_A, _ = surrogate().loss(logprob_A, None, batch)
    loss_A.sum().backward()
    assert_close(loss_A.detach(), torch.tensor([-3.0]))
    assert_close(logprob_A.grad, torch.tensor([-3.0]))


@pytest.mark.parametrize(("learner_over_engine", "weight", "capped"), [(0.5, 0.5, 0), (1.5, 1.5, 0), (3.0, 2.0, 1)])
def test_importance_weight(pack, learner_over_engine, weight, capped):
    batch, logprob_A = one_token(pack, advantage=2.0)
    batch.rollout_logprob_A = batch.old_logprob_A - torch.tensor([learner_over_engine]).log()
    loss_A, metrics = surrogate(importance_cap=2.0).loss(logprob_A, None, batch)
    loss_A.sum().backward()
    assert_close(loss_A.detach(), torch.tensor([-2.0 * weight]))
    assert_close(logprob_A.grad, torch.tensor([-2.0 * weight]))  # the weight itself is a constant
    assert_close(metrics["policy/importance_weight"], torch.tensor([weight]))
    assert float(metrics["policy/importance_capped"]) == capped


def test_importance_weights_correct_an_off_policy_sampler(pack):
    """Tokens sampled from `engine`, learner at `policy`: below the cap the expected gradient is the on-policy one."""
    reward = torch.tensor([1.0, 0.0, -2.0])
    policy = torch.tensor([0.5, 0.3, 0.2])
    engine = torch.tensor([0.4, 0.35, 0.25])  # ratios 1.25, 0.857, 0.8

    def expected_gradient(importance_cap):
        logits = policy.log().requires_grad_()
        batch = pack(*[[(1, float(r))] for r in reward])  # every token once, weighed by how often it is sampled
        batch.rollout_logprob_A, batch.advantage_A = engine.log(), reward
        loss_A, _ = surrogate(importance_cap=importance_cap).loss(logits.log_softmax(0), None, batch)
        (engine * loss_A).sum().backward()
        return logits.grad

    logits = policy.log().requires_grad_()
    (-(logits.softmax(0) * reward).sum()).backward()
    assert_close(expected_gradient(2.0), logits.grad)
    assert not torch.allclose(expected_gradient(1.1), logits.grad, atol=1e-2)  # the cap bites: biased
    assert not torch.allclose(expected_gradient(None), logits.grad, atol=1e-2)  # no correction: biased


def test_entropy_bonus(pack):
    batch, logprob_A = one_token(pack, advantage=2.0)
    entropy_A = torch.tensor([0.6], requires_grad=True)
    loss_A, _ = surrogate(entropy_coef=0.1).loss(logprob_A, entropy_A, batch)
    loss_A.sum().backward()
    assert_close(loss_A.detach(), torch.tensor([-2.0 - 0.06]))
    assert_close(entropy_A.grad, torch.tensor([-0.1]))


def test_kl_in_the_loss_is_added(pack):
    batch, logprob_A = one_token(pack, advantage=2.0)
    batch.ref_logprob_A = torch.tensor([-1.5])
    kl = Kl(placement="loss", estimator="k2", coef=0.4, target=None, horizon=None)
    loss_A, metrics = surrogate(kl=kl).loss(logprob_A, None, batch)
    assert_close(loss_A.detach(), torch.tensor([-2.0 + 0.4 * 0.125]))
    assert "kl/reference" in metrics


def test_metrics_carry_no_gradient(pack):
    batch, logprob_A = one_token(pack)
    _, metrics = surrogate(importance_cap=2.0).loss(logprob_A, torch.ones(1, requires_grad=True), batch)
    assert not any(metric.requires_grad for metric in metrics.values())


def test_an_absurd_ratio_stays_finite(pack):
    batch, logprob_A = one_token(pack, advantage=0.0)
    batch.old_logprob_A = torch.tensor([-500.0])
    loss_A, _ = surrogate().loss(logprob_A, None, batch)
    loss_A.sum().backward()
    assert loss_A.isfinite() and logprob_A.grad.isfinite()


def test_no_credit_is_an_error(pack):
    batch = pack([(1, 1.0)])
    with pytest.raises(BatchError, match="advantage_A"):
        surrogate().loss(torch.tensor([-1.0]), None, batch)
