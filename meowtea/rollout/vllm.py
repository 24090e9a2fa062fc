"""vLLM inside this process: its own copy of the weights, updated in place after every policy update."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt

from meowtea.errors import ConfigError, ModelError
from meowtea.rollout.engine import Completion, Sampling, batch_problems, check_fits
from meowtea.rollout.pump import Pump, Request
from meowtea.seeds import derive_seed

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
QUIET = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process: weights go over as tensors
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "GLOO_LOG_LEVEL": "ERROR",
}


class Vllm:
    """Engine around vLLM's LLMEngine, with prefix caching.

    policy: the learner's module, for its dtype and device. export: returns a Hugging Face folder to start from.
    seed: for requests that bring none. deterministic: refused, vLLM forms its batches by the clock.
    max_context: most tokens of one conversation. max_sequences, max_batch_tokens: rows and tokens of a step.
    dtype: of weights and cache; 'auto' is the policy's. cache_gib: memory for keys and values.
    compile: let torch.compile (and, on a GPU, CUDA graphs) make steps faster, for a slower start; 'auto': on a GPU.

    Errors: ConfigError if deterministic; ModelError if vLLM is not installed or cannot run the model.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        export: Callable[[], Path],
        tokenizer: Any,
        seed: int,
        deterministic: bool,
        *,
        max_context: Annotated[int, Ge(2)],
        max_sequences: Annotated[int, Ge(1)],
        max_batch_tokens: Annotated[int, Ge(1)],
        dtype: Literal["auto", "fp32", "bf16"],
        cache_gib: Annotated[float, Gt(0)],
        compile: bool | Literal["auto"],
    ):
        problems = self.problems(
            max_context=max_context, max_sequences=max_sequences, max_batch_tokens=max_batch_tokens
        )
        if deterministic:
            problems.append("deterministic: vLLM's batches depend on timing; use engine=transformers")
        if problems:
            raise ConfigError([f"engine.{problem}" for problem in problems])
        self.seed, self.max_context = seed, max_context
        self.policy_version = 0
        self._unseeded = 0
        self._backend = Backend()
        self._pump = Pump(self._backend, deterministic=False)
        options = {
            "model": str(export()),
            "dtype": DTYPES.get(dtype) or str(policy.dtype).removeprefix("torch."),
            "max_model_len": max_context,
            "max_num_seqs": max_sequences,
            "max_num_batched_tokens": max_batch_tokens,
            "kv_cache_memory_bytes": int(cache_gib * 2**30),
            "enforce_eager": not (policy.device.type != "cpu" if compile == "auto" else compile),
            "seed": seed % 2**31,
        }
        # Everything of vLLM happens in the thread that will step it: threads keep OpenMP pools of their own.
        self._pump.call(self._backend.start, options, policy.device)

    @staticmethod
    def problems(**keys: Any) -> list[str]:
        found = batch_problems(**keys)
        if keys["max_batch_tokens"] < keys["max_context"]:
            found.append(
                f"max_batch_tokens: must be at least max_context ({keys['max_context']}), since vLLM may have to read "
                f"a prompt in one step, got {keys['max_batch_tokens']}"
            )
        return found

    async def generate(self, prompt_ids: list[int], sampling: Sampling, session: str = "") -> Completion:
        check_fits(prompt_ids, sampling, self.max_context)
        if sampling.seed is None:
            self._unseeded += 1
            sampling = replace(sampling, seed=derive_seed(self.seed, session, self._unseeded))
        return await self._pump.submit(prompt_ids, sampling, session)

    def enter(self, session: str) -> None:
        """vLLM takes no notice of episodes."""

    def leave(self, session: str) -> None:
        """vLLM takes no notice of episodes."""

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        self._pump.call(self._backend.load, weights)
        self.policy_version = version

    def sleep(self) -> None:
        """On a GPU the weights move to main memory and the cache is dropped; elsewhere there is nothing to gain."""
        self._pump.call(self._backend.sleep)

    def wake(self) -> None:
        self._pump.call(self._backend.wake)

    def close(self) -> None:
        self._pump.call(self._backend.stop)
        self._pump.close()


