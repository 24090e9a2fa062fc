"""The embedded engine against plain transformers on tiny random models."""

import random

import pytest
import torch
from tiny_rollout import GREEDY, generate_all, make_engine, make_policy, plain_greedy, prompts

from meowtea.errors import ModelError
from meowtea.rollout.attention import Span, similar
from meowtea.rollout.engine import Sampling
from meowtea.rollout.slots import common_prefix


def full_logprobs(policy, prompt, reply, temperature=1.0):
    """(A, V) by one forward pass over everything."""
    with torch.no_grad():
        logits = policy(torch.tensor([prompt + reply])).logits[0].float()
    return torch.log_softmax(logits[len(prompt) - 1 : -1] / temperature, -1)


@pytest.mark.parametrize(("max_batch_tokens", "max_sequences"), [(1, 1), (2, 2), (7, 3), (16, 16), (512, 16)])
def test_greedy_equals_generate_however_steps_are_cut(policy, max_batch_tokens, max_sequences):
    asked = prompts(6)
    engine = make_engine(policy, max_batch_tokens=max_batch_tokens, max_sequences=max_sequences)
    for prompt, completion in zip(asked, generate_all(engine, asked, GREEDY), strict=True):
        assert completion.ids == plain_greedy(policy, prompt, 8)
        assert completion.finish_reason == "length"
        wanted = full_logprobs(policy, prompt, completion.ids).gather(1, torch.tensor(completion.ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(completion.logprobs), wanted, atol=1e-4)


def test_conversations_of_very_different_lengths_share_a_step(policy):
    asked = [prompts(1, low=n, high=n, seed=n)[0] for n in (1, 2, 3, 40, 41, 200, 5, 90)]
    engine = make_engine(policy)
    for _ in range(2):  # the second time with cached prompts, in other slots' order
        assert [c.ids for c in generate_all(engine, asked, GREEDY)] == [plain_greedy(policy, p, 8) for p in asked]
        asked = [p + [7, 8, 9][: i % 4] for i, p in enumerate(reversed(asked))]


def test_attention_groups_hold_every_span_once_and_similar_ones_together():
    generator = random.Random(0)
    for _ in range(50):
        spans = [
            Span(slot, 0, generator.choice([1, 1, 5, 60]), generator.randrange(300))
            for slot in range(generator.randint(1, 20))
        ]
        groups = similar(spans)
        assert sorted(span.slot for group in groups for span in group) == list(range(len(spans)))
        for group in groups:
            assert max(s.count for s in group) < 2 * min(s.count for s in group)
            assert max(s.length for s in group) <= 4 * min(s.length for s in group)


def test_stop_token_ends_the_reply_and_stays_in_it(policy):
    prompt = prompts(1)[0]
    reply = plain_greedy(policy, prompt, 8)
    sampling = Sampling(temperature=0, max_tokens=8, stop_token_ids=(reply[3],))
    [completion] = generate_all(make_engine(policy), [prompt], sampling)
    assert completion.ids == reply[: reply.index(reply[3]) + 1]
    assert completion.finish_reason == "stop"


def test_turns_of_a_session_reuse_their_prefix_and_give_the_same(policy):
    engine, fresh = make_engine(policy), make_engine(policy)
    read = []
    inner = engine._batcher._read
    engine._batcher._read = lambda chosen: (read.append(sum(count for _, count in chosen)), inner(chosen))[1]
    history, generator = prompts(1)[0], random.Random(1)
    for turn in range(4):
        history = history + [generator.randrange(400) for _ in range(5)]
        read.clear()
        [completion] = generate_all(engine, [history], GREEDY, ["one"])
        [alone] = generate_all(fresh, [history], GREEDY, [f"other{turn}"])
        fresh._batcher.clear()
        assert completion.ids == alone.ids == plain_greedy(policy, history, 8)
        if turn:
            assert read[0] == 5 + 1  # the new tokens and the last sampled one, which nothing has read yet
        history = history + completion.ids


def test_a_rewritten_prompt_keeps_only_what_still_agrees(policy):
    engine = make_engine(policy)
    first = prompts(1, low=40, high=40)[0]
    generate_all(engine, [first], GREEDY, ["one"])
    changed = first[:20] + prompts(1, low=30, high=30, seed=5)[0]
    [completion] = generate_all(engine, [changed], GREEDY, ["one"])
    assert completion.ids == plain_greedy(policy, changed, 8)


def test_a_group_reads_its_common_prompt_once(policy):
    engine = make_engine(policy)
    read = []
    inner = engine._batcher._read
    engine._batcher._read = lambda chosen: (read.append(sum(count for _, count in chosen)), inner(chosen))[1]
    prompt = prompts(1, low=50, high=50)[0]
    completions = generate_all(engine, [prompt] * 4, GREEDY)
    assert read[0] == 50
    assert sum(read) == 50 + 3 + 4 * 7
    assert all(c.ids == plain_greedy(policy, prompt, 8) for c in completions)


def test_more_sessions_than_slots_over_several_turns(policy):
    engine = make_engine(policy, max_sequences=3)
    histories = prompts(10)
    for _ in range(3):
        completions = generate_all(engine, histories, GREEDY)
        for k, completion in enumerate(completions):
            assert completion.ids == plain_greedy(policy, histories[k], 8)
            histories[k] = histories[k] + completion.ids + [k]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.4, 1.0), (1.5, 0.7)])
