"""Exemplars: the images that excite each neuron most, found batch by batch; memory does not grow with the images."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from auditor.kit.errors import EvaluationError
from auditor.models.classifier import Classifier
from auditor.models.neurons import LayerKind, watch
from auditor.neural.analysis import Pair
from auditor.neural.found import Found, NamedLayer, Values, shown

Excitation = Literal["max", "mean"]
"""A neuron's excitation by an image: the largest value of its map, or the mean."""


class ExcitedNeuron(Found):
    """One neuron with the samples that excite it; the excitations are those by the first of them."""

    neuron: int = shown("Neuron")
    change: float | None = shown("Mean |Δ excitation|", ".4g")
    clean: float | None = shown("Strongest excitation", ".4g")
    attacked: float | None = shown("The same under attack", ".4g")
    samples: str = shown("Samples, most exciting first")


class Exemplars(NamedLayer):
    """One layer: its neurons, most changed first, and the samples that excite each most.

    ``neurons``: (n,). ``samples``: ids, (n, k), most exciting first. ``clean``, ``attacked``: what the neuron's output is on
    them, (n, k). ``excitation``, ``change``: mean over all samples of every neuron's output and of its absolute change, (M,).
    """

    neurons: tuple[int, ...]
    samples: tuple[tuple[int, ...], ...]
    clean: Values
    attacked: Values
    excitation: Values
    change: Values

    @property
    def kept(self) -> float | None:
        """Median over the neurons of the share of their strongest excitation that is left; None where none is positive."""
        clean, attacked = self.clean[:, 0], self.attacked[:, 0]
        known = (clean > 0) & ~np.isnan(attacked)
        return float(np.median(attacked[known] / clean[known])) if known.any() else None

    @property
    def rows(self) -> tuple[ExcitedNeuron, ...]:
        """Neuron by neuron."""
        return tuple(
            ExcitedNeuron(
                neuron=neuron,
                change=_known(self.change[neuron]),
                clean=_known(self.clean[place, 0]),
                attacked=_known(self.attacked[place, 0]),
                samples=", ".join(map(str, self.samples[place])),
            )
            for place, neuron in enumerate(self.neurons)
        )


def _known(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)


class ExemplarSearch:
    """Keeps of every neuron of every layer the ``images`` that excite it most."""

    def __init__(self, classifier: Classifier, excitation: Excitation, images: int) -> None:
        self.classifier, self.excitation, self.images = classifier, excitation, images
        self.seen = 0
        self._layers: dict[str, _Running] = {}

    def add(self, pair: Pair) -> None:
        """Look at some images and their twins."""
        ids = torch.from_numpy(pair.sample).to(pair.x.device)

        def see(name: str, kind: LayerKind, type_name: str, output: Tensor) -> None:
            if len(output) != 2 * len(ids):
                raise EvaluationError(
                    f"Layer {name} does not keep one row per image; its neurons cannot be told apart."
                )
            if name not in self._layers:
                self._layers[name] = _Running(kind, output.shape[1], self.images, output)
            self._layers[name].add(ids, *self._excitations(output).chunk(2))

        with torch.no_grad(), watch(self.classifier.network, see):
            self.classifier(torch.cat([pair.x, pair.x_adv]))
        self.seen += len(ids)

    def found(self, neurons: int) -> tuple[Exemplars, ...]:
        """The layers from input to output, with at most so many neurons each: those that change most."""
        return tuple(running.exemplars(name, neurons, self.seen) for name, running in self._layers.items())

    def _excitations(self, output: Tensor) -> Tensor:
        """(B, M) from neurons-first outputs (B, M, ...), float64."""
        maps = output.flatten(2) if output.dim() > 2 else output.unsqueeze(2)
        return (maps.amax(2) if self.excitation == "max" else maps.double().mean(2)).double()


class _Running:
    """The strongest samples so far of every neuron of one layer, and its running means."""

    def __init__(self, kind: LayerKind, neurons: int, keep: int, like: Tensor) -> None:
        self.kind, self.keep = kind, keep
        self.clean = like.new_zeros((neurons, 0), dtype=torch.float64)
        self.attacked, self.ids = self.clean.clone(), self.clean.long()
        self.total, self.change = (like.new_zeros(neurons, dtype=torch.float64) for _ in range(2))

    def add(self, ids: Tensor, clean: Tensor, attacked: Tensor) -> None:
        """``ids``: (B,). ``clean``, ``attacked``: (B, M). Of equals, the sample that came first stays."""
        self.total += clean.sum(0)
        self.change += (attacked - clean).abs().sum(0)
        all_clean = torch.cat([self.clean, clean.T], 1)
        order = all_clean.argsort(dim=1, descending=True, stable=True)[:, : self.keep]
        self.clean = all_clean.gather(1, order)
        self.attacked = torch.cat([self.attacked, attacked.T], 1).gather(1, order)
        self.ids = torch.cat([self.ids, ids.expand(len(self.ids), -1)], 1).gather(1, order)

    def exemplars(self, name: str, most: int, seen: int) -> Exemplars:
        chosen = self.change.argsort(dim=0, descending=True, stable=True)[:most]
        return Exemplars(
            name=name,
            kind=self.kind,
            neurons=chosen.tolist(),
            samples=self.ids[chosen].tolist(),
            clean=self.clean[chosen].cpu().numpy(),
            attacked=self.attacked[chosen].cpu().numpy(),
            excitation=(self.total / seen).cpu().numpy(),
            change=(self.change / seen).cpu().numpy(),
        )
