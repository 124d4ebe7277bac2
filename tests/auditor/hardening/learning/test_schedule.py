"""Learning rates beside torch's own schedulers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from auditor.hardening.learning.schedule import factor


def torchs(make: Any, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("steps", [7, 40, 391])
def test_as_torch_has_them(steps: int) -> None:
    cosine = torchs(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, steps), steps)
    assert [factor("cosine", step, steps) for step in range(steps)] == pytest.approx(cosine, abs=1e-12)
    cycle = torchs(lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=steps), steps)
    assert [factor("one_cycle", step, steps) for step in range(steps)] == pytest.approx(cycle, abs=1e-12)
    drops = [-(-steps // 2), -(-3 * steps // 4)]
    drop = torchs(lambda optimizer: lr_scheduler.MultiStepLR(optimizer, drops, gamma=0.2), steps)
    assert [factor("step", step, steps, milestones=(0.5, 0.75), drop=0.2) for step in range(steps)] == pytest.approx(
        drop
    )
    assert {factor("constant", step, steps) for step in range(steps)} == {1.0}


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "one_cycle"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_few_steps_are_no_trouble(schedule: Any, steps: int) -> None:
    assert all(0 <= factor(schedule, step, steps, milestones=(0.5,)) <= 1 for step in range(steps))