class Backend:
    """What the pump drives: vLLM's engine and the requests it has."""

    def __init__(self) -> None:
        self._engine: Any = None
        self._requests: dict[str, Request] = {}
        self._names = itertools.count()
        self._can_sleep = False
        self._asleep: set[str] = set()  # what of it sleeps: weights, kv_cache

    def start(self, options: dict[str, Any], device: Any) -> None:
        import torch

        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        set_num_threads = torch.set_num_threads
        try:
            from vllm import EngineArgs, LLMEngine
        except ImportError as error:
            raise ModelError(
                f"engine=vllm: vLLM cannot be imported ({error}); install it with pip install 'meowtea[vllm]', "
                "or use engine=transformers"
            ) from error
        self._can_sleep = device.type == "cuda"
        if self._can_sleep:
            # The size of the cache is given: this share of the card only has to be free when vLLM starts.
            free, total = torch.cuda.mem_get_info(device)
            options = options | {"enable_sleep_mode": True, "gpu_memory_utilization": 0.9 * free / total}
        else:
            # Only whole blocks are cached, and 128 tokens, the default on CPU, are more than most turns have.
            # Prompts are read whole: vLLM 0.32 winds back the random numbers of a request whose prompt it reads in
            # pieces, and that fails with CPU generators.
            options = options | {"block_size": 32, "enable_chunked_prefill": False}
        try:
            arguments = EngineArgs(
                **options,
                skip_tokenizer_init=True,
                use_tqdm_on_load=False,
                enable_prefix_caching=True,
                logprobs_mode="processed_logprobs",
                disable_log_stats=True,
                generation_config="vllm",  # no sampling defaults from the model's folder
            )
            self._engine = LLMEngine.from_engine_args(arguments)
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise ModelError(
                f"engine=vllm: cannot start ({str(error)[:500]}) with {options}; engine=transformers may"
            ) from error
        finally:
            torch.set_num_threads = set_num_threads  # on CPU vLLM turns it off for the whole process

    def add(self, request: Request) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = request.sampling
        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            stop_token_ids=list(sampling.stop_token_ids),
            ignore_eos=True,  # the stop tokens are those of the request and no others
            seed=(sampling.seed or 0) % 2**31,
            logprobs=0,  # of the sampled token only
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        name = str(next(self._names))
        self._requests[name] = request
        self._engine.add_request(name, {"prompt_token_ids": request.prompt_ids}, params)

    def step(self) -> list[tuple[Request, Completion]]:
        self._abort([name for name, request in self._requests.items() if request.cancelled])
        if not self._requests:
            return []
        finished = []
        for output in self._engine.step():
            if output.finished:
                request = self._requests.pop(output.request_id)
                finished.append((request, completion(output.outputs[0])))
        return finished

    def clear(self) -> None:
        self._abort(list(self._requests))
        self._engine.reset_prefix_cache()

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.clear()
        if "weights" in self._asleep:
            self._engine.wake_up(["weights"])
            self._asleep.discard("weights")
        try:
            self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
            self._engine.apply_model(repack_heads)
        except (KeyError, AssertionError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"engine=vllm: cannot load the weights ({type(error).__name__}: {str(error)[:200]}); "
                "they must have the names and shapes of the model the engine was started with"
            ) from error
        self._engine.reset_prefix_cache()

    def sleep(self) -> None:
        if self._can_sleep and not self._asleep:
            self._engine.sleep(level=1)
            self._asleep = {"weights", "kv_cache"}

    def wake(self) -> None:
        if self._asleep:
            self._engine.wake_up(sorted(self._asleep))
            self._asleep = set()

    def stop(self) -> None:
        if self._engine is not None:
            self.clear()
            self._engine.engine_core.shutdown()
            self._engine = None

    def _abort(self, names: list[str]) -> None:
        if names:
            self._engine.abort_request(names)
        for name in names:
            del self._requests[name]


def repack_heads(model: Any) -> None:
    """Bring the output heads up to date. On CPU vLLM computes with packed copies of the weights, and a reload
    makes a new copy only of layers that are loaded by name: a head tied to the embeddings is not (seen in 0.32)."""
    import torch
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)


def completion(output: Any) -> Completion:
    """vLLM's output of one request in our words."""
    ids = list(output.token_ids)
    logprobs = [options[token].logprob for token, options in zip(ids, output.logprobs, strict=True)]
    return Completion(ids, logprobs, "stop" if output.finish_reason == "stop" else "length")
