"""From a config group to a running engine."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from meowtea.rollout.engine import Engine


def build_engine(
    engine_cfg: Any,
    policy: PreTrainedModel,
    export: Callable[[], Path],
    tokenizer: Any,
    seed: int,
    deterministic: bool,
) -> Engine:
    """The engine a config group names. Every engine takes these runtime objects and then its keys.

    policy: the learner's module. export: writes it as a Hugging Face folder and returns that, for engines that
    load their own copy. seed: for requests that bring none.
    """
    from hydra.utils import instantiate

    return instantiate(engine_cfg, policy, export, tokenizer, seed, deterministic)


def auto(
    policy: PreTrainedModel,
    export: Callable[[], Path],
    tokenizer: Any,
    seed: int,
    deterministic: bool,
    *,
    max_context: Annotated[int, Ge(2)],
    max_sequences: Annotated[int, Ge(1)],
    max_batch_tokens: Annotated[int, Ge(1)],
    cache_gib: Annotated[float, Gt(0)],
) -> Engine:
    """vLLM when it is installed and replies may depend on timing, else the embedded engine.

    cache_gib is for vLLM, which otherwise runs in the learner's dtype with compile='auto'; name engine=vllm to
    change those.
    """
    from meowtea.rollout.transformers import Transformers
    from meowtea.rollout.vllm import Vllm

    common = {"max_context": max_context, "max_sequences": max_sequences, "max_batch_tokens": max_batch_tokens}
    if deterministic or importlib.util.find_spec("vllm") is None:
        return Transformers(policy, export, tokenizer, seed, deterministic, **common)
    return Vllm(policy, export, tokenizer, seed, False, **common, dtype="auto", cache_gib=cache_gib, compile="auto")
