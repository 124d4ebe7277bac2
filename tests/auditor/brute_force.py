"""Influence and routes by brute force: hooks and autograd for each output element, nothing of the code under test."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tests.narrow import known

COPIES = 100


def jacobian_norms(
    network: nn.Module,
    x: Tensor,
    source: nn.Module,
    target: nn.Module,
    *,
    layer: nn.Module | None = None,
    before: bool = False,
    only: Sequence[int] | None = None,
) -> Tensor:
    """C (Cin, Cout) between the outputs of two modules for one image (1, C, H, W): sum over s and z of |dz/ds|.

    Every other convolution or linear layer is a constant; ``layer``: but this one, where the target is a normalization.
    ``before``: up to the input of the target. ``only``: these j; the rest of C is 0. The image goes through in copies, one for
    each output element z, so that one reverse pass gives dz/ds of them all.
    """
    leaf: list[Tensor] = []
    reached: list[Tensor] = []

    def cut(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if module is source:
            leaf.append(output.detach().requires_grad_())
            return leaf[-1].clone()  # what follows may work in place
        if module is target:
            reached.append(inputs[0] if before else output)
            return output.detach()
        return output.detach() if isinstance(module, nn.Conv2d | nn.Linear) and module is not layer else None

    def pass_through(copies: int) -> tuple[Tensor, Tensor]:
        network(x.expand(copies, -1, -1, -1))
        return leaf.pop(), reached.pop().flatten(2) if reached[-1].dim() > 2 else reached.pop().unsqueeze(2)

    handles = [
        module.register_forward_hook(cut) for module in network.modules() if not isinstance(module, nn.Sequential)
    ]
    try:
        z, out = pass_through(1)
        norms = torch.zeros(z.shape[1], out.shape[1], dtype=z.dtype)
        elements = [(j, p) for j in (range(out.shape[1]) if only is None else only) for p in range(out.shape[2])]
        for start in range(0, len(elements), COPIES):
            channels, positions = torch.tensor(elements[start : start + COPIES]).T
            z, out = pass_through(len(channels))
            (slopes,) = torch.autograd.grad(out[torch.arange(len(channels)), channels, positions].sum(), z)
            sizes = slopes.abs().reshape(len(channels), z.shape[1], -1).sum(2)
            norms.index_add_(1, channels, sizes.T.contiguous())
    finally:
        for handle in handles:
            handle.remove()
    return norms


def loss_gradient(network: nn.Module, x: Tensor, label: int, layer: nn.Module) -> Tensor:
    """sum over positions of |dL/dZ|, (M,), L the cross-entropy with the label, for one image."""
    leaf: list[Tensor] = []

    def cut(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        leaf.append(output.detach().requires_grad_())
        return leaf[0].clone()

    handle = layer.register_forward_hook(cut)
    loss = nn.functional.cross_entropy(network(x), torch.tensor([label]))
    handle.remove()
    (slope,) = torch.autograd.grad(loss, leaf[0])
    return slope[0].reshape(slope.shape[1], -1).abs().sum(1)


def largest(scores: Tensor, width: float) -> list[int]:
    """Indices of the largest share, at least one; ties to the lower index."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i].item(), i))
    return sorted(order[: max(1, int(width * len(scores)))])


def route(network: nn.Module, x: Tensor, label: int, layers: Sequence[nn.Module], width: float) -> list[list[int]]:
    """Eq. 3-6 for one image, layer by layer from the last."""
    found = [largest(loss_gradient(network, x, label, layers[-1]), width)]
    for source, target in zip(layers[-2::-1], layers[:0:-1], strict=True):
        norms = jacobian_norms(network, x, source, target, only=found[0])
        found.insert(0, largest(norms.sum(1), width))
    return found


def randomized(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in eval mode and float64 with random statistics; half of the normalization's factors are negative."""
    generator = torch.Generator().manual_seed(seed)
    network = network.eval().double()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            mean, variance = known(module.running_mean), known(module.running_var)
            size = mean.shape
            mean.copy_(torch.randn(size, generator=generator) * 0.1)
            variance.copy_(torch.rand(size, generator=generator) * 0.05 + 0.01)
            module.weight.data.copy_(torch.rand(size, generator=generator) + 0.5)
            module.weight.data[::2] *= -1
            module.bias.data.copy_(torch.randn(size, generator=generator) * 0.3)
    return network.requires_grad_(False)