def test_sampled_logprobs_are_those_of_the_processed_distribution(policy, temperature, top_p):
    asked = prompts(6)
    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=12)
    for prompt, completion in zip(asked, generate_all(make_engine(policy), asked, sampling), strict=True):
        logprobs = full_logprobs(policy, prompt, completion.ids, temperature)
        for row, token, got in zip(logprobs, completion.ids, completion.logprobs, strict=True):
            ordered = row.sort(descending=True)
            kept, mass = [], 0.0
            for probability, index in zip(ordered.values.exp().tolist(), ordered.indices.tolist(), strict=True):
                if mass >= top_p:
                    break
                kept.append(index)
                mass += probability
            assert token in kept
            assert got == pytest.approx(float(row[token] - row[kept].logsumexp(0)), abs=1e-4)


def test_a_seed_gives_the_same_reply_whatever_else_is_running(policy):
    prompt, others = prompts(1, seed=9)[0], prompts(7)
    sampling = Sampling(temperature=1.0, max_tokens=12, seed=3)
    [alone] = generate_all(make_engine(policy), [prompt], sampling)
    among = generate_all(make_engine(policy, max_sequences=4), [*others, prompt], sampling)[-1]
    assert among.ids == alone.ids
    other = generate_all(make_engine(policy), [prompt], Sampling(temperature=1.0, max_tokens=12, seed=4))[0]
    assert other.ids != alone.ids


def test_without_a_seed_repeated_requests_differ_but_the_engine_seed_repeats_them(policy):
    prompt = prompts(1)[0]
    sampling = Sampling(temperature=1.0, max_tokens=12)
    replies = [[c.ids for c in generate_all(make_engine(policy, seed=s), [prompt] * 3, sampling)] for s in (1, 1, 2)]
    assert replies[0] == replies[1] != replies[2]
    assert len({tuple(ids) for ids in replies[0]}) == 3


def test_sampling_follows_the_probabilities(policy):
    prompt = prompts(1)[0]
    engine = make_engine(policy, max_sequences=64)
    draws = [c.ids[0] for c in generate_all(engine, [prompt] * 4000, Sampling(temperature=1.0, max_tokens=1))]
    probability = full_logprobs(policy, prompt, [0])[0].exp()
    counts = torch.bincount(torch.tensor(draws), minlength=400) / len(draws)
    assert float((counts - probability).abs().max()) < 4 * (0.25 / len(draws)) ** 0.5


