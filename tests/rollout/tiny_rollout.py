"""Tiny models and tokenizers made on the spot: nothing is fetched."""

import asyncio
import random

import torch

from meowtea.rollout.engine import Sampling
from meowtea.rollout.transformers import Transformers

GREEDY = Sampling(temperature=0, max_tokens=8)

SENTENCES = [
    "You are in the kitchen. You see a red key on the table and a wooden door.",
    "take the red key, then open the wooden door and go north.",
    "What do you see? <|im_end|> Play the game. You play.",
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tokenizer(template: str | None = CHATML, special: tuple[str, ...] = tuple(SPECIAL), eos: str = "<|im_end|>"):
    """A byte-level BPE tokenizer trained on a few sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=eos, pad_token=special[0])
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.chat_template = template
    return tokenizer


def make_policy(seed: int = 0, vocabulary: int = 400):
    """A random Llama of two layers with grouped-query attention; weights large enough for decided choices."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def make_engine(policy, deterministic=False, max_context=256, max_sequences=8, max_batch_tokens=512, seed=0):
    return Transformers(
        policy,
        lambda: None,
        None,
        seed,
        deterministic,
        max_context=max_context,
        max_sequences=max_sequences,
        max_batch_tokens=max_batch_tokens,
    )


def prompts(count, low=3, high=60, seed=0):
    generator = random.Random(seed)
    return [[generator.randrange(400) for _ in range(generator.randint(low, high))] for _ in range(count)]


def generate_all(engine, requests, sampling, sessions=None):
    async def run():
        names = sessions or [f"s{i}" for i in range(len(requests))]
        return await asyncio.gather(
            *(engine.generate(ids, sampling, name) for ids, name in zip(requests, names, strict=True))
        )

    return asyncio.run(run())


def plain_greedy(policy, prompt, count):
    ids = torch.tensor([prompt])
    out = policy.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
    return out[0, len(prompt) :].tolist()
