"""AdamW on fp32 master weights: the module computes in bf16 (or fp32), the optimizer never rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class MasterAdamW:
    """AdamW (arXiv 1711.05101) over a module whose parameters may be bf16.

    Masters, gradients and moments are fp32. Each backward pass adds the module's gradients into the masters' and
    frees them; `step` updates the masters and copies them into the module. fp32 parameters are their own masters.
    """

    def __init__(
        self,
        module: nn.Module,
        schedule: Callable[[int], float],
        *,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
    ):
        self.schedule = schedule
        self.steps = 0
        self.skipped_in_a_row = 0
        named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        self.masters = [p if p.dtype == torch.float32 else p.detach().float() for p in self.parameters]
        self.adamw = torch.optim.AdamW(
            self.masters, lr=schedule(0), betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, fused=True
        )
        self.hooks = [
            parameter.register_post_accumulate_grad_hook(self._collector(master))
            for parameter, master in zip(self.parameters, self.masters, strict=True)
            if master is not parameter
        ]

    @staticmethod
    def _collector(master: Tensor) -> Callable[[Tensor], None]:
        """A hook that moves a fresh bf16 gradient into the master's fp32 one."""

        def collect(parameter: Tensor) -> None:
            assert parameter.grad is not None
            if master.grad is None:
                master.grad = parameter.grad.float()
            else:
                master.grad.add_(parameter.grad)
            parameter.grad = None

        return collect

    def detach(self) -> None:
        """Let go of the module, so that another optimizer may take it."""
        for hook in self.hooks:
            hook.remove()
        self.clear()

    def clear(self) -> None:
        """Drop the gradients gathered so far."""
        for master in self.masters:
            master.grad = None

    @property
    def lr(self) -> float:
        """Of the next step."""
        return self.schedule(self.steps)

    def gradient_norm(self) -> float:
        """Global L2 norm of the gradients gathered so far."""
        gradients = [master.grad for master in self.masters if master.grad is not None]
        return torch.nn.utils.get_total_norm(gradients).item()

    def step(self, norm: float, max_grad_norm: float) -> None:
        """Clip the gathered gradients, whose norm is given, update, copy into the module, drop the gradients."""
        torch.nn.utils.clip_grads_with_norm_(self.masters, max_grad_norm, torch.tensor(norm))
        for group in self.adamw.param_groups:
            group["lr"] = self.lr
        self.adamw.step()
        self.steps += 1
        self.skipped_in_a_row = 0
        self.publish()
        self.clear()

    def skip(self) -> None:
        """Drop the gradients without an update, and remember it."""
        self.skipped_in_a_row += 1
        self.clear()

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the module's parameters."""
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if master is not parameter:
                parameter.copy_(master)

    def state_dict(self) -> dict[str, Any]:
        masters = {name: master.detach() for name, master in zip(self.names, self.masters, strict=True)}
        return {
            "steps": self.steps,
            "skipped": self.skipped_in_a_row,
            "masters": masters,
            "adamw": self.adamw.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Masters, moments and counters become exactly those saved, and so do the module's parameters."""
        self.steps, self.skipped_in_a_row = state["steps"], state["skipped"]
        for name, master in zip(self.names, self.masters, strict=True):
            master.copy_(state["masters"][name])
        self.adamw.load_state_dict(state["adamw"])
        self.publish()
