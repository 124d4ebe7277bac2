"""Networks of repositories, their code in short: what files of these repositories are compared with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """kuangliu/pytorch-cifar's BasicBlock, which MedMNIST's experiments use."""

    def __init__(self, before: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(before, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(out + self.shortcut(x))


class PreActBlock(nn.Module):
    """The block of RobustBench's PreActResNet; its shortcut takes the activated input."""

    def __init__(self, before: int, planes: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        if stride != 1 or before != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(before, planes, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(x))
        shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
        return self.conv2(torch.relu(self.bn2(self.conv1(out)))) + shortcut


class ResNetOfBlocks(nn.Module):
    def __init__(self, block: Callable[[int, int, int], nn.Module], channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
        if block is BasicBlock:
            self.bn1 = nn.BatchNorm2d(64)
        before = 64
        for number, planes in enumerate((64, 128, 256, 512), start=1):
            stage = nn.Sequential(block(before, planes, 1 if number == 1 else 2), block(planes, planes, 1))
            self.add_module(f"layer{number}", stage)
            before = planes
        self.linear = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = torch.relu(self.bn1(x)) if hasattr(self, "bn1") else x
        for number in (1, 2, 3, 4):
            x = self.get_submodule(f"layer{number}")(x)
        return self.linear(x.mean((2, 3)))


class Standardized(ResNetOfBlocks):
    """With RobustBench's buffers mu and sigma, beside the layers."""

    mu: Tensor
    sigma: Tensor

    def __init__(self) -> None:
        super().__init__(PreActBlock, 3, 10)
        self.register_buffer("mu", torch.tensor((0.4914, 0.4822, 0.4465)).view(1, 3, 1, 1))
        self.register_buffer("sigma", torch.tensor((0.2471, 0.2435, 0.2616)).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x - self.mu) / self.sigma)
