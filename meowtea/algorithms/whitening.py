"""Zero mean and unit variance over a whole batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def whiten(x_A: Tensor) -> Tensor:
    """(A,) x minus its mean, over its standard deviation (n - 1 below the line). All equal: zeros, not noise."""
    centred_A = x_A - x_A.mean()
    std = (centred_A.square().sum() / max(len(x_A) - 1, 1)).sqrt()
    return centred_A / (std + 1e-8) if std > 1e-6 else x_A.new_zeros(len(x_A))
