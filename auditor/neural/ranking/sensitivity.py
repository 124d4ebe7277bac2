"""Sensitivity of neurons: how much their outputs change between images and twins (Zhang et al. 2020, arXiv 1909.06978)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from auditor.kit.errors import EvaluationError
from auditor.models.classifier import Classifier
from auditor.models.neurons import LayerKind, watch
from auditor.neural.analysis import Subject
from auditor.neural.found import NamedLayer, Values
from auditor.neural.ranking.agreement import descending, share_of

RATIO_EPSILON = 1e-6
"""Added to the norm of a neuron's clean output under ``zero = "eps"``."""

PIECE = 2**19
"""Numbers of a feature map that a CPU works on at a time: about what its cache holds."""

CPU_PAIRS = 48
"""Pairs that go through a network on a CPU at a time: more do not fit its caches and take longer each."""

TopShare = Annotated[
    float, Field(gt=0, le=1, description="Share of a layer's neurons that count as sensitive (at least one).")
]
"""The parameter of the analyses that look at the most sensitive neurons (eq. 2)."""

ZeroRule = Literal["one", "skip", "eps"]
"""The ratio where a neuron's clean output is zero: 1, no ratio (NaN), or the change divided by the norm + 1e-6."""


class LayerChange(NamedTuple):
    """What a batch of twins does to one layer: L1 norms of each neuron's difference and of its clean output, float64 (B, M).

    ``positions``: how many numbers one neuron's output has (H * W of a map, 1 of a unit).
    """

    name: str
    kind: LayerKind
    type: str
    positions: int
    difference: Tensor
    clean: Tensor

    def ratio(self, zero: ZeroRule) -> Tensor:
        """The difference over the clean norm, (B, M): the terms of eq. 11."""
        if zero == "eps":
            return self.difference / (self.clean + RATIO_EPSILON)
        empty = self.clean == 0
        instead = 1.0 if zero == "one" else torch.nan
        return torch.where(empty, instead, self.difference / self.clean.masked_fill(empty, 1.0))


