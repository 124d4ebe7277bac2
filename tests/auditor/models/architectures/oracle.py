"""Networks with weights and running statistics that tell one place of a network from another."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.narrow import known


def unlike_fresh(network: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, each batch norm with statistics and weights of its own; convolutions that keep the scale of values."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(known(module.running_mean), std=0.2)
            nn.init.uniform_(known(module.running_var), 0.5, 1.5)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network.eval()


def shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def with_norms(names: list[str]) -> set[str]:
    """The names of a state dict from the names of its layers; those whose last part begins with bn are batch norms."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {
        f"{name}.{part}" for name in names for part in (norm if name.split(".")[-1].startswith("bn") else ("weight",))
    }


def normalized(weights: dict[str, Tensor], name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    """The batch norm ``name`` of a state dict in eval mode, written out."""
    mean, var, scale, shift = (
        weights[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + eps).sqrt() * scale + shift


def convolved(weights: dict[str, Tensor], name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    """The convolution ``name`` of a state dict, padded so that stride 1 keeps the size."""
    weight = weights[f"{name}.weight"]
    return functional.conv2d(
        x, weight, weights.get(f"{name}.bias"), stride, padding=weight.shape[-1] // 2, groups=groups
    )
