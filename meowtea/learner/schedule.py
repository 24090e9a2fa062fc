"""The learning rate of each optimizer step."""

from __future__ import annotations

import math
from typing import Literal

LrSchedule = Literal["constant", "cosine"]


def learning_rate(step: int, peak: float, warmup_steps: int, total_steps: int | None, schedule: LrSchedule) -> float:
    """The rate of optimizer step `step` (from 0): linear warm-up to `peak`, then constant, or half a cosine that
    reaches a tenth of the peak at total_steps. Without total_steps it stays constant."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant" or total_steps is None or total_steps <= warmup_steps:
        return peak
    done = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
    return peak * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))
