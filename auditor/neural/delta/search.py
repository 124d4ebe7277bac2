"""The search for Delta-values of interior neurons, layer by layer, on images that have a prediction."""

from __future__ import annotations

from dataclasses import dataclass

from auditor.kit.errors import EvaluationError
from auditor.models.neurons import Layer
from auditor.neural.analysis import Subject
from auditor.neural.delta.crossings import Crossings, first_crossings
from auditor.neural.delta.nudge import NudgedMargins
from auditor.neural.delta.summary import SearchedLayer, layer_found
from auditor.neural.delta.survey import Choose, in_float64, neurons_to_search, spreads, surveyed
from auditor.neural.found import Found
from auditor.neural.twins.thinned import Thinned


class InteriorDeltas(Found):
    """Delta-values of some layers on ``images``; ``tied``: images without a prediction, left out."""

    images: int
    tied: int
    layers: tuple[SearchedLayer, ...]


@dataclass(frozen=True)
class InteriorSearch:
    """A search for Delta-values. ``images``: at most so many, evenly spaced; ``neurons``: of each layer, at most, and which by
    ``choose``. ``bound``, ``points``: how far it looks, in standard deviations, and at how many places in each direction."""

    images: int
    neurons: int
    choose: Choose
    bound: float
    points: int

    def __call__(self, subject: Subject, layers: list[Layer], title: str) -> InteriorDeltas:
        """``title``: what is being done, for the progress. Raises EvaluationError if no image has a prediction."""
        std = spreads(subject.classifier, layers, subject.pairs)
        exact, pairs = in_float64(subject.classifier), Thinned(subject.pairs, self.images)
        survey = surveyed(exact, layers, pairs)
        images = sum(map(len, survey.predicted))
        if not images:
            raise EvaluationError("Every image has two equal highest logits: there is no prediction that could change.")
        found = []
        for place, layer in enumerate(layers):
            part = subject.during(place / len(layers), (place + 1) / len(layers))
            estimate, spread = survey.estimates[layer.name], std[layer.name]
            chosen = neurons_to_search(estimate, spread, self.neurons, self.choose)
            margins, crossings, done = NudgedMargins(subject.classifier, exact, layer.name), list[Crossings](), 0
            for pair, standing, predicted in zip(pairs, survey.standing, survey.predicted, strict=True):
                lines = margins.lines(pair.x[standing], predicted, chosen, subject.batch_size)
                reach = (self.bound * spread[chosen]).repeat(len(predicted))
                crossings.append(first_crossings(lines, reach, points=self.points, per_call=subject.batch_size))
                done += len(standing)
                part.on_progress(done / len(pairs), f"{title}: {layer.name}")
            found.append(layer_found(layer, margins.exact.cut, chosen, spread, estimate[:, chosen], crossings))
        return InteriorDeltas(images=images, tied=len(pairs) - images, layers=tuple(found))
