from __future__ import annotations

import io
import math

import pytest
import torch
from tiny import model_at, one_by_one, play

from meowtea.algorithms.base import Algorithm
from meowtea.batch import TokenBatch
from meowtea.errors import TrainingError
from meowtea.learner.logprobs import action_logprobs
from meowtea.learner.packing import Packing


class ActorCriticTest:
    """The least an algorithm can be: advantage = reward to go minus value, plain policy gradient with a ratio."""

    needs_old_logprob = False
    needs_entropy = False
    learns_without_advantage = True
    min_group_size = 1
    critic_lr = 1e-2
    critic_layers = 1

    def __init__(self, epochs=1, minibatches=1, critic=False, reference=False, loss_average="token", warmup=0):
        self.epochs, self.minibatches, self.loss_average = epochs, minibatches, loss_average
        self.needs_critic, self.needs_reference, self.critic_warmup_steps = critic, reference, warmup
        self.ratios: list[float] = []

    def assign_credit(self, batch):
        batch.return_A = batch.reward_B()[batch.trajectory_A]
        batch.advantage_A = batch.return_A - (0.5 if batch.value_A is None else batch.value_A)
        return {}

    def policy_loss(self, logprob_A, entropy_A, batch):
        ratio_A = (logprob_A - batch.old_logprob_A).exp()
        self.ratios += ratio_A.tolist()
        loss_A = -ratio_A * batch.advantage_A
        if batch.ref_logprob_A is not None:
            loss_A = loss_A + 0.1 * (logprob_A - batch.ref_logprob_A) ** 2
        return loss_A, {"ratio": ratio_A.detach()}

    def value_loss(self, value_A, batch):
        return (value_A - batch.return_A) ** 2, {}


def rl_step(learner, algorithm: Algorithm, batch: TokenBatch) -> dict[str, float]:
    metrics = learner.annotate(batch, algorithm)
    algorithm.assign_credit(batch)
    batch.validate()
    return metrics | learner.improve(batch, algorithm)


def weights(learner) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in learner.weights()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# -- SFT -------------------------------------------------------------------------------------------------------------


def test_imitation_reports_the_mean_negative_log_likelihood_and_lowers_it(build, batch):
    learner = build()
    expected = -one_by_one(learner.policy, batch)[0].mean().item()
    learner.begin(lr=3e-3)
    losses = [learner.imitate(batch)["loss"] for _ in range(30)]
    assert losses[0] == pytest.approx(expected, abs=1e-4)
    assert losses[-1] < 0.5 * losses[0]
    assert learner.policy_version == 30


@pytest.mark.parametrize("average", ["token", "trajectory", "sum"])
def test_an_update_does_not_depend_on_the_micro_batches(build, average):
    # eps = 1 makes Adam's first step proportional to the gradient: weights can be compared like gradients
    updates, norms = [], []
    for keys in ({}, {"max_tokens_per_microbatch": 100}, {"max_tokens_per_microbatch": 1, "share_prefixes": False}):
        algorithm = ActorCriticTest(loss_average=average, critic=True)
        learner = build(algorithm, lr=1.0, eps=1.0, max_grad_norm=1e9, **keys)
        before = weights(learner)
        learner.begin_rl()
        metrics = rl_step(learner, algorithm, TokenBatch.pack(play(windowed=True)))
        updates.append({name: tensor - before[name] for name, tensor in learner.weights()})
        norms.append([metrics["learner/grad_norm"], metrics["critic/grad_norm"], metrics["learner/loss"]])
    for update, norm in zip(updates[1:], norms[1:], strict=True):
        assert norm == pytest.approx(norms[0], rel=1e-4)
        for name in update:
            assert (update[name] - updates[0][name]).norm() < 1e-4 * updates[0][name].norm(), name


def test_shared_beginnings_are_reported_as_computed_once(build, batch):
    learner = build()
    learner.begin()
    metrics = learner.imitate(batch)
    assert metrics["tokens"] == len(batch.token_T)
    assert metrics["computed_tokens"] == len(Packing.of(batch).token_U) < metrics["tokens"]


# -- RL --------------------------------------------------------------------------------------------------------------


def test_a_step_moves_probability_towards_rewarded_tokens(build, batch):
    algorithm = ActorCriticTest()
    learner = build(algorithm, lr=1e-3)
    learner.begin_rl()
    before = one_by_one(learner.policy, batch)[0].detach()
    rl_step(learner, algorithm, batch)
    gain_A = one_by_one(learner.policy, batch)[0].detach() - before
    assert (gain_A * batch.advantage_A).mean() > 0