def watch_changes(classifier: Classifier, x: Tensor, x_adv: Tensor, see: Callable[[LayerChange], None]) -> None:
    """Hand every layer's change to ``see``, in the order of execution. ``x``, ``x_adv``: (B, C, H, W).

    An image and its twin go through in one pass, so no feature map outlives its hook. Raises EvaluationError for a layer
    that mixes images, and if there is no layer.
    """
    changes: dict[str, list[LayerChange]] = {}

    def halves(name: str, kind: LayerKind, type_name: str, output: Tensor) -> None:
        if output.shape[0] != 2 * half:
            raise EvaluationError(f"Layer {name} does not keep one row per image; its neurons cannot be told apart.")
        maps = output.flatten(2) if output.dim() > 2 else output.unsqueeze(2)
        change = LayerChange(name, kind, type_name, maps.shape[2], *_norms(maps[:half], maps[half:]))
        changes.setdefault(name, []).append(change)

    parts = -(-len(x) // CPU_PAIRS) if x.device.type == "cpu" else 1
    with torch.no_grad(), watch(classifier.network, halves):
        for images, twins in zip(x.tensor_split(parts), x_adv.tensor_split(parts), strict=True):
            half = len(images)
            classifier(torch.cat([images, twins]).to(classifier.dtype))
    if not changes:
        raise EvaluationError("The network has no convolution, linear, normalization or activation layer to look at.")
    for found in changes.values():
        difference, clean = (
            torch.cat(norms).double() for norms in zip(*(change[-2:] for change in found), strict=True)
        )
        see(found[0]._replace(difference=difference, clean=clean))


def _norms(clean: Tensor, twin: Tensor) -> tuple[Tensor, Tensor]:
    """L1 norms of the difference and of the clean maps, (B, M, P) each, over their positions: (B, M).

    On a CPU piece by piece through one small buffer: fresh memory for whole maps takes ten times as long as the sums.
    """
    piece = max(1, PIECE // clean[0].numel()) if clean.device.type == "cpu" else len(clean)
    buffer = torch.empty_like(clean[:piece], memory_format=torch.contiguous_format)
    difference, norm = [], []
    for ours, theirs in zip(clean.split(piece), twin.split(piece), strict=True):
        room = buffer[: len(ours)]
        difference.append(torch.sub(ours, theirs, out=room).abs_().sum(2))
        norm.append(torch.abs(ours, out=room).sum(2))
    return torch.cat(difference), torch.cat(norm)


class ImageMeans(NamedTuple):
    """One layer on a batch, image by image, float64 (B,): the terms of eq. 1 and eq. 11 averaged over some of its neurons, and
    over all of them (``_all``)."""

    name: str
    kind: LayerKind
    sensitivity: NDArray[np.float64]
    sensitivity_all: NDArray[np.float64]
    ratio: NDArray[np.float64]
    ratio_all: NDArray[np.float64]


def image_means(
    classifier: Classifier, x: Tensor, x_adv: Tensor, neurons: Mapping[str, NDArray[np.int64]]
) -> list[ImageMeans]:
    """Every layer in the order of execution, a clean output of zero counting as ratio 1. ``neurons``: by the layer's name.

    Averaged over images, these are the means of eq. 1 and eq. 11 over the neurons; image by image they have an interval.
    """
    found: list[ImageMeans] = []

    def see(change: LayerChange) -> None:
        chosen = neurons[change.name]
        moved, ratio = (change.difference / change.positions).cpu().numpy(), change.ratio("one").cpu().numpy()
        means = moved[:, chosen].mean(1), moved.mean(1), ratio[:, chosen].mean(1), ratio.mean(1)
        found.append(ImageMeans(change.name, change.kind, *means))

    watch_changes(classifier, x, x_adv, see)
    return found


class LayerSensitivity(NamedLayer):
    """One layer: sigma (eq. 1) and ratio (eq. 11) of each neuron, float64 (M,); ratio is NaN where no image counts.

    ``zero_share``: share of (image, neuron) pairs whose clean output is exactly zero.
    """

    type: str
    sensitivity: Values
    ratio: Values
    zero_share: float

    @property
    def neurons(self) -> int:
        return len(self.sensitivity)

    def top(self, share: float) -> NDArray[np.int64]:
        """The most sensitive neurons (eq. 2): a share of the layer, at least one; largest first, ties by the lower index."""
        return descending(self.sensitivity)[: share_of(self.neurons, share)]


class ImageMeter:
    """``image_means`` over pairs that come batch by batch, on the most sensitive share of each layer's neurons."""

    def __init__(self, classifier: Classifier, layers: Iterable[LayerSensitivity], share: float) -> None:
        self.classifier = classifier
        self.neurons = {layer.name: layer.top(share) for layer in layers}
        self._batches: list[list[ImageMeans]] = []

    def add(self, x: Tensor, x_adv: Tensor) -> None:
        """Images and their twins, (B, C, H, W) each."""
        self._batches.append(image_means(self.classifier, x, x_adv, self.neurons))

    def layers(self) -> dict[str, ImageMeans]:
        """Of all images, by the layer's name."""
        found = {}
        for layers in zip(*self._batches, strict=True):
            _, _, *means = zip(*layers, strict=True)
            found[layers[0].name] = ImageMeans(layers[0].name, layers[0].kind, *map(np.concatenate, means))
        return found


class SensitivityMeter:
    """Sensitivity of every layer over pairs that come batch by batch; memory does not grow with the images."""

    def __init__(self, classifier: Classifier, zero: ZeroRule = "one") -> None:
        self.classifier, self.zero = classifier, zero
        self.images = 0
        self._sums: dict[str, _Sums] = {}

    def add(self, x: Tensor, x_adv: Tensor) -> None:
        """Images and their twins, (B, C, H, W) each."""
        watch_changes(self.classifier, x, x_adv, self._see)
        self.images += len(x)

    def layers(self) -> list[LayerSensitivity]:
        """In the order of execution; empty before the first image."""
        return [sums.layer(name, self.images) for name, sums in self._sums.items()]

    def _see(self, change: LayerChange) -> None:
        if change.name not in self._sums:
            self._sums[change.name] = _Sums(change)
        self._sums[change.name].add(change, self.zero)


def sensitivity_of(subject: Subject) -> list[LayerSensitivity]:
    """Every layer on the audit's own pairs, in the order of execution: a beginning, no progress yet."""
    meter = SensitivityMeter(subject.classifier)
    for pair in subject.pairs:
        meter.add(pair.x, pair.x_adv)
        subject.on_progress(0.0, "neuron sensitivity")
    return meter.layers()


class _Sums:
    """Running sums of one layer; float64, one entry per neuron, whatever the number of images."""

    def __init__(self, like: LayerChange) -> None:
        self.kind, self.type, self.positions = like.kind, like.type, like.positions
        self.change, self.ratio, self.counted, self.zeros = (torch.zeros_like(like.clean[0]) for _ in range(4))

    def add(self, change: LayerChange, zero: ZeroRule) -> None:
        empty = change.clean == 0
        left_out = empty & (zero == "skip")
        self.change += change.difference.sum(0)
        self.ratio += change.ratio(zero).masked_fill(left_out, 0).sum(0)
        self.counted += (~left_out).sum(0)
        self.zeros += empty.sum(0)

    def layer(self, name: str, images: int) -> LayerSensitivity:
        ratio = torch.where(self.counted > 0, self.ratio / self.counted.clamp_min(1), torch.nan)
        return LayerSensitivity(
            name=name,
            kind=self.kind,
            type=self.type,
            sensitivity=(self.change / (images * self.positions)).cpu().numpy(),
            ratio=ratio.cpu().numpy(),
            zero_share=float(self.zeros.sum() / (images * len(self.zeros))),
        )
