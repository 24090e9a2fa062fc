"""Packed, prefix-sharing, action-only computation against plain forward passes of each sequence alone."""

from __future__ import annotations

import pytest
import torch
from tiny import model_at, one_by_one, play

import meowtea.learner.attention as attention
import meowtea.learner.logprobs as logprobs
from meowtea.batch import TokenBatch
from meowtea.errors import ModelError
from meowtea.learner.attention import checkpoint_layers
from meowtea.learner.logprobs import action_logprobs, check_architecture
from meowtea.learner.packing import Packing


def gradients(policy, loss):
    policy.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in policy.named_parameters()}


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("share", [True, False])
def test_logprobs_entropies_and_gradients_equal_one_by_one_passes(folders, family, share):
    policy = model_at(folders[family]).policy()
    batch = TokenBatch.pack(play(windowed=True), temperature=0.7)
    weight_A = torch.randn(batch.action_count)

    def weighted(logprob_A, entropy_A):
        return (logprob_A * weight_A).sum() + 0.3 * (entropy_A * weight_A).sum()

    plain = one_by_one(policy, batch)
    expected = gradients(policy, weighted(*plain))
    packed = action_logprobs(policy, batch, Packing.of(batch, share), with_entropy=True)
    found = gradients(policy, weighted(*packed))
    assert (packed[0] - plain[0]).abs().max() < 1e-4
    assert (packed[1] - plain[1]).abs().max() < 1e-4
    for name in expected:
        assert (found[name] - expected[name]).norm() < 1e-4 * expected[name].norm(), name


def test_long_sequences_are_split_into_query_blocks(folders, monkeypatch):
    policy = model_at(folders["llama"]).policy()
    trajectories = play(groups=1, episodes=2)
    for trajectory in trajectories:
        trajectory.turns[1].context_ids = [(7 * i) % 250 + 3 for i in range(300)]
    batch = TokenBatch.pack(trajectories)
    plain = one_by_one(policy, batch)[0]
    expected = gradients(policy, plain.sum())
    for keep_keys in (0, 1000):  # attention weights recomputed, and kept
        monkeypatch.setattr(attention, "KEEP_KEYS", keep_keys)
        logprob_A, _ = action_logprobs(policy, batch, Packing.of(batch))
        found = gradients(policy, logprob_A.sum())
        assert (logprob_A - plain).abs().max() < 1e-4
        for name in expected:
            assert (found[name] - expected[name]).norm() < 1e-4 * expected[name].norm(), name


def test_chunks_of_the_vocabulary_change_nothing(folders, batch, monkeypatch):
    policy = model_at(folders["qwen2"]).policy()
    packing = Packing.of(batch)

    def run():
        logprob_A, entropy_A = action_logprobs(policy, batch, packing, with_entropy=True)
        assert entropy_A is not None
        return logprob_A, gradients(policy, logprob_A.mean() + entropy_A.mean())

    whole, whole_gradients = run()
    monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", 5 * 259)
    parts, parts_gradients = run()
    assert torch.allclose(whole, parts, atol=1e-5)
    for name, gradient in whole_gradients.items():
        assert torch.allclose(gradient, parts_gradients[name], atol=1e-5), name


def test_gradient_checkpointing_changes_nothing(folders, batch):
    policy = model_at(folders["llama"]).policy()
    packing = Packing.of(batch)
    plain = gradients(policy, action_logprobs(policy, batch, packing)[0].sum())
    checkpoint_layers(policy)
    policy.train()
    attended = []
    policy.model.layers[0].self_attn.register_forward_hook(lambda *_: attended.append(1))
    again = gradients(policy, action_logprobs(policy, batch, packing)[0].sum())
    assert len(attended) == 2  # forward, and recomputed
    for name in plain:
        assert torch.allclose(plain[name], again[name], atol=1e-6), name


def test_bf16_stays_near_fp32(folders, batch):
    exact, rounded = (
        action_logprobs(model_at(folders["llama"], dtype).policy(), batch, Packing.of(batch))[0]
        for dtype in ("fp32", "bf16")
    )
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.1


def test_the_engines_attention_is_put_back(folders, batch):
    policy = model_at(folders["llama"]).policy()
    before = policy.config._attn_implementation
    action_logprobs(policy, batch, Packing.of(batch))
    assert policy.config._attn_implementation == before != "meowtea_packed"


def test_an_architecture_that_does_more_is_refused(folders):
    from transformers import CohereConfig, CohereForCausalLM

    for folder in folders.values():
        check_architecture(model_at(folder).policy())
        check_architecture(model_at(folder, "bf16").policy())
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    scaled = CohereForCausalLM(CohereConfig(vocab_size=64, logit_scale=0.1, pad_token_id=0, **shape)).eval()
    scaled.lm_head.weight.data *= 50  # logits are of the size of trained ones
    with pytest.raises(ModelError, match=r"CohereForCausalLM.*changes its logits"):
        check_architecture(scaled)


def test_a_short_sliding_window_is_refused(folders, batch):
    policy = model_at(folders["qwen2"]).policy()
    policy.model.layers[0].self_attn.sliding_window = 8
    with pytest.raises(ModelError, match="sliding_window"):
        action_logprobs(policy, batch, Packing.of(batch))
    policy.model.layers[0].self_attn.sliding_window = 1000
    assert action_logprobs(policy, batch, Packing.of(batch))[0].isfinite().all()
