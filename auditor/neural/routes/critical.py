"""What is found of the critical route: of the model, of classes and of images, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np

from auditor.kit.statistics.estimate import Estimate
from auditor.models.classifier import Classifier
from auditor.neural.analysis import Pair
from auditor.neural.found import Found, OfPairs, Sides, Values
from auditor.neural.routes.contrasts import LayerContrast
from auditor.neural.routes.route_tally import (
    ClassRoute,
    Indices,
    RouteTally,
    chance_jaccard,
    chance_occurrence,
    occurrence,
)
from auditor.neural.routes.routes import count_of, model_route

CLASSES, CLASS_NEURONS = 20, 5
"""Classes of which the routes are kept, at most, and neurons of each layer of these that are kept with their frequency."""


class RouteSample(Found):
    """An image whose routes were kept: its id, its true class, and what the model says of it and of its twin."""

    id: int
    label: int
    clean: int
    adversarial: int


class Occurrence(Found):
    """How often the most frequent neurons are on routes: of as many as an image's route has, on clean and on adversarial images
    and on random routes (``chance``); and of as many as the ``model``'s route has, at most ``bound``."""

    clean: float
    adversarial: float
    chance: float
    model: float
    bound: float


class RouteOverlap(Found):
    """Jaccard indices: of the routes of an image and its twin, of two clean images, of random sets; and of the model's
    routes on clean and on adversarial images, and of random sets of as many."""

    twins: Estimate
    neighbours: Estimate | None
    chance: float
    model: float
    model_chance: float


class CriticalLayer(LayerContrast):
    """One layer. ``image_count``, ``route_count``: neurons on the route of an image and on that of the model (``route``, most
    frequent first). ``samples``: the routes of the first images."""

    depth: int
    name: str
    neurons: int
    image_count: int
    route_count: int
    frequency: Sides[Values]
    route: Sides[Indices]
    occurrence: Occurrence
    overlap: RouteOverlap
    classes: tuple[ClassRoute, ...]
    samples: Sides[tuple[Indices, ...]]


class RouteAgreement(Found):
    """How much of the model's route random parts of the images find again, and what random neurons would give."""

    mean: float
    lowest: float
    highest: float
    parts: int
    chance: float


class Critical(OfPairs):
    """The critical routes of a network. ``left_out``: edges that no route follows, each with the reason, in a sentence."""

    samples: tuple[RouteSample, ...]
    layers: tuple[CriticalLayer, ...]
    left_out: tuple[str, ...]
    agreement: RouteAgreement
    class_names: tuple[str, ...]


def critical_layer(
    depth: int,
    name: str,
    tally: RouteTally,
    contrast: LayerContrast,
    widths: tuple[float, float],
    generator: np.random.Generator,
) -> CriticalLayer:
    """``widths``: of the route of an image, and of that of the model."""
    width, model_width = widths
    clean, adversarial = tally.clean_frequency, tally.adversarial_frequency
    neurons = len(clean)
    narrow, wide = count_of(width, neurons), count_of(model_width, neurons)
    route, twins = (tuple(model_route([shares], model_width)[0].tolist()) for shares in (clean, adversarial))
    common = len({*route} & {*twins})
    return CriticalLayer(
        depth=depth,
        name=name,
        neurons=neurons,
        image_count=narrow,
        route_count=wide,
        frequency=Sides[Values](clean=clean, adversarial=adversarial),
        route=Sides[Indices](clean=route, adversarial=twins),
        occurrence=Occurrence(
            clean=occurrence(clean, width),
            adversarial=occurrence(adversarial, width),
            chance=chance_occurrence(neurons, tally.images, width, generator),
            model=occurrence(clean, model_width),
            bound=min(1.0, narrow / wide),
        ),
        overlap=RouteOverlap(
            twins=Estimate.of_mean(tally.overlaps),
            neighbours=Estimate.of_mean(tally.neighbours) if tally.neighbours else None,
            chance=chance_jaccard(neurons, narrow),
            model=common / (2 * wide - common),
            model_chance=chance_jaccard(neurons, wide),
        ),
        contrast=contrast.contrast,
        mean=contrast.mean,
        classes=tally.by_class(CLASSES, CLASS_NEURONS, model_width),
        samples=Sides[tuple[Indices, ...]].of(lambda side: tuple(tally.kept[side])),
    )


def first_samples(classifier: Classifier, pairs: Iterable[Pair], most: int) -> tuple[RouteSample, ...]:
    """Who the first images are: id, true class, and the classes predicted for them and for their twins."""
    found: list[RouteSample] = []
    for pair in pairs:
        count = min(most - len(found), len(pair.sample))
        said = [classifier.logits(x[:count]).argmax(1).tolist() for x in (pair.x, pair.x_adv)]
        rows = zip(pair.sample.tolist(), pair.labels.tolist(), *said, strict=False)
        found += [
            RouteSample(id=sample, label=label, clean=clean, adversarial=adversarial)
            for sample, label, clean, adversarial in islice(rows, count)
        ]
        if len(found) == most:
            break
    return tuple(found)