def test_a_single_step_needs_no_old_logprobs(build, batch):
    algorithm = ActorCriticTest()
    learner = build(algorithm)
    learner.begin_rl()
    metrics = rl_step(learner, algorithm, batch)
    assert batch.old_logprob_A is None
    assert algorithm.ratios == [1.0] * batch.action_count
    gap_A = one_by_one(build().policy, batch)[0].detach() - batch.rollout_logprob_A
    assert metrics["mismatch/logprob"] == pytest.approx(gap_A.abs().mean().item(), abs=1e-4)
    assert metrics["mismatch/kl_k1"] == pytest.approx(-gap_A.mean().item(), abs=1e-4)
    assert metrics["mismatch/max"] == pytest.approx(gap_A.abs().max().item(), abs=1e-4)


def test_several_steps_use_the_logprobs_of_before(build, batch):
    algorithm = ActorCriticTest(epochs=2, minibatches=3)
    learner = build(algorithm, lr=1e-3)
    learner.begin_rl()
    expected = one_by_one(learner.policy, batch)[0].detach()
    metrics = rl_step(learner, algorithm, batch)
    assert torch.allclose(batch.old_logprob_A, expected, atol=1e-4)
    assert len(algorithm.ratios) == 2 * batch.action_count
    assert max(abs(ratio - 1) for ratio in algorithm.ratios) > 1e-3
    assert learner.policy_version == metrics["learner/policy_version"] == 6


def test_entropy_is_that_of_the_sampling_distribution(build, batch):
    batch.temperature = 0.5
    algorithm = ActorCriticTest()
    learner = build(algorithm)
    learner.begin_rl()
    expected = one_by_one(learner.policy, batch)[1].mean().item()
    assert rl_step(learner, algorithm, batch)["learner/entropy"] == pytest.approx(expected, abs=1e-4)


def test_the_reference_is_the_policy_as_rl_began(build, batch):
    algorithm = ActorCriticTest(reference=True, epochs=2)
    learner = build(algorithm, lr=1e-2)
    learner.begin()
    learner.imitate(batch)
    expected = one_by_one(learner.policy, batch)[0].detach()
    learner.begin_rl()
    for _ in range(2):
        rl_step(learner, algorithm, batch)
        assert torch.allclose(batch.ref_logprob_A, expected, atol=1e-4)
    assert (one_by_one(learner.policy, batch)[0] - expected).abs().max() > 1e-2


def test_the_critic_starts_at_zero_and_learns_the_return(build, batch):
    algorithm = ActorCriticTest(critic=True, warmup=100)
    learner = build(algorithm)
    learner.begin_rl()
    losses = []
    for _ in range(50):
        losses.append(rl_step(learner, algorithm, batch)["critic/loss"])
        if len(losses) == 1:
            assert (batch.value_A == 0).all()
    assert losses[-1] < 0.2 * losses[0]
    assert len(learner.critic.backbone.layers) == 1
    assert len(learner.policy.model.layers) == 2


def test_values_do_not_see_the_action_they_precede(build, batch):
    algorithm = ActorCriticTest(critic=True)
    learner = build(algorithm)
    learner.begin_rl()
    torch.nn.init.normal_(learner.critic.head.weight)
    learner.annotate(batch, algorithm)
    changed = batch.select(range(batch.trajectory_count))
    last = changed.action_index_A[-1]
    changed.token_T[last] = (changed.token_T[last] + 1) % 250
    learner.annotate(changed, algorithm)
    assert torch.allclose(changed.value_A, batch.value_A, atol=1e-6)
    assert batch.value_A.std() > 0.01


def test_the_policy_rests_while_the_critic_warms_up(build, batch):
    algorithm = ActorCriticTest(critic=True, warmup=2)
    learner = build(algorithm, lr=1e-3)
    learner.begin_rl()
    before = weights(learner)
    for _ in range(2):
        metrics = rl_step(learner, algorithm, batch)
        assert "learner/loss" not in metrics and "critic/loss" in metrics
    assert same(weights(learner), before) and learner.policy_version == 0
    assert "learner/loss" in rl_step(learner, algorithm, batch)
    assert not same(weights(learner), before)


def test_gradient_checkpointing_and_an_offloaded_reference_change_nothing(build):
    def run(**keys):
        algorithm = ActorCriticTest(critic=True, reference=True, epochs=2)
        learner = build(algorithm, lr=1.0, eps=1.0, **keys)
        learner.begin_rl()
        rl_step(learner, algorithm, TokenBatch.pack(play()))
        return weights(learner)

    plain, thrifty = run(), run(gradient_checkpointing=True, offload_reference=True)
    for name in plain:
        assert torch.allclose(plain[name], thrifty[name], atol=1e-6), name


