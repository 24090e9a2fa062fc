"""From logits to one token per row, each row with its own random numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def uniforms(seed: int, count: int) -> list[float]:
    """The random numbers of one request, one per token, in [0, 1): they depend on its seed and nothing else."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=generator, dtype=torch.float64).tolist()


def sample(logits_RV: Tensor, temperature_R: Tensor, top_p_R: Tensor, uniform_R: Tensor) -> tuple[Tensor, Tensor]:
    """(token_R, logprob_R). Temperature 0 takes the likeliest token; its logprob is then that at temperature 1.

    The logprob is in nats, of the distribution sampled from: after temperature, renormalised within top_p (the
    smallest set of likeliest tokens whose probabilities reach top_p).
    """
    greedy_R = temperature_R == 0
    scale_R = torch.where(greedy_R, 1.0, temperature_R)
    logprob_RV = torch.log_softmax(logits_RV.float() / scale_R[:, None], dim=-1)
    if bool((top_p_R < 1).any()):
        logprob_RV = _within_top_p(logprob_RV, torch.where(greedy_R, 1.0, top_p_R))
    token_R = logprob_RV.argmax(-1)
    if not bool(greedy_R.all()):
        # Inverse of the cumulative distribution, in float64: the token found has a probability above 0.
        cumulative_RV = logprob_RV.exp().double().cumsum(-1)
        target_R = uniform_R.double() * cumulative_RV[:, -1]
        drawn_R = torch.searchsorted(cumulative_RV, target_R[:, None], right=True)[:, 0]
        token_R = torch.where(greedy_R, token_R, drawn_R)
    return token_R, logprob_RV.gather(-1, token_R[:, None])[:, 0]


def _within_top_p(logprob_RV: Tensor, top_p_R: Tensor) -> Tensor:
    ordered_RV, order_RV = logprob_RV.sort(dim=-1, descending=True)
    probability_RV = ordered_RV.exp()
    before_RV = probability_RV.cumsum(-1) - probability_RV
    outside_RV = (before_RV >= top_p_R[:, None]) & (top_p_R[:, None] < 1)
    outside_RV[:, 0] = False
    ordered_RV = ordered_RV.masked_fill(outside_RV, float("-inf"))
    kept_RV = torch.empty_like(ordered_RV).scatter_(-1, order_RV, ordered_RV)
    return torch.log_softmax(kept_RV, dim=-1)
