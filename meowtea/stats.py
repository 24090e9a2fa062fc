"""Statistics of success rates. No torch, no numpy: reports and evaluations share these."""

from __future__ import annotations

import math
from collections.abc import Sequence


def wilson_interval(wins: float, episodes: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95% score interval of a proportion (Wilson 1927), both ends in [0, 1]. No episodes: (0, 1)."""
    if not 0 <= wins <= episodes:
        raise ValueError(f"wins must lie between 0 and the {episodes} episodes, got {wins}")
    if episodes == 0:
        return 0.0, 1.0
    share, spread = wins / episodes, z * z / episodes
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / episodes + spread / (4 * episodes)) / (1 + spread)
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def pass_at_k(wins: int, samples: int, k: int) -> float:
    """Chance that at least one of k samples wins, unbiased from `samples` tries (Chen et al. 2021, equation 1)."""
    if not 1 <= k <= samples:
        raise ValueError(f"k must lie between 1 and the {samples} samples, got {k}")
    return 1.0 - math.comb(samples - wins, k) / math.comb(samples, k)


def mean(values: Sequence[float]) -> float:
    """The mean; of nothing, not a number."""
    return sum(values) / len(values) if values else math.nan
