"""Formulas in their plainest form: no library losses, one image and one number at a time where that is bearable."""

from __future__ import annotations

import torch
from torch import Tensor

from auditor.hardening.hardening import TrainingStep
from auditor.hardening.learning.trainee import Trainee


def networks_output(trainee: Trainee, x: Tensor) -> Tensor:
    """Logits of the network in the mode in which it learns, from its own modules, on copies of its running statistics."""
    statistics = {name: value.clone() for name, value in trainee.network.named_buffers()}
    with trainee.learning():
        # The normalization of tests.nets.
        return torch.func.functional_call(trainee.network, statistics, (x - 0.5) / 0.5)


def probabilities(logits: Tensor) -> Tensor:
    powers = torch.exp(logits)
    return powers / powers.sum(1, keepdim=True)


def nll(logits: Tensor, label: Tensor) -> Tensor:
    """- log of the softmax at the label, of one image."""
    return -(torch.exp(logits[label]) / torch.exp(logits).sum()).log()


def gradient(loss: Tensor, step: TrainingStep) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(step.trainee.parameters.values()), allow_unused=True)
    return [
        torch.zeros_like(value) if slope is None else slope
        for slope, value in zip(found, step.trainee.parameters.values(), strict=True)
    ]
