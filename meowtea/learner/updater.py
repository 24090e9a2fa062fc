"""One optimizer step from many micro-batches, and what happens when its numbers are not finite."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from meowtea.batch import TokenBatch
from meowtea.errors import TrainingError
from meowtea.learner.averages import Averages
from meowtea.learner.microbatch import micro_batches
from meowtea.learner.optim import MasterAdamW
from meowtea.learner.packing import Packing

Losses = Callable[[TokenBatch, Packing, Tensor], Tensor]  # micro-batch, its packing, its weights (A,) -> weighted sum


@dataclass
class Updater:
    """How a batch becomes an optimizer step: memory limit, gradient clipping, tolerance for bad numbers."""

    max_tokens: int
    share_prefixes: bool
    max_grad_norm: float
    max_bad_updates: int
    device: torch.device
    dtype: torch.dtype

    def micro_batches(self, batch: TokenBatch) -> Iterator[tuple[TokenBatch, Packing, Tensor]]:
        """Micro-batches on the device, their packing, and where their action tokens stand in `batch`."""
        for micro, rows in micro_batches(batch, self.max_tokens, self.share_prefixes):
            packing = Packing.of(micro, self.share_prefixes)
            yield micro.to(self.device), packing.to(self.device, self.dtype), rows

    def update(
        self,
        optimizer: MasterAdamW,
        batch: TokenBatch,
        weight_A: Tensor,
        losses: Losses,
        averages: Averages,
        prefix: str,
    ) -> bool:
        """Sum the gradients of all micro-batches, then update. Returns whether the weights changed.

        A loss or gradient that is not finite changes nothing; max_bad_updates of them in a row are a TrainingError.
        """
        started, loss_sum, computed = time.perf_counter(), 0.0, 0
        for micro, packing, rows in self.micro_batches(batch):
            loss = losses(micro, packing, weight_A[rows])
            loss.backward()
            loss_sum += loss.item()
            computed += len(packing.token_U)
        norm, lr = optimizer.gradient_norm(), optimizer.lr
        good = math.isfinite(loss_sum) and math.isfinite(norm)
        if good:
            optimizer.step(norm, self.max_grad_norm)
            averages.number(f"{prefix}grad_norm", norm)
        else:
            optimizer.skip()
        averages.number(f"{prefix}loss", loss_sum)
        averages.number(f"{prefix}lr", lr)
        averages.number(f"{prefix}skipped_updates", 0.0 if good else 1.0)
        averages.total(f"{prefix}tokens", len(batch.token_T))
        averages.total(f"{prefix}computed_tokens", computed)  # fewer: shared beginnings count once
        averages.total(f"{prefix}seconds", time.perf_counter() - started)
        if optimizer.skipped_in_a_row >= self.max_bad_updates:
            raise TrainingError(
                f"{optimizer.skipped_in_a_row} updates in a row had a loss or gradient that is not finite (loss "
                f"{loss_sum}, gradient norm {norm}); the weights are those of the last good update. Lower the learning "
                "rate (learner.lr, sft.lr, algorithm.critic_lr), or use model.dtype=fp32"
            )
        return good
