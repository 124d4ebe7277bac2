"""Which channels an intervention touches: those of the model-level critical attacking route, or as many others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from auditor.kit.randomness import RowRandom
from auditor.models.classifier import Classifier
from auditor.models.neurons import LayerKind, watch
from auditor.neural.analysis import Subject
from auditor.neural.found import Found
from auditor.neural.probes.intervention import filter_norms
from auditor.neural.ranking.agreement import descending
from auditor.neural.routes.routes import Mode, RouteFinder, count_of, model_route

Choice = Literal["route", "outside", "random", "norm", "energy"]

CHOICES: dict[Choice, str] = {
    "route": "on the route",
    "outside": "outside the route",
    "random": "at random",
    "norm": "largest filters (L1)",
    "energy": "strongest clean output",
}
"""Ways to choose the channels, as a reader calls them; all but the first are controls."""


class RouteLayer(Found):
    """A layer of a route."""

    name: str
    channels: int


class RouteFrequency(NamedTuple):
    """How often each channel is on the critical attacking route of an image (Li et al. 2021, section 3.4).

    ``layers``: names, input to output. ``share``: float64 (M_l,) for each layer, share of the ``images``.
    """

    layers: tuple[str, ...]
    share: tuple[NDArray[np.float64], ...]
    images: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Channels of each layer."""
        return tuple(len(item) for item in self.share)

    @property
    def named(self) -> tuple[RouteLayer, ...]:
        """Its layers, as a finding keeps them."""
        return tuple(RouteLayer(name=name, channels=size) for name, size in zip(self.layers, self.sizes, strict=True))

    @property
    def order(self) -> list[NDArray[np.int64]]:
        """Every layer's channels, most frequent first (eq. 7 at full width)."""
        return model_route(self.share, width=1.0)


def route_frequency(subject: Subject, *, width: float, mode: Mode) -> RouteFrequency:
    """Over the clean images of the pairs, each with its true label."""

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        seen = 0
        for pair in subject.pairs:
            yield pair.x.to(subject.classifier.dtype), pair.labels
            seen += len(pair.sample)
            subject.on_progress(seen / len(subject.pairs), "critical attacking routes")

    return frequency_over(RouteFinder(subject.classifier, mode=mode), batches(), width=width)


def frequency_over(finder: RouteFinder, batches: Iterable[tuple[Tensor, Tensor]], *, width: float) -> RouteFrequency:
    """Over images (B, C, H, W) with their labels (B,), batch by batch."""
    counts: list[Tensor] = []
    images = 0
    for x, labels in batches:
        found = finder(x, labels, width=width)
        members = [member.sum(0, dtype=torch.float64).cpu() for member in found.members]
        counts = [a + b for a, b in zip(counts, members, strict=True)] if counts else members
        images += len(x)
    return RouteFrequency(finder.layers, tuple((count / images).numpy() for count in counts), images)


def clean_energy(subject: Subject, layers: Sequence[str]) -> list[NDArray[np.float64]]:
    """Mean over the clean images of the squared L2 norm of each channel's output, float64 (M_l,) for each layer."""
    sums: dict[str, Tensor] = {}

    def add(name: str, kind: LayerKind, type_name: str, output: Tensor) -> None:
        if name in layers:
            maps = output.flatten(2) if output.dim() > 2 else output.unsqueeze(2)
            energy = maps.double().square().sum((0, 2))
            sums[name] = sums[name] + energy if name in sums else energy

    with torch.no_grad(), watch(subject.classifier.network, add):
        for pair in subject.pairs:
            subject.classifier(pair.x.to(subject.classifier.dtype))
    return [sums[name].cpu().numpy() / len(subject.pairs) for name in layers]


def largest_filters(classifier: Classifier, layers: Sequence[str]) -> list[NDArray[np.int64]]:
    """Every layer's channels, largest L1 norm of the filter first."""
    return [descending(filter_norms(classifier.network, layer).cpu().numpy()) for layer in layers]


def silent_filters(classifier: Classifier, layers: Sequence[str]) -> list[NDArray[np.bool_]]:
    """Of every layer the channels whose filter is all zero, as pruning leaves them: their output never changes."""
    return [(filter_norms(classifier.network, layer) == 0).cpu().numpy() for layer in layers]


@dataclass(frozen=True)
class Selector:
    """Chooses channels of the route's layers.

    ``orders``: every layer's channels, best first, by the name of a way to choose; "route" among them. ``width``: that of the
    model-level route. Random choices belong to the sample: each image has its own, so a rate over the images is one over
    the draws as well, and a larger width adds channels to those of a smaller one. "random" draws from all of a layer's channels,
    those of the route among them, "outside" from the others. ``silent``: channels whose output is always the same, bool (M_l,)
    for each layer, which are drawn last: touching them would be no control.
    """

    orders: Mapping[str, Sequence[NDArray[np.int64]]]
    width: float
    seed: int
    silent: Sequence[NDArray[np.bool_]] = ()

    def masks(
        self, choice: Choice, layers: Sequence[int], width: float, sample: NDArray[np.int64], device: torch.device
    ) -> list[Tensor]:
        """Masks of the layers at these places of the route, (1, M) or (B, M); none at all where a layer has too few channels."""
        masks = [self._mask(choice, layer, width, sample) for layer in layers]
        found = [mask.to(device) for mask in masks if mask is not None]
        return found if len(found) == len(masks) else []

    def _mask(self, choice: Choice, layer: int, width: float, sample: NDArray[np.int64]) -> Tensor | None:
        route = self.orders["route"][layer]
        size, count = len(route), count_of(width, len(route))
        if choice in self.orders:
            return _marked(torch.from_numpy(self.orders[choice][layer][:count].copy())[None], size)
        kept_out = route[: max(count, count_of(self.width, size))] if choice == "outside" else route[:0]
        if count > size - len(kept_out):
            return None
        random = RowRandom(self.seed, f"channels {choice}", [(layer, int(item)) for item in sample])
        value = random.uniform(torch.empty(len(sample), size, dtype=torch.float64))
        if self.silent:
            value[:, torch.from_numpy(self.silent[layer])] -= 1
        value[:, kept_out] = -2
        return _marked(value.argsort(dim=1, descending=True, stable=True)[:, :count], size)


def _marked(index: Tensor, size: int) -> Tensor:
    return torch.zeros(len(index), size, dtype=torch.bool).scatter(1, index, True)
