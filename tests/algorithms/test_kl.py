import pytest
import torch
from torch.testing import assert_close

from meowtea.algorithms.kl import Kl, estimate_kl

P = torch.tensor([0.5, 0.3, 0.1, 0.07, 0.03], dtype=torch.float64)
Q = torch.tensor([0.3, 0.3, 0.2, 0.1, 0.1], dtype=torch.float64)


def kl(**keys):
    return Kl(**{"placement": "reward", "estimator": "k1", "coef": 0.1, "target": None, "horizon": None} | keys)


def annotated(batch, old, ref):
    batch.old_logprob_A, batch.ref_logprob_A = torch.tensor(old), torch.tensor(ref)
    return batch


def divergence(p, q):
    return float((p * (p / q).log()).sum())


def expected_gradient(estimator):
    """Of the estimator as a loss, over tokens sampled from softmax(logits) = P, by enumeration."""
    logits = P.log().requires_grad_()
    logprob = logits.log_softmax(0)
    (P * estimate_kl(logprob, Q.log(), estimator)).sum().backward()
    return logits.grad


def true_gradient(divergence_of):
    logits = P.log().requires_grad_()
    divergence_of(logits.softmax(0)).backward()
    return logits.grad


@pytest.mark.parametrize(
    ("estimator", "expected"),
    # d = log 0.5 - log 0.25 = log 2 and d = log 0.25 - log 0.5 = -log 2, log 2 = 0.693147
    [("k1", [0.693147, -0.693147]), ("k2", [0.240227, 0.240227]), ("k3", [0.193147, 0.306853])],
)
def test_estimators_by_hand(estimator, expected):
    logprob, ref = torch.tensor([0.5, 0.25]).log(), torch.tensor([0.25, 0.5]).log()
    assert_close(estimate_kl(logprob, ref, estimator), torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_expectation_is_the_kl(estimator):
    assert float((P * estimate_kl(P.log(), Q.log(), estimator)).sum()) == pytest.approx(divergence(P, Q), abs=1e-12)


def test_k2_is_near_the_kl_only_near_the_reference():
    def relative_error(q):
        k2 = float((P * estimate_kl(P.log(), q.log(), "k2")).sum())
        return abs(k2 / divergence(P, q) - 1)

    assert relative_error(0.99 * P + 0.01 * Q) < 0.01
    assert relative_error(Q) > 0.05


def test_expected_gradients():
    assert_close(expected_gradient("k1"), torch.zeros(5, dtype=torch.float64))
    assert_close(expected_gradient("k2"), true_gradient(lambda p: (p * (p / Q).log()).sum()))
    assert_close(expected_gradient("k3"), true_gradient(lambda p: (Q * (Q / p).log()).sum()))


def test_an_absurd_token_stays_finite():
    logprob = torch.tensor([-500.0], requires_grad=True)
    loss = estimate_kl(logprob, torch.tensor([-0.1]), "k3")
    loss.sum().backward()
    assert loss.isfinite() and logprob.grad.isfinite()


def test_penalty_in_the_reward_is_per_token(pack):
    batch = annotated(pack([(2, 1.0)]), old=[-1.0, -2.0], ref=[-1.5, -1.8])
    reward_A, metrics = kl(coef=0.1).penalise(batch)
    assert_close(reward_A, torch.tensor([0 - 0.1 * 0.5, 1 - 0.1 * -0.2]))
    assert_close(batch.reward_A, torch.tensor([0.0, 1.0]))  # what the environment gave stays as it is
    assert metrics == {"kl/reference_before": pytest.approx(0.15), "kl/coef": 0.1}
    assert kl().loss(torch.zeros(2), batch) == (0.0, {})


def test_penalty_in_the_loss(pack):
    batch = annotated(pack([(2, 1.0)]), old=[-1.0, -2.0], ref=[-1.5, -1.8])
    in_loss = kl(placement="loss", estimator="k2", coef=0.5)
    logprob_A = torch.tensor([-1.0, -2.0], requires_grad=True)
    loss_A, metrics = in_loss.loss(logprob_A, batch)
    loss_A.sum().backward()
    assert_close(loss_A.detach(), torch.tensor([0.5 * 0.5**2 / 2, 0.5 * 0.2**2 / 2]))
    assert_close(logprob_A.grad, torch.tensor([0.5 * 0.5, 0.5 * -0.2]))
    assert_close(metrics["kl/reference"], torch.tensor([0.125, 0.02]))
    assert in_loss.penalise(batch)[0] is batch.reward_A


@pytest.mark.parametrize(
    ("old", "coef"),
    [
        (-1.0, 0.1 * (1 + 0.2 * 2 / 8)),  # KL 0.5 against 0.1: the error of 4 is cut to 0.2; 2 of 8 episodes
        (-1.39, 0.1 * (1 + 0.1 * 2 / 8)),  # KL 0.11: 10% too high
        (-1.5, 0.1 * (1 - 0.2 * 2 / 8)),  # KL 0: cut to -0.2
    ],
)
@pytest.mark.parametrize("placement", ["reward", "loss"])
def test_adaptive_coefficient(pack, placement, old, coef):
    batch = annotated(pack([(1, 1.0)], [(1, 0.0)]), old=[old, old], ref=[-1.5, -1.5])
    adaptive = kl(placement=placement, estimator="k1", target=0.1, horizon=8)
    assert adaptive.needs_old_logprob
    _, metrics = adaptive.penalise(batch)
    assert metrics["kl/coef"] == 0.1  # what this batch was penalised with
    assert adaptive.coef == pytest.approx(coef)
    restored = kl(placement=placement, target=0.1, horizon=8)
    restored.load_state_dict(adaptive.state_dict())
    assert restored.coef == adaptive.coef


def test_needs():
    assert (kl().needs_reference, kl().needs_old_logprob) == (True, True)
    in_loss = kl(placement="loss", estimator="k3")
    assert (in_loss.needs_reference, in_loss.needs_old_logprob) == (True, False)
    assert (kl(coef=0.0).needs_reference, kl(coef=0.0).needs_old_logprob) == (False, False)


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"placement": "loss"}, "estimator"),
        ({"horizon": 100}, "horizon"),
        ({"target": 0.1}, "horizon"),
        ({"target": 0.1, "horizon": 100, "coef": 0.0}, "coef"),
    ],
)
def test_ineffective_keys_are_problems(keys, key):
    base = {"placement": "reward", "estimator": "k1", "coef": 0.1, "target": None, "horizon": None}
    assert Kl.problems(**base) == []
    assert [problem.split(":")[0] for problem in Kl.problems(**base | keys)] == [key]
