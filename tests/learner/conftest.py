"""Tiny random models of three families, and packed batches with shared beginnings for them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import VOCABULARY, model_at, play

from meowtea.batch import TokenBatch
from meowtea.learner.learner import Learner
from meowtea.learner.sources import random_folder

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model folder per family: llama (tiny-random itself), qwen2 (attention bias), qwen3 (query and key norms)."""
    from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config

    before = os.environ.get("MEOWTEA_CACHE")
    os.environ["MEOWTEA_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    made = {"llama": random_folder()}
    if before is None:
        del os.environ["MEOWTEA_CACHE"]
    else:
        os.environ["MEOWTEA_CACHE"] = before
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "tie_word_embeddings": False,
    }
    for name, config in (("qwen2", Qwen2Config(**shape)), ("qwen3", Qwen3Config(**shape))):
        made[name] = tmp_path_factory.mktemp(name) / "model"
        shutil.copytree(made["llama"], made[name])
        torch.manual_seed(1)
        model: Any = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():  # as made, biases are 0 and norms 1: every parameter must matter
            parameter.data += 0.05 * torch.randn_like(parameter)
        model.save_pretrained(made[name])
    return made


@pytest.fixture
def build(folders: dict[str, Path]) -> Callable[..., Learner]:
    """build(algorithm=None, family='llama', dtype='fp32', **learner keys): a learner with the shipped defaults."""

    def make(algorithm: Any = None, family: str = "llama", dtype: str = "fp32", **keys: Any) -> Learner:
        defaults = yaml.safe_load((CONF / "learner" / "default.yaml").read_text())
        del defaults["_target_"]
        return Learner(model_at(folders[family], dtype), algorithm, 1, **(defaults | keys))

    return make


@pytest.fixture
def batch() -> TokenBatch:
    return TokenBatch.pack(play())
