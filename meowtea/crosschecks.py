"""Problems between groups. A check is a function whose parameters name the root keys it compares."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from meowtea.signature import locate
from meowtea.train.budget import Budget

Node = Mapping[str, Any]
LEAST_THINKING = 64  # tokens of a reply that says more than its command


def cross_problems(root: Mapping[str, Any], sound: set[str]) -> list[str]:
    """Findings of every check whose root keys are present and have no problem of their own (`sound`)."""
    problems = []
    for check in CROSS_CHECKS:
        needed = list(inspect.signature(check).parameters)
        if sound.issuperset(needed):
            problems += check(**{name: root[name] for name in needed})
    return problems


def group_size(algorithm: Node, rollout: Node) -> list[str]:
    """Group-relative algorithms compare the episodes of one game."""
    least = getattr(locate(algorithm["_target_"]), "min_group_size", 1)
    if rollout["group_size"] >= least:
        return []
    return [f"algorithm={_option(algorithm)} needs rollout.group_size >= {least}, got {rollout['group_size']}"]


def minibatches(algorithm: Node, rollout: Node) -> list[str]:
    """A minibatch holds at least one episode."""
    episodes = rollout["tasks_per_step"] * rollout["group_size"]
    if algorithm["minibatches"] <= episodes:
        return []
    return [
        f"algorithm.minibatches: must be at most {episodes}, the episodes of a step (rollout.tasks_per_step x "
        f"rollout.group_size), got {algorithm['minibatches']}"
    ]


def reply_fits(engine: Node, rollout: Node) -> list[str]:
    """A reply that fills the whole context leaves no room for an observation."""
    context, reply = engine.get("max_context"), rollout["max_reply_tokens"]
    if context is None or reply < context:
        return []
    return [f"rollout.max_reply_tokens: must be less than engine.max_context ({context}), got {reply}"]


def reply_has_room(prompt: Node, rollout: Node) -> list[str]:
    """A reply that must think before it acts needs more tokens than a bare command."""
    asked, given = str(prompt["action"]), rollout["max_reply_tokens"]
    if asked == "{command}" or given >= LEAST_THINKING:
        return []
    return [
        f"rollout.max_reply_tokens: {given} tokens cut off replies of the form {asked!r}; "
        f"set it to {LEAST_THINKING} or more"
    ]


def deterministic_engine(engine: Node, deterministic: bool) -> list[str]:
    """Only the embedded engine promises the same tokens for the same seed, whatever the timing."""
    if deterministic and _option(engine) == "vllm":
        return ["deterministic=true needs engine=transformers, got engine=vllm"]
    return []


def auto_engine(engine: Node, deterministic: bool) -> list[str]:
    """engine=auto takes vLLM, where it is installed, and must then suit it."""
    if _option(engine) != "build" or deterministic or importlib.util.find_spec("vllm") is None:
        return []
    tokens, context = engine["max_batch_tokens"], engine["max_context"]
    if tokens >= context:
        return []
    return [f"engine.max_batch_tokens: vLLM needs at least engine.max_context ({context}), got {tokens}"]


def enough_games(env: Node, budget: Node, sft: Node) -> list[str]:
    """The budget can be spent on the seeds there are."""
    bought = Budget(**{name: value for name, value in budget.items() if name != "_target_"})
    wanted = {"train": bought.games, "demo": bought.demos if sft["demonstrations"] is None else 0}
    advice = "widen it, or lower budget.total"
    return [problem for split, count in wanted.items() for problem in _too_few(env, split, count, "budget", advice)]


def enough_panel_games(env: Node, evaluation: Node) -> list[str]:
    """The panels can be filled from the seeds there are."""
    split, key = evaluation["split"], "evaluation.tasks"
    found = _too_few(env, split, evaluation["tasks"], key, f"widen it, or lower {key}")
    if split != "validation" and (evaluation["validate_every"] or evaluation["validate_sft_every"]):
        key = "evaluation.validation_tasks"
        found += _too_few(env, "validation", evaluation["validation_tasks"], key, f"widen it, or lower {key}")
    return found


CROSS_CHECKS: list[Callable[..., list[str]]] = [
    group_size,
    minibatches,
    reply_fits,
    deterministic_engine,
    auto_engine,
    enough_games,
    enough_panel_games,
    reply_has_room,
]


def ineffective(root: Mapping[str, Any], sound: set[str], overrides: Sequence[str]) -> list[str]:
    """Keys given on the command line that other keys leave without effect."""
    if "budget" not in sound:
        return []
    bought = Budget(**{name: value for name, value in root["budget"].items() if name != "_target_"})
    idle: dict[str, str] = {}
    if not bought.demos:
        reason = "the budget buys no demonstrations (budget.sft_share)"
        idle |= {"sft.": reason, "evaluation.validate_sft_every": reason}
    if not bought.games:
        reason = "the budget buys no RL games (budget.sft_share)"
        told: tuple[str, ...] = (
            "algorithm.",
            "reward.",
            "budget.epochs",
            "budget.minutes",
            "learner.lr",
            "rollout.temperature",
            "evaluation.validate_every",
        )
        told += ("learner.warmup_steps", "rollout.tasks_per_step", "rollout.group_size", "rollout.refill")
        idle |= dict.fromkeys(told, reason)
    if "algorithm" in sound and root["algorithm"]["epochs"] * root["algorithm"]["minibatches"] == 1:
        reason = "one optimizer step per batch clips nothing; raise algorithm.epochs or algorithm.minibatches"
        idle |= dict.fromkeys(("algorithm.clip_low", "algorithm.clip_high", "algorithm.value_clip"), reason)
    problems = []
    for key in [override.lstrip("+").partition("=")[0] for override in overrides]:
        why = [why for start, why in idle.items() if key == start or (start.endswith(".") and key.startswith(start))]
        problems += [f"{key}: has no effect, because {why[0]}; leave it out"] if why else []
    return problems


def _too_few(env: Node, split: str, wanted: int, wanting: str, advice: str) -> list[str]:
    seeds = env.get(f"{split}_seeds")
    if not isinstance(seeds, list):  # an environment that counts its tasks in its own way
        return []
    there = seeds[1] - seeds[0] + 1
    if wanted <= there:
        return []
    return [f"env.{split}_seeds: holds {there} games, {wanting} wants {wanted}; {advice}"]


def _option(node: Node) -> str:
    """A short name for a node: the module that its class is in."""
    return str(node["_target_"]).rsplit(".", 2)[-2]