def test_bfloat16_replies_stay_close_to_their_own_model(policy):
    policy = policy.to(torch.bfloat16)
    asked = prompts(4)
    for prompt, completion in zip(asked, generate_all(make_engine(policy), asked, GREEDY), strict=True):
        assert len(completion.ids) == 8
        wanted = full_logprobs(policy, prompt, completion.ids).gather(1, torch.tensor(completion.ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(completion.logprobs), wanted, atol=0.3)


def test_too_long_and_empty_prompts_are_clear_errors(policy):
    engine = make_engine(policy, max_context=32)
    with pytest.raises(ModelError, match=r"engine\.max_context: a prompt of 30 tokens .* need 38, .* holds 32"):
        generate_all(engine, [list(range(30))], GREEDY)
    with pytest.raises(ModelError, match="no tokens"):
        generate_all(engine, [[]], GREEDY)
    [completion] = generate_all(engine, [list(range(24))], GREEDY)
    assert completion.ids == plain_greedy(policy, list(range(24)), 8)
    with pytest.raises(ModelError, match=r"engine\.max_context: 1000, but the model reads at most 512"):
        make_engine(policy, max_context=1000)


def test_after_load_replies_are_those_of_the_new_weights(policy):
    other, prompt = make_policy(seed=7), prompts(1)[0]
    engine = make_engine(policy)
    before = generate_all(engine, [prompt], GREEDY, ["one"])[0].ids
    engine.load(((name, weight.clone()) for name, weight in other.named_parameters()), 5)
    after = generate_all(engine, [prompt], GREEDY, ["one"])[0].ids
    assert engine.policy_version == 5
    assert after == plain_greedy(other, prompt, 8) != before


def test_loading_the_modules_own_weights_copies_nothing_but_drops_the_cache(policy):
    prompt = prompts(1)[0]
    engine = make_engine(policy)
    generate_all(engine, [prompt], GREEDY, ["one"])
    with torch.no_grad():
        policy.model.layers[0].mlp.up_proj.weight.mul_(-3)  # what an optimizer step does: change weights in place
    versions = {name: weight._version for name, weight in policy.named_parameters()}
    engine.load(policy.named_parameters(), 1)
    assert versions == {name: weight._version for name, weight in policy.named_parameters()}
    assert generate_all(engine, [prompt], GREEDY, ["one"])[0].ids == plain_greedy(policy, prompt, 8)


def test_loading_a_foreign_weight_is_a_clear_error(policy):
    engine = make_engine(policy)
    with pytest.raises(ModelError, match=r"cannot load lm_head\.weight \(2, 2\): the model has shape \(400, 32\)"):
        engine.load([("lm_head.weight", torch.zeros(2, 2))], 1)
    with pytest.raises(ModelError, match="no such weight"):
        engine.load([("model.nothing", torch.zeros(2))], 1)


def test_the_learners_module_is_left_as_it_was(policy):
    policy.train()
    policy.set_attn_implementation("eager")
    generate_all(make_engine(policy), prompts(2), GREEDY)
    assert policy.training
    assert policy.config._attn_implementation == "eager"
    policy(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert policy.lm_head.weight.grad is not None


def test_sleep_gives_the_cache_back(policy):
    engine, prompt = make_engine(policy), prompts(1)[0]
    first = generate_all(engine, [prompt], GREEDY, ["one"])[0].ids
    engine.sleep()
    assert engine._batcher.cache.keys == []
    engine.wake()
    assert generate_all(engine, [prompt], GREEDY, ["one"])[0].ids == first
    engine.close()


def test_sliding_window_attention_is_refused():
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=8,
    )
    with pytest.raises(ModelError, match="MistralAttention: its attention uses sliding_window"):
        generate_all(make_engine(MistralForCausalLM(config)), [[1, 2, 3]], GREEDY)


def test_common_prefix():
    generator = random.Random(0)
    for _ in range(200):
        a = [generator.randrange(2) for _ in range(generator.randrange(12))]
        b = [generator.randrange(2) for _ in range(generator.randrange(12))]
        wanted = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        assert common_prefix(a, b) == wanted
