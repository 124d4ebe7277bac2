"""Bounds of every value in a network over a region of images: by intervals, and by linear relaxation backwards.

Everything is computed in double precision and moved outwards by what rounding can amount to (``rounding``), so that a
bound holds for the network in exact arithmetic. Sources: interval bounds, Gowal et al. 2018 (arXiv 1810.12715); backward
linear bounds, Zhang et al. 2018 (CROWN, arXiv 1811.00866); on graphs, Xu et al. 2020 (arXiv 2002.12920).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from auditor.attacking.threat import Norm
from auditor.certifying.crops import Crop, joined, units
from auditor.certifying.linear_maps import LinearMap, Reshaping, Same, Scaling
from auditor.certifying.network import Affine, BoundableNetwork
from auditor.certifying.region import Region
from auditor.certifying.relaxations import Nonlinear, Relaxation

ELEMENTS = 2**21
"""Numbers in one tensor of coefficients: so many rows at once."""

UNIT = 2.0**-53
"""Unit roundoff of double precision."""


class Interval(NamedTuple):
    """``low`` and ``high``: (B, *shape)."""

    low: Tensor
    high: Tensor


def rounding(network: BoundableNetwork) -> list[Tensor]:
    """By how much a bound of each node's value can be wrong because of rounding, (1, *shape).

    The classical bound of an inner product (Higham 2002, section 3.1): gamma(n) = n u / (1 - n u) times the same sum over
    absolute values, with n the length of all sums up to here; twice, since a bound is made of coefficients that are
    computed themselves.
    """
    magnitudes: list[Tensor] = []
    lengths: list[int] = []
    found: list[Tensor] = []
    for node in network.nodes:
        if node.operation is None:
            magnitudes.append(torch.ones(1, *node.shape, dtype=torch.double, device=network.device))
            lengths.append(1)
        elif isinstance(node.operation, Affine):
            parts = [part.absolute(magnitudes[at]) for part, at in zip(node.operation.maps, node.inputs, strict=True)]
            magnitudes.append(sum(parts[1:], parts[0]) + node.operation.offset.abs())
            terms = max(part.terms for part in node.operation.maps) + len(parts) + 1
            lengths.append(max(lengths[at] for at in node.inputs) + terms)
        else:
            magnitudes.append(node.operation.magnitude(magnitudes[node.inputs[0]]))
            lengths.append(lengths[node.inputs[0]] + 4)
        n = 2 * lengths[-1] * UNIT
        found.append(n / (1 - n) * magnitudes[-1])
    return found


@dataclass
class Bounds:
    """Bounds over the region of each image, node by node as they are asked for.

    ``backward``: whether the inputs of relaxations are bounded by linear relaxation, too (CROWN), or by intervals alone.
    ``both``: whether the tighter of the two counts, and intervals go on from there; otherwise linear relaxation stands
    wherever intervals leave open what an activation does.
    """

    network: BoundableNetwork
    region: Region
    rounding: list[Tensor]
    backward: bool = True
    both: bool = False
    intervals: list[Interval] = field(default_factory=list)
    relaxations: dict[int, Relaxation] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._direct = _direct(self.network)
        self._relaxed_before = _relaxed_before(self.network)
        for place, node in enumerate(self.network.nodes[: self.network.logits]):
            if node.operation is None:
                self.intervals.append(Interval(self.region.low, self.region.high))
            elif isinstance(node.operation, Affine):
                self.intervals.append(self._affine(place, node.operation, node.inputs))
            else:
                self.intervals.append(self._nonlinear(place, node.operation, node.inputs[0]))

    def differences(self, leave: Tensor, reach: Tensor, *, linear: bool = True) -> Tensor:
        """Lower bounds of logit[leave] - logit[reach] for each image and each class to reach, (B, M).

        ``leave``: int64 (B,), ``reach``: (B, M). ``linear``: by relaxation backwards; otherwise the last operation is taken
        exactly, and intervals hold before it.
        """
        count, most = reach.shape
        image = torch.arange(count, device=reach.device).repeat_interleave(most)
        classes = self.network.nodes[-1].shape[0]
        unit = torch.eye(classes, dtype=torch.double, device=self.network.device)
        rows = unit[leave[image]] - unit[reach.flatten()]
        margin = (self.rounding[-1] @ rows.abs().T)[0]
        stop = 0 if linear else self._before_logits()
        low = torch.cat([
            self._lower(self.network.logits, rows[part], image[part], stop=stop, tight=True)
            for part in self._parts(len(rows))
        ]) if len(rows) else rows.new_zeros(0)  # fmt: skip
        return (low - margin).view(count, most)

    def _before_logits(self) -> int:
        """The last node whose output is relaxed: from there to the logits everything is linear."""
        return max(self.relaxations, default=0)

    def _affine(self, place: int, operation: Affine, inputs: tuple[int, ...]) -> Interval:
        center, radius = operation.offset, torch.zeros_like(operation.offset)
        for part, at in zip(operation.maps, inputs, strict=True):
            low, high = self.intervals[at]
            center = center + part((low + high) / 2)
            radius = radius + part.absolute((high - low) / 2)
        radius = radius + self.rounding[place]
        return Interval(center - radius, center + radius)

    def _nonlinear(self, place: int, operation: Nonlinear, before: int) -> Interval:
        plain = found = self.intervals[before]
        ball = self.region.threat.norm is not Norm.LINF
        if not self._relaxed_before[before] and (ball or (self.backward and not self._direct[before])):
            plain = found = self._linear_bounds(before)
        elif self._relaxed_before[before] and self.backward:
            found = self._tightened(before, operation, *plain)
        if self.both:
            plain = found = Interval(torch.maximum(plain.low, found.low), torch.minimum(plain.high, found.high))
        self.intervals[before] = plain
        self.relaxations[place] = operation.relaxed(*found)
        return Interval(operation(plain.low), operation(plain.high))

    def _tightened(self, place: int, operation: Nonlinear, low: Tensor, high: Tensor) -> Interval:
        """The bounds of those entries that matter, by relaxation backwards; intervals for the others."""
        where = operation.open(low, high).flatten(1).nonzero()
        low, high = low.clone(), high.clone()
        shape, margin = self.network.nodes[place].shape, self.rounding[place].flatten()
        for part in self._parts(2 * len(where), paired=True):
            image, entry = where[part.start // 2 : part.stop // 2].T
            rows = units(torch.cat([entry, entry]), shape)
            _turn_second_half(rows)
            found = self._lower(place, rows, torch.cat([image, image])).view(2, -1)
            low.flatten(1)[image, entry] = found[0] - margin[entry]
            high.flatten(1)[image, entry] = margin[entry] - found[1]
        return Interval(low, high)

    def _linear_bounds(self, place: int) -> Interval:
        """Where nothing before is relaxed: the coefficients are the same for every image."""
        shape, size = self.network.nodes[place].shape, self.network.nodes[place].size
        images = len(self.region.images)
        lows, highs = [], []
        for part in self._parts(size):
            chosen = torch.arange(size, device=self.network.device)[part]
            carried, constant = self._carried(place, units(chosen, shape), torch.zeros_like(chosen), 0)
            coefficients = carried[0]
            turned = coefficients.with_values(-coefficients.values) if isinstance(coefficients, Crop) else -coefficients
            for image in range(images):
                same = torch.full((len(chosen),), image, device=self.network.device)
                margin = self.rounding[place].flatten()[chosen]
                lows.append(self.region.least(coefficients, same, tight=False) + constant - margin)
                highs.append(margin + constant - self.region.least(turned, same, tight=False))
        low, high = (
            torch.cat([torch.stack(items[at : at + images]) for at in range(0, len(items), images)], 1).view(-1, *shape)
            for items in (lows, highs)
        )
        return Interval(low, high)

    def _parts(self, rows: int, *, paired: bool = False) -> Iterator[slice]:
        """Rows that are carried at once."""
        widest = max(node.size for node in self.network.nodes)
        step = max(1, ELEMENTS // widest)
        step += step % 2 if paired else 0
        return (slice(at, min(at + step, rows)) for at in range(0, rows, step))

    def _lower(self, place: int, rows: Crop | Tensor, image: Tensor, *, stop: int = 0, tight: bool = False) -> Tensor:
        """A lower bound of ``rows`` times the value of a node, (R,), from the bounds of the node ``stop``."""
        carried, found = self._carried(place, rows, image, stop)
        for at, coefficients in carried.items():
            if at == 0:
                found = found + self.region.least(coefficients, image, tight=tight)
            else:
                whole = (
                    coefficients.spread(self.network.nodes[at].shape)
                    if isinstance(coefficients, Crop)
                    else coefficients
                )
                flat = whole.flatten(1)
                low, high = (item.flatten(1)[image] for item in self.intervals[at])
                found = found + (flat.clamp(min=0) * low + flat.clamp(max=0) * high).sum(1)
        return found

    def _carried(
        self, place: int, rows: Crop | Tensor, image: Tensor, stop: int
    ) -> tuple[dict[int, Crop | Tensor], Tensor]:
        """A linear function below ``rows`` times the value of ``place``: coefficients for the values of ``stop`` and, where ways
        lead past it, of earlier nodes; and the constant, (R,)."""
        waiting: dict[int, Crop | Tensor] = {place: rows}
        constant = torch.zeros(len(rows), dtype=torch.double, device=self.network.device)
        for at in range(place, stop, -1):
            if (mine := waiting.pop(at, None)) is None:
                continue
            node = self.network.nodes[at]
            assert node.operation is not None
            if isinstance(node.operation, Affine):
                constant = constant + _times_offset(mine, node.operation.offset)
                for part, source in zip(node.operation.maps, node.inputs, strict=True):
                    self._join(waiting, source, self._turned(part, mine, at, source))
            else:
                turned = self.relaxations[at].below(mine, image)
                constant = constant + turned.constant
                self._join(waiting, node.inputs[0], turned.rows)
        return waiting, constant

    def _turned(self, part: LinearMap, rows: Crop | Tensor, at: int, source: int) -> Crop | Tensor:
        if isinstance(rows, Crop):
            if (crop := part.cropped(rows)) is not None:
                return crop.settled(self.network.nodes[source].shape)
            rows = rows.spread(self.network.nodes[at].shape)
        return part.transposed(rows)

    def _join(self, waiting: dict[int, Crop | Tensor], place: int, rows: Crop | Tensor) -> None:
        shape = self.network.nodes[place].shape
        waiting[place] = joined(waiting[place], rows, shape) if place in waiting else rows


def _turn_second_half(rows: Crop | Tensor) -> None:
    values = rows.values if isinstance(rows, Crop) else rows
    values[len(values) // 2 :].neg_()


def _times_offset(rows: Crop | Tensor, offset: Tensor) -> Tensor:
    """The rows times a value that is the same for each, (R,)."""
    if isinstance(rows, Crop):
        return (rows.values * rows.taken(offset, torch.zeros_like(rows.top))).flatten(1).sum(1)
    return rows.flatten(1) @ offset.flatten()


def _direct(network: BoundableNetwork) -> list[bool]:
    """Whether each node is reached from the image by one way with at most one map that sums: intervals are exact there."""
    sums: list[int | None] = []
    for node in network.nodes:
        before = [sums[at] for at in node.inputs]
        if node.operation is None:
            sums.append(0)
        elif len(before) != 1 or before[0] is None or not isinstance(node.operation, Affine):
            sums.append(None)
        else:
            mixes = not isinstance(node.operation.maps[0], Same | Scaling | Reshaping)
            sums.append(before[0] + mixes if before[0] + mixes <= 1 else None)
    return [item is not None for item in sums]


def _relaxed_before(network: BoundableNetwork) -> list[bool]:
    """Whether a relaxation lies on a way from the image to each node."""
    found: list[bool] = []
    for node in network.nodes:
        relaxed = node.operation is not None and not isinstance(node.operation, Affine)
        found.append(relaxed or any(found[at] for at in node.inputs))
    return found