# -- bad numbers -----------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_skips_the_update_is_counted_and_stops_the_run(build, batch):
    algorithm = ActorCriticTest()
    learner = build(algorithm, max_bad_updates=2)
    learner.begin_rl()
    before = weights(learner)
    algorithm.assign_credit(batch)
    good_A = batch.advantage_A.clone()
    batch.advantage_A[3] = math.inf
    metrics = learner.improve(batch, algorithm)
    assert metrics["learner/skipped_updates"] == 1
    assert same(weights(learner), before) and learner.policy_version == 0

    batch.advantage_A = good_A
    assert learner.improve(batch, algorithm)["learner/skipped_updates"] == 0  # the count in a row starts again
    after = weights(learner)
    assert not same(after, before)

    batch.advantage_A = good_A * math.nan
    learner.improve(batch, algorithm)
    with pytest.raises(TrainingError, match="2 updates in a row"):
        learner.improve(batch, algorithm)
    assert same(weights(learner), after)


def test_stages_must_be_opened(build, batch):
    with pytest.raises(TrainingError, match="begin"):
        build().imitate(batch)
    with pytest.raises(TrainingError, match="without an algorithm"):
        build().begin_rl()


# -- what survives ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_resumed_equals_uninterrupted_to_the_last_bit(build, dtype):
    def start():
        algorithm = ActorCriticTest(epochs=2, minibatches=2, critic=True, reference=True, warmup=1)
        return algorithm, build(algorithm, dtype=dtype, lr=1e-3, lr_schedule="cosine", warmup_steps=2)

    def train(learner, algorithm, steps):
        return [rl_step(learner, algorithm, TokenBatch.pack(play(seed=step)))["learner/loss"] for step in steps]

    algorithm, learner = start()
    learner.begin(lr=1e-3)
    learner.imitate(TokenBatch.pack(play()))
    learner.begin_rl(total_batches=20)
    rl_step(learner, algorithm, TokenBatch.pack(play(seed=1)))
    train(learner, algorithm, (2, 3))
    saved = io.BytesIO()
    torch.save(learner.state_dict(), saved)
    expected = train(learner, algorithm, (4, 5))

    saved.seek(0)
    algorithm, resumed = start()
    resumed.begin_rl(total_batches=20)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    assert train(resumed, algorithm, (4, 5)) == expected
    assert same(weights(resumed), weights(learner))
    assert same(resumed.critic.state_dict(), learner.critic.state_dict())
    assert resumed.policy_version == learner.policy_version


def test_export_loads_in_transformers_and_replaces_what_was_there(build, batch, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    learner = build(dtype="bf16")
    learner.begin(lr=1e-2)
    for _ in range(2):
        learner.imitate(batch)
        learner.export(tmp_path / "policy")
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype="auto")
        assert loaded.dtype == torch.bfloat16
        assert same(loaded.state_dict(), learner.policy.state_dict())
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    assert AutoTokenizer.from_pretrained(tmp_path / "policy").chat_template == learner.tokenizer.chat_template
    again = model_at(tmp_path / "policy").policy()
    assert action_logprobs(again, batch, Packing.of(batch))[0].isfinite().all()


def test_weights_carry_hugging_face_names(build):
    learner = build(family="qwen2")
    assert {name for name, _ in learner.weights()} == set(learner.policy.state_dict())


def test_trajectories_without_advantage_are_left_out_and_change_nothing(build, batch):
    def improved(learns_without_advantage, zeroed):
        learner, algorithm = build(), ActorCriticTest()
        algorithm.learns_without_advantage = learns_without_advantage
        learner.begin(lr=1e-2)
        part = batch.select(range(batch.trajectory_count))
        learner.annotate(part, algorithm)
        algorithm.assign_credit(part)
        part.advantage_A = part.advantage_A.masked_fill(torch.isin(part.trajectory_A, torch.tensor(zeroed)), 0.0)
        metrics = learner.improve(part, algorithm)
        return metrics, weights(learner)

    everyone = list(range(batch.trajectory_count))
    for zeroed in (everyone[1:], everyone):
        with_all, expected = improved(True, zeroed)
        without, found = improved(False, zeroed)
        assert with_all["learner/taught"] == 1 and without["learner/taught"] == 1 / len(everyone)
        assert without["learner/grad_norm"] == pytest.approx(with_all["learner/grad_norm"], rel=1e-5)
        for name in expected:
            # Adam divides by the size of a gradient, so rounding of tiny ones shows: lr is 1e-2
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-4)
