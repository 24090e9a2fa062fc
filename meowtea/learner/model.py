"""Model: which pretrained weights to start from, and how to bring them into memory. Light until used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from meowtea.errors import ModelError
from meowtea.learner.sources import SOURCES

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Model:
    """A light description; nothing is loaded before `tokenizer` or `policy` is called.

    name: a local folder in Hugging Face format, else what `source` understands.
    """

    def __init__(
        self,
        *,
        name: str,
        source: Literal["hub", "wheel", "random"],
        revision: str | None,
        dtype: Literal["auto", "bf16", "fp32"],
        device: Literal["auto", "cpu", "cuda"],
    ):
        self.name = name
        self.source = source
        self.revision = revision
        self._dtype = dtype
        self._device = device

    def folder(self) -> Path:
        """The folder with config, safetensors and tokenizer; downloaded or made if need be. Raises ModelError."""
        here = Path(self.name).expanduser()
        if here.is_dir():
            return here
        if here.is_absolute() or self.name.startswith((".", "~")):
            raise ModelError(f"model.name: the folder '{self.name}' does not exist")
        return SOURCES[self.source](self.name, self.revision)

    def device(self) -> torch.device:
        """The CUDA card if there is one and model.device allows it, else the CPU. Raises ModelError."""
        import torch

        if self._device == "cuda" and not torch.cuda.is_available():
            raise ModelError("model.device: 'cuda' was asked for, but torch sees no CUDA card; use 'auto' or 'cpu'")
        use_card = self._device != "cpu" and torch.cuda.is_available()
        return torch.device("cuda" if use_card else "cpu")

    def compute_dtype(self) -> torch.dtype:
        """bf16 or fp32; 'auto' is bf16 where the processor multiplies bf16 matrices faster than fp32 ones."""
        import torch

        if self._dtype == "auto":
            return torch.bfloat16 if has_fast_bf16(self.device()) else torch.float32
        return torch.bfloat16 if self._dtype == "bf16" else torch.float32

    def tokenizer(self, path: str | Path | None = None) -> PreTrainedTokenizerBase:
        """The tokenizer of this model, or of the exported checkpoint at `path`. Raises ModelError without a chat
        template or an eos token: episodes could not be written down or ended."""
        from transformers import AutoTokenizer

        folder = Path(path) if path is not None else self.folder()
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{folder}: no usable tokenizer ({_first_line(error)})") from error
        if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
            lacking = "chat template" if tokenizer.chat_template is None else "eos token"
            raise ModelError(f"{folder}: the tokenizer has no {lacking}; use an instruct model")
        return tokenizer

    def policy(self, path: str | Path | None = None) -> PreTrainedModel:
        """The causal LM in compute dtype on its device, in eval mode; from `path` if given. Raises ModelError."""
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM

        folder = Path(path) if path is not None else self.folder()
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder}: no model here (config.json is missing); give a folder in Hugging Face format")
        try:
            with quiet_loading():
                loaded: Any = AutoModelForCausalLM.from_pretrained(
                    folder, dtype=self.compute_dtype(), output_loading_info=True
                )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"{folder}: the model cannot be loaded ({_first_line(error)})") from error
        policy, report = loaded
        if report["missing_keys"]:
            some = ", ".join(sorted(report["missing_keys"])[:3])
            raise ModelError(f"{folder}: the model lacks {len(report['missing_keys'])} of its weights ({some}, ...)")
        return policy.to(self.device()).eval()


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' progress bars: what takes long here is the download, which has its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 matrix products are native: CUDA compute capability 8 on, CPUs with avx512_bf16 or AMX."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
