#!/usr/bin/env bash
# torch.fx.symbolic_trace (and torch.fx.experimental.optimization.fuse, which traces) of a network with a custom
# autograd.Function.
#
# One would guess: an autograd.Function is one operation, so that a traced module either keeps it or refuses; in any case a
# module whose outputs are bit for bit the same has the same gradients.
# What happens: the trace runs into the Function's static forward and records what is inside. Outputs are the same to the bit,
# nothing is said, and the backward is gone. A straight-through rounding then has a gradient of exactly zero, so that PGD on
# the traced (or conv-batch-norm-fused) network goes nowhere and the network looks robust.
# Seen with torch 2.13.0 and 2.15.0: "same outputs: True; gradient: network 216.0 in all, traced 0.0, fused 0.0".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from torch import fx, nn
from torch.fx.experimental.optimization import fuse


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.round(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)
        nn.init.ones_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x):
        return StraightThrough.apply(self.norm(self.conv(3 * x)))


network = Network().eval()
x = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def answers(module):
    points = x.clone().requires_grad_()
    logits = module(points)
    if not logits.requires_grad:
        return logits, 0.0
    logits.sum().backward()
    return logits.detach(), float(points.grad.abs().sum())


plain, traced, fused = (answers(item) for item in (network, fx.symbolic_trace(network), fuse(network)))
same = bool(torch.equal(plain[0], traced[0])) and bool(torch.equal(plain[0], fused[0]))
print(
    f"torch {torch.__version__.split('+')[0]}: same outputs: {same}; gradient: network {plain[1]:.1f} in all, "
    f"traced {traced[1]:.1f}, fused {fused[1]:.1f}"
)
sys.exit(not (same and plain[1] > 100 and traced[1] == fused[1] == 0.0))
PYTHON
