"""Learner: holds the policy (critic, reference) and changes its weights, one packed batch at a time."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Lt

from meowtea.errors import TrainingError
from meowtea.learner.schedule import LrSchedule, learning_rate

if TYPE_CHECKING:
    from torch import Tensor, nn

    from meowtea.algorithms.base import ActorCritic, Algorithm
    from meowtea.batch import TokenBatch
    from meowtea.learner.averages import Averages
    from meowtea.learner.critic import Critic
    from meowtea.learner.model import Model
    from meowtea.learner.optim import MasterAdamW
    from meowtea.learner.packing import Packing
    from meowtea.learner.updater import Losses


class Learner:
    """SFT and RL updates on packed batches. No number it returns depends on how a step is cut into micro-batches.

    policy is the live module, in compute dtype: an engine in the same process may sample from it. policy_version
    counts its optimizer steps. `begin` or `begin_rl` opens a stage with a fresh optimizer.
    algorithm: None for SFT only. seed: of the minibatch shuffling.
    """

    def __init__(
        self,
        model: Model,
        algorithm: Algorithm | None,
        seed: int,
        *,
        lr: Annotated[float, Gt(0)],
        lr_schedule: LrSchedule,
        warmup_steps: Annotated[int, Ge(0)],
        beta1: Annotated[float, Ge(0), Lt(1)],
        beta2: Annotated[float, Ge(0), Lt(1)],
        eps: Annotated[float, Gt(0)],
        weight_decay: Annotated[float, Ge(0)],
        max_grad_norm: Annotated[float, Gt(0)],
        max_tokens_per_microbatch: Annotated[int, Ge(1)],
        share_prefixes: bool,
        gradient_checkpointing: bool,
        offload_reference: bool,
        max_bad_updates: Annotated[int, Ge(1)],
        threads: Annotated[int, Ge(1)] | None,
    ):
        import torch

        from meowtea.learner.logprobs import check_architecture
        from meowtea.learner.updater import Updater

        if threads is not None:
            torch.set_num_threads(threads)
        self.algorithm = algorithm
        self.lr, self.lr_schedule, self.warmup_steps = lr, lr_schedule, warmup_steps
        self.adamw = {"beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": weight_decay}
        self.offload_reference = offload_reference
        self.policy: Any = model.policy()
        check_architecture(self.policy)
        self.tokenizer = model.tokenizer()
        limits = (max_tokens_per_microbatch, share_prefixes, max_grad_norm, max_bad_updates)
        self.updater = Updater(*limits, self.policy.device, self.policy.dtype)
        self.gradient_checkpointing = gradient_checkpointing
        if gradient_checkpointing:
            from meowtea.learner.attention import checkpoint_layers

            checkpoint_layers(self.policy)
        self.generator = torch.Generator().manual_seed(seed % 2**63)
        self.policy_version = 0
        self.rl_batches = 0
        self.optimizer: MasterAdamW | None = None
        self.critic: Critic | None = None
        self.critic_optimizer: MasterAdamW | None = None
        self.reference: Any = None

    # -- stages -------------------------------------------------------------------------------------------------

    def begin(self, lr: float | None = None, total_steps: int | None = None, warmup_steps: int | None = None) -> None:
        """A fresh optimizer and schedule for the policy. What is None comes from the learner's own keys.

        total_steps: length of a cosine schedule; without it the rate stays constant after the warm-up.
        """
        if self.optimizer is not None:
            self.optimizer.detach()
        warmup = self.warmup_steps if warmup_steps is None else warmup_steps
        self.optimizer = self._optimizer(self.policy, lr or self.lr, warmup, total_steps)

    def begin_rl(self, total_batches: int | None = None) -> None:
        """Open the RL stage: the policy as it is now becomes the reference and the critic's start, if needed.

        total_batches: how many `improve` will see; the length of a cosine schedule.
        """
        if self.algorithm is None:
            raise TrainingError("the learner was built without an algorithm: it can only imitate")
        updates = self.algorithm.epochs * self.algorithm.minibatches
        total_steps = None if total_batches is None else total_batches * updates
        self.begin(total_steps=total_steps)
        if self.algorithm.needs_reference:
            self.reference = copy.deepcopy(self.policy).requires_grad_(False)
            if self.offload_reference:
                self.reference.to("cpu")
        if self.algorithm.needs_critic:
            from meowtea.learner.critic import Critic

            ppo: ActorCritic = self.algorithm  # type: ignore[assignment]
            self.critic = Critic(self.policy, ppo.critic_layers)
            self.critic_optimizer = self._optimizer(self.critic, ppo.critic_lr, self.warmup_steps, total_steps)

    def _optimizer(self, module: nn.Module, lr: float, warmup_steps: int, total_steps: int | None) -> MasterAdamW:
        from meowtea.learner.optim import MasterAdamW

        schedule = partial(
            learning_rate, peak=lr, warmup_steps=warmup_steps, total_steps=total_steps, schedule=self.lr_schedule
        )
        return MasterAdamW(module, schedule, **self.adamw)

    # -- SFT ----------------------------------------------------------------------------------------------------

    def imitate(self, batch: TokenBatch) -> dict[str, float]:
        """One optimizer step on the mean negative log-likelihood (nats per token) of the batch's action tokens."""
        import torch

        from meowtea.learner.averages import Averages
        from meowtea.learner.logprobs import action_logprobs

        averages = Averages()
        weight_A = torch.full((batch.action_count,), 1 / batch.action_count, device=self.updater.device)

        def losses(micro: TokenBatch, packing: Packing, weight: Tensor) -> Tensor:
            logprob_A, _ = action_logprobs(self.policy, micro, packing)
            return -(logprob_A * weight).sum()

        self._update_policy(batch, weight_A, losses, averages)
        return averages.result()

    # -- RL -----------------------------------------------------------------------------------------------------

    def annotate(self, batch: TokenBatch, algorithm: Algorithm) -> dict[str, float]:
        """Fill old_logprob_A, ref_logprob_A and value_A, each only if needed; seconds it took.

        One optimizer step per batch needs no old_logprob_A: the policy that is improved is the old one.
        """
        import torch

        from meowtea.learner.logprobs import action_logprobs

        started = time.perf_counter()
        needs_old = algorithm.needs_old_logprob or algorithm.epochs * algorithm.minibatches > 1
        needs_old = needs_old or self._warming_up(algorithm)  # for the gap between engine and learner
        fills: dict[str, Callable[[TokenBatch, Packing], Tensor]] = {}
        if needs_old:
            fills["old_logprob_A"] = lambda micro, packing: action_logprobs(self.policy, micro, packing)[0]
        if self.reference is not None:
            reference = self.reference.to(self.updater.device)
            fills["ref_logprob_A"] = lambda micro, packing: action_logprobs(reference, micro, packing)[0]
        if self.critic is not None:
            fills["value_A"] = self.critic
        filled = {name: torch.zeros(batch.action_count) for name in fills}
        with torch.no_grad():
            for micro, packing, rows in self.updater.micro_batches(batch) if fills else ():
                for name, fill in fills.items():
                    filled[name][rows] = fill(micro, packing).float().cpu()
        for name, value_A in filled.items():
            setattr(batch, name, value_A)
        if self.reference is not None and self.offload_reference:
            self.reference.to("cpu")
        return {"learner/annotate_seconds": time.perf_counter() - started}

    def improve(self, batch: TokenBatch, algorithm: Algorithm) -> dict[str, float]:
        """algorithm.epochs passes of algorithm.minibatches optimizer steps each; metrics averaged over them.

        During the first algorithm.critic_warmup_steps batches only the critic learns.
        """
        import torch

        from meowtea.algorithms.average import token_weights
        from meowtea.learner.averages import Averages
        from meowtea.learner.microbatch import minibatches, with_advantage

        averages = Averages()
        warming_up = self._warming_up(algorithm)
        self._gap_known = batch.old_logprob_A is not None  # else it is that of the trajectories that teach
        if self._gap_known:
            log_gap(batch, torch.ones(batch.action_count), averages)
        for _ in range(algorithm.epochs):
            for chosen in minibatches(batch.trajectory_count, algorithm.minibatches, self.generator):
                step = batch if len(chosen) == batch.trajectory_count else batch.select(chosen)
                weight_A = token_weights(step, algorithm.loss_average).to(self.updater.device)
                if not warming_up:
                    losses = partial(self._policy_losses, algorithm=algorithm, averages=averages)
                    taught, rows = (step, slice(None)) if algorithm.learns_without_advantage else with_advantage(step)
                    averages.number("learner/taught", taught.trajectory_count / step.trajectory_count)
                    self._update_policy(taught, weight_A[rows], losses, averages, "learner/")
                if self.critic is not None:
                    self._update_critic(step, weight_A, algorithm, averages)
        self.rl_batches += 1
        return averages.result() | {"learner/policy_version": self.policy_version}

    def _warming_up(self, algorithm: Algorithm) -> bool:
        """Whether only the critic learns from the coming batch."""
        return self.critic is not None and self.rl_batches < algorithm.critic_warmup_steps  # type: ignore[attr-defined]

    def _policy_losses(
        self, micro: TokenBatch, packing: Packing, weight: Tensor, algorithm: Algorithm, averages: Averages
    ) -> Tensor:
        """The policy's loss on a micro-batch. What is logged is over the trajectories that teach."""
        from meowtea.learner.logprobs import action_logprobs

        logprob_A, entropy_A = action_logprobs(self.policy, micro, packing, with_entropy=True)
        assert entropy_A is not None
        if micro.old_logprob_A is None:
            micro.old_logprob_A = logprob_A.detach()
        loss_A, metrics = algorithm.policy_loss(
            logprob_A, entropy_A if algorithm.needs_entropy else entropy_A.detach(), micro
        )
        averages.tokens({"learner/entropy": entropy_A, **metrics}, weight)
        if not self._gap_known:
            log_gap(micro, weight, averages)
        return (loss_A * weight).sum()

    def _update_critic(self, step: TokenBatch, weight_A: Tensor, algorithm: Algorithm, averages: Averages) -> None:
        ppo: ActorCritic = algorithm  # type: ignore[assignment]
        assert self.critic is not None and self.critic_optimizer is not None
        critic = self.critic

        def losses(micro: TokenBatch, packing: Packing, weight: Tensor) -> Tensor:
            loss_A, metrics = ppo.value_loss(critic(micro, packing), micro)
            averages.tokens(metrics, weight)
            return (loss_A * weight).sum()

        critic.train(self.gradient_checkpointing)
        try:
            self.updater.update(self.critic_optimizer, step, weight_A, losses, averages, "critic/")
        finally:
            critic.eval()

    # -- one optimizer step -------------------------------------------------------------------------------------

    def _update_policy(
        self, step: TokenBatch, weight_A: Tensor, losses: Losses, averages: Averages, prefix: str = ""
    ) -> None:
        if self.optimizer is None:
            raise TrainingError("no stage has begun: call begin() or begin_rl() first")
        self.policy.train(self.gradient_checkpointing)  # transformers checkpoints only then; there is no dropout
        try:
            self.policy_version += self.updater.update(self.optimizer, step, weight_A, losses, averages, prefix)
        finally:
            self.policy.eval()

    # -- what survives ------------------------------------------------------------------------------------------

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The policy's parameters under their Hugging Face names, tied ones once; for an engine's loader."""
        for name, parameter in self.policy.named_parameters():
            yield name, parameter.detach()

    def state_dict(self) -> dict[str, Any]:
        """Everything the next update depends on: fp32 masters, moments, counters, shuffling; critic and reference."""
        state: dict[str, Any] = {
            "policy_version": self.policy_version,
            "rl_batches": self.rl_batches,
            "generator": self.generator.get_state(),
        }
        for name, optimizer in (("optimizer", self.optimizer), ("critic_optimizer", self.critic_optimizer)):
            state[name] = None if optimizer is None else optimizer.state_dict()
        state["reference"] = None if self.reference is None else self.reference.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where state_dict was taken. Call begin or begin_rl for its stage first; without one, only
        the policy's weights are taken."""
        self.policy_version, self.rl_batches = state["policy_version"], state["rl_batches"]
        self.generator.set_state(state["generator"])
        if state["optimizer"] is not None:
            if self.optimizer is None:
                self.begin()
            assert self.optimizer is not None
            self.optimizer.load_state_dict(state["optimizer"])
        if self.critic_optimizer is not None:
            self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        if self.reference is not None:
            self.reference.load_state_dict(state["reference"])

    def export(self, folder: str | Path) -> None:
        """Write policy and tokenizer in Hugging Face format to `folder`, replacing what is there."""
        from meowtea.learner.sources import finished_folder

        with finished_folder(Path(folder), replace=True) as work:
            self.policy.save_pretrained(work)
            self.tokenizer.save_pretrained(work)


def log_gap(batch: TokenBatch, weight_A: Tensor, averages: Averages) -> None:
    """How far the learner's log-probabilities are from the engine's, which sampled the same tokens."""
    assert batch.old_logprob_A is not None
    gap_A = batch.old_logprob_A - batch.rollout_logprob_A
    averages.tokens(
        {
            "mismatch/logprob": gap_A.abs(),
            # estimates of KL(engine || learner), http://joschu.net/blog/kl-approx.html
            "mismatch/kl_k1": -gap_A,
            "mismatch/kl_k3": gap_A.exp() - 1 - gap_A,
        },
        weight_A,
    )
    averages.maximum("mismatch/max", gap_A.abs().max().item())
