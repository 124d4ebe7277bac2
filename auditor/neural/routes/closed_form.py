"""Influence of neurons on those of the next layer, C^{ij} of Li et al. 2021 (eq. 1-2), in closed form, for a batch at a time.

    C^{ij} = sum over positions z of Z^j and s of Z^i of |dz/ds| = sum_k |w[j,i,k]| N_i[k]

where N_i[k] counts, for each tap k of the next layer's kernel, the positions at which channel i is active and the tap gives an
output inside the map, weighted by the local derivative there. Where a max-pool with overlapping windows comes before the
kernel, one position may meet several taps; these add before the absolute value, so positions are told apart by the pattern
of windows that they won, and each pattern has a kernel of its own. A linear layer is a kernel as large as the map.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from auditor.models.tracing import IntPair, function_of, pair
from auditor.neural.routes.derivative import Flow, Won
from auditor.neural.routes.graph import Edge, TracedNetwork


@dataclass(frozen=True)
class Kernel:
    """A layer as a convolution. ``weight``: (groups, Cout / groups, Cin / groups, rows, columns)."""

    weight: Tensor
    stride: IntPair
    padding: IntPair
    dilation: IntPair
    outputs: IntPair

    @classmethod
    def of(cls, network: TracedNetwork, layer: fx.Node, spatial: IntPair, factor: Tensor | None) -> Kernel:
        """Of a convolution or linear layer that meets maps of a size; ``factor`` (Cout,) scales its outputs."""
        module = function_of(layer, network.module)
        if isinstance(module, nn.Linear):
            weight, groups = module.weight.detach().unflatten(1, (-1, *spatial)), 1
            stride, padding, dilation, outputs = (1, 1), (0, 0), (1, 1), (1, 1)
        else:
            weight, groups = module.weight.detach(), module.groups
            stride, dilation = pair(module.stride), pair(module.dilation)
            padding = _padding(module, dilation)
            outputs = pair(tuple(network.shapes[layer][2:]))
        if factor is not None:
            weight = weight * factor.view(-1, 1, 1, 1)
        return cls(weight.unflatten(0, (groups, -1)), stride, padding, dilation, outputs)

    def merged(self, windows: list[IntPair], reach: IntPair) -> Kernel:
        """What reaches an output from a position that won several windows: the sum of their taps (U_T).

        Its taps lie at the offsets 1 - reach, ..., dilation * (taps - 1), dense, from the first window of the position.
        """
        rows, columns = self.weight.shape[-2:]
        high, wide = (reach[a] + self.dilation[a] * (n - 1) for a, n in enumerate((rows, columns)))
        sums = self.weight.new_zeros(*self.weight.shape[:-2], high, wide)
        for down, right in windows:
            top, left = reach[0] - 1 - down, reach[1] - 1 - right
            sums[..., top :: self.dilation[0], left :: self.dilation[1]][..., :rows, :columns] += self.weight
        return replace(self, weight=sums, dilation=(1, 1))

    def meets(self, rows: Tensor, columns: Tensor, *, first: IntPair = (0, 0)) -> Tensor:
        """1 where a tap at a place gives an output inside the map, (taps, places), for places in these rows and columns.

        ``first``: offset of the first tap.
        """
        inside = []
        for axis, places in enumerate((rows, columns)):
            taps = first[axis] + self.dilation[axis] * torch.arange(self.weight.shape[3 + axis], device=places.device)
            shifted = places + self.padding[axis] - taps.unsqueeze(1)
            output = shifted.div(self.stride[axis], rounding_mode="floor")
            hit = (output >= 0) & (output < self.outputs[axis]) & (shifted % self.stride[axis] == 0)
            inside.append(hit.to(self.weight.dtype))
        return torch.kron(*inside)


class Taps(NamedTuple):
    """Counts N (B, C, rows, columns), for the absolute kernel |w| (groups, Cout / groups, Cin / groups, rows, columns)."""

    counts: Tensor
    kernel: Tensor


class EdgeInfluence(NamedTuple):
    """C of one edge for a batch, not multiplied out. ``channels``: where the source's channels lie in the kernel's input.

    ``scale``: (C,), the source's normalization, or None.
    """

    taps: tuple[Taps, ...]
    channels: slice
    scale: Tensor | None

    def onto(self, selected: Tensor) -> Tensor:
        """sum over the selected target neurons j of C^{ij} (eq. 5): ``selected`` (B, Cout) of 0 and 1 -> (B, C)."""
        total = sum((self._received(taps, selected) * taps.counts).sum((2, 3)) for taps in self.taps)
        return self._scaled(torch.as_tensor(total))

    def pairs(self) -> Tensor:
        """All of C, (B, C, Cout): large, for tests and single layers."""
        groups, outs = self.taps[0].kernel.shape[:2]
        each = torch.eye(groups * outs, device=self.taps[0].kernel.device, dtype=self.taps[0].kernel.dtype)
        images = len(self.taps[0].counts)
        return torch.stack([self.onto(row.expand(images, -1)) for row in each], 2)

    def _received(self, taps: Taps, selected: Tensor) -> Tensor:
        """S_i[k] = sum over the selected j of |w[j,i,k]|, (B, C, rows, columns)."""
        groups, outs, ins, rows, columns = taps.kernel.shape
        chosen = selected.unflatten(1, (groups, outs)).transpose(0, 1)
        sums = chosen @ taps.kernel.flatten(2)
        return sums.transpose(0, 1).reshape(len(selected), groups * ins, rows, columns)[:, self.channels]

    def _scaled(self, totals: Tensor) -> Tensor:
        return totals if self.scale is None else totals * self.scale


class SkipInfluence(NamedTuple):
    """C of a skip connection, C^{ii} alone. ``counts``: (B, C); ``channels``, ``scale`` as in ``EdgeInfluence``."""

    counts: Tensor
    channels: slice
    scale: Tensor | None

    def onto(self, selected: Tensor) -> Tensor:
        """C^{ii} where the neuron of the sum is selected, else 0: ``selected`` (B, Cout) -> (B, C)."""
        received = selected[:, self.channels] * self.counts
        return received if self.scale is None else received * self.scale


class IntoSum(NamedTuple):
    """An edge by which an earlier output is added to a later one as it is."""

    edge: Edge

    def finish(self, flow: Flow, value: Tensor) -> SkipInfluence:
        """From the flow that arrives at the addition, and the term that is added."""
        return SkipInfluence(flow.by_window(value).sum((2, 3)), flow.channels, flow.scale)


class IntoLayer:
    """An edge into a layer, ready to be measured batch by batch. ``fold``: the layer's output counts normalized."""

    def __init__(self, network: TracedNetwork, edge: Edge, *, fold: bool) -> None:
        self.edge = edge
        factor = network.fold_factor(edge.target) if fold else None
        self.kernel = Kernel.of(network, edge.target, edge.spatial, factor)
        self.plain = self.kernel.weight.abs()
        self.meets = self.kernel.meets(*(torch.arange(side, device=self.plain.device) for side in edge.spatial))
        self.whole = isinstance(function_of(edge.target, network.module), nn.Linear)

    def finish(self, flow: Flow, value: Tensor) -> EdgeInfluence:
        """From the flow that arrives at the layer's input, and that input."""
        if flow.won is not None and self.plain[0, 0, 0].numel() > 1:
            size = flow.dense(value)
            dead = Taps(size.new_zeros(*size.shape[:2], *self.plain.shape[-2:]), self.plain)
            taps = tuple(self._patterns(size, flow.won)) or (dead,)
        else:
            # With a single tap, the windows that one position won reach different outputs, so nothing adds.
            size = flow.by_window(value)
            # A linear layer has one tap for each position, so nothing is summed.
            taps = (Taps(size if self.whole else self._counts(size, self.meets, self.plain), self.plain),)
        return EdgeInfluence(taps, flow.channels, flow.scale)

    def _patterns(self, size: Tensor, won: Won) -> Iterator[Taps]:
        """One entry for each pattern of windows that some active position won."""
        code, reach = won.code, won.window.reach
        places = (
            won.window.first(axis, torch.arange(side, device=code.device)) for axis, side in enumerate(code.shape[2:])
        )
        dense = self.kernel.merged([], reach)
        meets = dense.meets(*places, first=(1 - reach[0], 1 - reach[1]))
        for pattern in torch.unique(code[size != 0]).tolist():
            if pattern:
                windows = [divmod(bit, reach[1]) for bit in range(reach[0] * reach[1]) if pattern >> bit & 1]
                kernel = self.kernel.merged(windows, reach).weight.abs()
                yield Taps(self._counts(torch.where(code == pattern, size, 0), meets, kernel), kernel)

    @staticmethod
    def _counts(size: Tensor, meets: Tensor, kernel: Tensor) -> Tensor:
        """N (B, C, rows, columns) of a map (B, C, H, W)."""
        return (size.flatten(2) @ meets.T).unflatten(2, kernel.shape[-2:])


def _padding(module: Any, dilation: IntPair) -> IntPair:
    """Zeros above and at the left of the map."""
    if module.padding == "valid":
        return (0, 0)
    if module.padding == "same":
        rows, columns = (d * (k - 1) // 2 for d, k in zip(dilation, module.kernel_size, strict=True))
        return rows, columns
    return pair(module.padding)
