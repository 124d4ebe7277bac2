"""A network with one neuron moved by a number, uniformly over its map: its logits, and how far they are from changing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from auditor.kit.errors import EvaluationError
from auditor.models.classifier import Classifier, finite
from auditor.models.neurons import altered
from auditor.neural.delta.crossings import Margins
from auditor.neural.probes.intervention import record

ROUNDING = 1e-3
"""A margin is beyond doubt in float32 when it is more than this share of the logits' range: a hundred times the rounding."""


class Nudge:
    """The classifier with one neuron of a layer moved, for the images that it holds.

    ``cut``: whether the layer's outputs for these images are kept, so only the layers behind it run for every row. That
    works where all that the layers behind it see goes through the layer; it is tried, not guessed.
    """

    def __init__(self, classifier: Classifier, layer: str, *, cut: bool | None = None) -> None:
        self.classifier, self.layer = classifier, layer
        self.cut = self._can_be_cut() if cut is None else cut

    def hold(self, images: Tensor) -> None:
        """Take these images, (B, C, H, W)."""
        self.images = images.to(self.classifier.dtype)
        self.outputs = record(self.classifier, self.images, [self.layer])[self.layer] if self.cut else torch.empty(0)

    def logits(self, image: Tensor, neurons: Tensor, amounts: Tensor) -> Tensor:
        """Row r adds ``amounts[r]`` to every position of neuron ``neurons[r]`` of the image with index ``image[r]``: (R, K)."""
        rows = torch.arange(len(neurons), device=neurons.device)

        def move(output: Tensor) -> Tensor:
            moved = self.outputs[image] if self.cut else output.clone()
            moved[rows, neurons] += amounts.to(moved).view(-1, *[1] * (output.dim() - 2))
            return moved

        with torch.no_grad(), altered(self.classifier.network, {self.layer: move}):
            return finite(self.classifier(self.images[:1] if self.cut else self.images[image]))

    def _can_be_cut(self) -> bool:
        """Whether a dark image gets a grey ramp's logits when its outputs are put in the place of those of the dark one."""
        shape, device = self.classifier.input_shape, self.classifier.device
        ramp = torch.linspace(0, 1, math.prod(shape), device=device).view(1, *shape)
        one, neurons = torch.ones(3, dtype=torch.int64, device=device), torch.zeros(3, dtype=torch.int64, device=device)
        amounts = torch.tensor([0.0, 1.0, -1.0], device=device)
        found = []
        for self.cut in (True, False):
            try:
                self.hold(torch.cat([torch.zeros_like(ramp), ramp]))
                found.append(self.logits(one, neurons, amounts))
            except (RuntimeError, EvaluationError):
                if not self.cut:
                    raise
        return len(found) == 2 and found[0].shape == found[1].shape and torch.allclose(found[0], found[1])


class NudgedMargins:
    """How far predictions are from changing when single neurons of a layer move (see ``auditor.neural.delta.crossings``).

    A float32 network answers where its rounding cannot matter: the margin is more than a thousandth of the logits' range. All
    other questions go to its copy in float64.
    """

    def __init__(self, classifier: Classifier, exact: Classifier, layer: str) -> None:
        self.exact = Nudge(exact, layer)
        self.quick = None if classifier.dtype == torch.float64 else Nudge(classifier, layer, cut=self.exact.cut)

    def lines(self, images: Tensor, predicted: Tensor, neurons: Tensor, rows: int) -> Margins:
        """The margins of B images, (B, C, H, W), that are ``predicted`` (B,) as they are; each has a line for each of the
        ``neurons`` (m,): line i * m + j is image i, neuron j. ``rows``: places that a pass looks at."""
        for nudge in (self.exact, self.quick):
            if nudge is not None:
                nudge.hold(images)

        def ask(nudge: Nudge, lines: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
            image = lines // len(neurons)
            logits = nudge.logits(image, neurons[lines % len(neurons)], places).double()
            return _margin(logits, predicted[image]), logits.amax(1) - logits.amin(1)

        def some(lines: Tensor, places: Tensor) -> Tensor:
            if self.quick is None:
                return ask(self.exact, lines, places)[0]
            margin, spread = ask(self.quick, lines, places)
            close = (margin.abs() <= ROUNDING * spread).nonzero().squeeze(1)
            if len(close):
                margin[close] = ask(self.exact, lines[close], places[close])[0]
            return margin

        def margins(lines: Tensor, places: Tensor) -> Tensor:
            parts = [some(*part) for part in zip(lines.split(rows), places.split(rows), strict=True)]
            return torch.cat(parts) if parts else places

        return margins


def _margin(logits: Tensor, predicted: Tensor) -> Tensor:
    """By how much the predicted class leads, (R,); never zero, a tie going to the class with the lower index."""
    own = logits.gather(1, predicted[:, None])[:, 0]
    lead = own - logits.scatter(1, predicted[:, None], -torch.inf).amax(1)
    size = lead.abs().clamp_min(torch.finfo(lead.dtype).tiny)
    return torch.where(logits.argmax(1) == predicted, size, -size)
