from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from meowtea.learner.optim import MasterAdamW
from meowtea.learner.schedule import learning_rate

ADAMW = {"beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.01}


def linear(dtype: torch.dtype) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(8, 8, dtype=dtype)


def test_fp32_parameters_are_their_own_masters_and_step_like_torch():
    ours, theirs = linear(torch.float32), linear(torch.float32)
    optimizer = MasterAdamW(ours, lambda step: 1e-2, **ADAMW)
    adamw = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.01)
    for step in range(5):
        x = torch.full((3, 8), float(step))
        ours(x).pow(2).mean().backward()
        optimizer.step(optimizer.gradient_norm(), 1.0)
        theirs(x).pow(2).mean().backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()
    assert optimizer.masters[0] is ours.weight
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-6)


def test_steps_too_small_for_bf16_add_up_in_the_masters():
    module = linear(torch.bfloat16)
    before = module.weight.detach().clone()
    optimizer = MasterAdamW(module, lambda step: 1e-5, **(ADAMW | {"weight_decay": 0.0}))
    for _ in range(400):
        module(torch.ones(1, 8, dtype=torch.bfloat16)).sum().backward()
        optimizer.step(optimizer.gradient_norm(), 1.0)
        assert module.weight.dtype == torch.bfloat16 and module.weight.grad is None
    moved = (optimizer.masters[0] - before.float()).mean().item()
    assert moved == pytest.approx(-400e-5, rel=1e-2)
    assert (module.weight == optimizer.masters[0].bfloat16()).all()
    # the same steps in bf16 alone round away wherever a weight is larger than 512 steps
    assert (before.float() - 1e-5).bfloat16().eq(before).float().mean() > 0.9


def test_gradients_of_micro_batches_are_added_in_fp32():
    module = linear(torch.bfloat16)
    optimizer = MasterAdamW(module, lambda step: 1e-3, **ADAMW)
    for scale in (1.0, *[2**-9] * 512):
        (module.bias * scale).sum().backward()
    # in bf16, 1 + 2^-9 is 1: the small ones would be lost
    assert optimizer.masters[1].grad is not None
    assert optimizer.masters[1].grad.tolist() == [2.0] * 8


def test_a_skipped_update_changes_nothing():
    module = linear(torch.float32)
    before = module.weight.detach().clone()
    optimizer = MasterAdamW(module, lambda step: 1e-3, **ADAMW)
    (module.weight * float("nan")).sum().backward()
    assert optimizer.gradient_norm() != optimizer.gradient_norm()
    optimizer.skip()
    assert (module.weight == before).all() and module.weight.grad is None
    assert (optimizer.steps, optimizer.skipped_in_a_row) == (0, 1)


def test_a_detached_optimizer_lets_go_of_the_module():
    module = linear(torch.bfloat16)
    first = MasterAdamW(module, lambda step: 1e-3, **ADAMW)
    first.detach()
    second = MasterAdamW(module, lambda step: 1e-3, **ADAMW)
    module(torch.ones(1, 8, dtype=torch.bfloat16)).sum().backward()
    assert first.masters[0].grad is None
    assert second.masters[0].grad is not None


def test_schedule():
    constant = partial(learning_rate, peak=1.0, warmup_steps=4, total_steps=10, schedule="constant")
    assert [constant(step) for step in (0, 1, 3, 4, 9, 50)] == [0.25, 0.5, 1, 1, 1, 1]
    cosine = partial(learning_rate, peak=1.0, warmup_steps=0, total_steps=10, schedule="cosine")
    assert [cosine(step) for step in (0, 5, 10, 20)] == pytest.approx([1, 0.55, 0.1, 0.1])
