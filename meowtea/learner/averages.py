"""Metrics gathered over micro-batches and optimizer steps."""

from __future__ import annotations

from collections import defaultdict

from torch import Tensor


class Averages:
    """Weighted means of per-token metrics, plain means of per-step numbers, sums, and maxima."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.weights: dict[str, float] = defaultdict(float)
        self.totals: dict[str, float] = defaultdict(float)
        self.maxima: dict[str, float] = {}

    def tokens(self, metrics: dict[str, Tensor], weight_A: Tensor) -> None:
        """Add per-token metrics (A,) with the weights of the loss."""
        total = weight_A.sum().item()
        for name, value_A in metrics.items():
            self.sums[name] += (value_A.detach().float() * weight_A).sum().item()
            self.weights[name] += total

    def number(self, name: str, value: float) -> None:
        """Add one number, weighing as much as any other of its name."""
        self.sums[name] += value
        self.weights[name] += 1

    def total(self, name: str, value: float) -> None:
        """Add to the sum over optimizer steps: tokens, seconds."""
        self.totals[name] += value

    def maximum(self, name: str, value: float) -> None:
        self.maxima[name] = max(value, self.maxima.get(name, value))

    def result(self) -> dict[str, float]:
        return {name: self.sums[name] / self.weights[name] for name in self.sums} | self.totals | self.maxima
