"""Learner speed and memory: our packed update against a plain padded `model(input_ids, labels)` step.

    python scripts/bench/learner.py [--model smollm2-135m] [--groups 2] [--episodes 4] [--steps 3]

The same random episodes, shaped like TextWorld's (a prompt shared by the episodes of a group, 8 turns, about 8% action
tokens), go through every variant; each runs in its own process, so that peak memory is its own. A step is forward,
backward and AdamW. Tokens per second count the tokens of the episodes, whatever a variant computes or saves.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONF = Path(__file__).parents[2] / "conf"
VARIANTS = {
    "packed, shared beginnings once": "ours",
    "packed": "ours-unshared",
    "padded, attention eager": "eager",
    "padded, attention sdpa": "sdpa",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m", help="a file of conf/model")
    parser.add_argument("--groups", type=int, default=2, help="games in the batch")
    parser.add_argument("--episodes", type=int, default=4, help="episodes per game")
    parser.add_argument("--prompt", type=int, default=140, help="tokens of the first prompt of a game")
    parser.add_argument("--steps", type=int, default=3, help="timed optimizer steps, after one to warm up")
    parser.add_argument("--variant", choices=VARIANTS.values(), help="run this one here and print JSON")
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options)))
        return
    results = {}
    for title, variant in VARIANTS.items():
        command = [sys.executable, __file__, *sys.argv[1:], "--variant", variant]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        results[variant] = result = json.loads(output.splitlines()[-1])
        print(
            f"{title:32} {result['tokens_per_second']:8.0f} tokens/s   {result['peak_gib']:6.2f} GiB peak   "
            f"{result['seconds']:6.2f} s/step   {result['dtype']}, {result['device']}, {result['threads']} threads",
            flush=True,
        )
    best = max(("eager", "sdpa"), key=lambda variant: results[variant]["tokens_per_second"])
    ours = results["ours"]
    print(
        f"{ours['tokens']} tokens, {ours['action_tokens']} of them actions; ours against the faster padded one: "
        f"{ours['tokens_per_second'] / results[best]['tokens_per_second']:.2f} times the tokens/s, "
        f"{ours['peak_gib'] / results[best]['peak_gib']:.2f} times the memory"
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Speed and peak memory of one variant in this process."""
    import torch
    import yaml

    from meowtea.batch import TokenBatch
    from meowtea.learner.learner import Learner
    from meowtea.learner.model import Model

    keys = yaml.safe_load((CONF / "model" / f"{options.model}.yaml").read_text())
    del keys["_target_"]
    model = Model(**keys)
    trajectories = episodes(options, vocabulary=len(model.tokenizer()))
    batch = TokenBatch.pack(trajectories)
    if options.variant.startswith("ours"):
        settings = yaml.safe_load((CONF / "learner" / "default.yaml").read_text())
        del settings["_target_"]
        settings["share_prefixes"] = options.variant == "ours"
        learner = Learner(model, None, 0, **settings)
        learner.begin()
        policy = learner.policy
        step: Callable[[], object] = lambda: learner.imitate(batch)  # noqa: E731
    else:
        policy = model.policy()
        step = padded_step(policy, batch, options.variant)
    step()
    if policy.device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(options.steps):
        step()
    if policy.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / options.steps
    if policy.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "tokens": len(batch.token_T),
        "action_tokens": batch.action_count,
        "seconds": seconds,
        "tokens_per_second": len(batch.token_T) / seconds,
        "peak_gib": peak / 2**30,
        "dtype": str(policy.dtype).removeprefix("torch."),
        "device": str(policy.device),
        "threads": torch.get_num_threads(),
    }


def episodes(options: argparse.Namespace, vocabulary: int) -> list[Any]:
    """Random tokens in the shape of TextWorld episodes: 8 turns of about 22 context and 3 action tokens."""
    from meowtea.types import Outcome, Task, Trajectory, Turn

    dice = random.Random(0)

    def words(count: int) -> list[int]:
        return [dice.randrange(3, vocabulary) for _ in range(count)]

    played = []
    for group in range(options.groups):
        prompt = words(options.prompt)
        for _ in range(options.episodes):
            turns = []
            for k in range(dice.randint(6, 8)):
                context, action = words(dice.randint(15, 30)) if k else prompt, words(dice.randint(2, 4))
                turns.append(Turn(context, action, [-1.0] * len(action), k == 0, "", "", ""))
            task = Task(f"game-{group}", "train", group)
            played.append(Trajectory(task, group, turns, Outcome.LOST, 0, 1, rewards=[0.0] * len(turns)))
    return played


def padded_step(policy: Any, batch: Any, attention: str) -> Callable[[], None]:
    """What one writes first: all sequences padded to the longest, labels on the action tokens, torch's AdamW."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    policy.set_attn_implementation(attention)
    labels_T = torch.full_like(batch.token_T, -100)
    labels_T[batch.action_index_A] = batch.token_T[batch.action_index_A]
    lengths = batch.cu_seqlens_N1.diff().tolist()
    ids, labels, mask = (
        pad_sequence(list(x.split(lengths)), batch_first=True, padding_value=fill).to(policy.device)
        for x, fill in ((batch.token_T, 0), (labels_T, -100), (torch.ones_like(labels_T), 0))
    )
    adamw = torch.optim.AdamW(policy.parameters(), lr=2e-5)

    def step() -> None:
        policy(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()

    return step


if __name__ == "__main__":
    main()
