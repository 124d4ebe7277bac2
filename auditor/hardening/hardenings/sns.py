"""Sensitive neuron stabilizing."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import cross_entropy

from auditor.hardening.hardening import Ground, Memory, Terms, TrainingStep
from auditor.hardening.learning.mixture import BothSides, Mixture
from auditor.hardening.learning.sensitive import in_order, late_convolutions, neurons_of, sensitivities
from auditor.hardening.learning.trainee import full
from auditor.kit.flag import Flag
from auditor.kit.randomness import derive_seed
from auditor.kit.series import Names, Weights
from auditor.models.classifier import Classifier
from auditor.neural.ranking.agreement import share_of

PREFIX = "neurons of "


class SNS(Mixture):
    """Sensitive neuron stabilizing (Zhang et al. 2020, arXiv 1909.06978, eq. 12-13): PAT with a penalty on how far
    sensitive neurons move.

    Adds lambda times the sum over layers and their sensitive neurons of the mean absolute change between an image and its twin,
    mean over the batch. Everything before the first of the layers is frozen, to the bit.
    """

    title: ClassVar[str] = "Sensitive neuron stabilizing (SNS)"
    kind: Literal["sns"] = "sns"
    variant: Literal["sen", "dyn", "all", "rand"] = Field(
        "sen",
        description="Which neurons: the most sensitive ones of the network at the start (sen) or after each epoch "
        "(dyn), all neurons (all), or as many drawn from all neurons, sensitive ones included (rand). all and rand "
        "are controls.",
    )
    layers: Names = Field((), max_length=100, description="Layers to work on; empty for the last six convolutions.")
    share: float = Field(0.1, gt=0, le=1, description="Share of each layer's neurons; at least one neuron.")
    weights: Weights = Field(
        (5.0,),
        min_length=1,
        max_length=100,
        description="Lambda: one for all layers, or one for each, input to output.",
    )
    balance: Literal["none", "adaptive"] = Field(
        "none",
        description="adaptive: in every step, scale each layer's term to the mean of all (an extension of the paper).",
    )
    reduce: Literal["sum", "mean"] = Field(
        "sum", description="How to combine the neurons of a layer; the paper takes the sum."
    )
    twins: Literal["current", "start"] = Field(
        "current",
        description="Twins attack the network as it is, or as it was at the start (Algorithm 1 read literally).",
    )
    detach_clean: bool = Field(
        False, description="Pull the twin's features towards the clean features, which then get no gradient."
    )
    freeze_below: bool = Field(True, description="Freeze everything that runs before the first of the layers.")
    pairs: int = Field(1000, ge=1, le=1_000_000, description="Training images used to find sensitive neurons.")
    renewal_pairs: int = Field(200, ge=1, le=1_000_000, description="The same after each epoch, for dyn.")

    @model_validator(mode="after")
    def _one_weight_each(self) -> SNS:
        if len(self.weights) > 1 and len(self.weights) != len(self.layers):
            raise ValueError(
                f"weights: expected one, or one for each of the {len(self.layers)} layers named, got {len(self.weights)}"
            )
        return self

    @property
    def freezes(self) -> bool:
        return self.freeze_below or bool(self.train_from)

    def first_layer(self, classifier: Classifier) -> str:
        return self.train_from or (self._layers(classifier)[0] if self.freeze_below else "")

    def prepare(self, ground: Ground) -> Memory:
        return self._chosen(ground, self.pairs)

    def renew(self, ground: Ground, memory: Memory) -> Memory:
        return self._chosen(ground, self.renewal_pairs) if self.variant == "dyn" else memory

    def loss(self, step: TrainingStep) -> Terms:
        layers = self.watched(step.memory)
        sides = self.both(step, self._twins(step), layers)
        mixed = self.mixed(step, sides)
        moved = self._moved(step.memory, sides)
        return Terms(mixed.loss + moved, {**mixed.parts, "movement": moved})

    def watched(self, memory: Memory) -> tuple[str, ...]:
        return tuple(name.removeprefix(PREFIX) for name in memory)

    def flags(self, classifier: Classifier, memory: Memory) -> tuple[Flag, ...]:
        if self.balance == "none":
            return ()
        flag = Flag(
            name="beyond the paper",
            severity="info",
            message="The layers' terms were scaled to the same size in every step; Zhang et al. 2020 leave this to "
            "future work.",
        )
        return (flag,)

    def _layers(self, classifier: Classifier) -> tuple[str, ...]:
        return in_order(classifier, self.layers) if self.layers else late_convolutions(classifier)

    def _twins(self, step: TrainingStep) -> Tensor:
        if self.twins == "current":
            return self.adversarial(step)
        return self.adversarial(step, lambda points: cross_entropy(step.start(points), step.labels, reduction="sum"))

    def _moved(self, memory: Memory, sides: BothSides) -> Tensor:
        """Lambda times L_sns (eq. 12), layer by layer."""
        terms = []
        for layer in sides.clean.outputs:
            chosen = memory[PREFIX + layer]
            clean, twin = (full(side.outputs[layer][:, chosen]) for side in sides)
            apart = (clean.detach() if self.detach_clean else clean) - twin
            each = apart.abs().flatten(2).mean(2) if apart.dim() > 2 else apart.abs()
            terms.append((each.sum(1) if self.reduce == "sum" else each.mean(1)).mean())
        found = torch.stack(terms)
        if self.balance == "adaptive":
            size = found.detach()
            found = found * torch.where(size > 0, size.mean() / size, 1.0)
        return (found * found.new_tensor(self.weights)).sum()

    def _chosen(self, ground: Ground, count: int) -> Memory:
        """The neurons of each layer, ascending, by the layer's name."""
        classifier = ground.trainee.snapshot()
        layers = self._layers(classifier)
        sizes = neurons_of(classifier, layers)
        if self.variant == "all":
            found = {layer: np.arange(sizes[layer]) for layer in layers}
        elif self.variant == "rand":
            found = {layer: self._random(ground.seed, layer, sizes[layer]) for layer in layers}
        else:
            found = self._sensitive(ground, classifier, count)
        device = ground.trainee.classifier.device
        return {PREFIX + layer: torch.from_numpy(np.sort(found[layer])).to(device) for layer in layers}

    def _random(self, seed: int, layer: str, size: int) -> NDArray[np.int64]:
        generator = np.random.default_rng(derive_seed(seed, "random neurons", layer))
        return generator.permutation(size)[: share_of(size, self.share)]

    def _sensitive(self, ground: Ground, classifier: Classifier, count: int) -> dict[str, NDArray[np.int64]]:
        generator = np.random.default_rng(derive_seed(ground.seed, "pairs", ground.epoch))
        ids = np.sort(generator.permutation(ground.ids)[:count])
        found = sensitivities(
            classifier, ground.dataset, ids, self.threat, steps=self.steps, step_size=self.step_size,
            random_start=self.random_start, seed=derive_seed(ground.seed, "pairs", ground.epoch) % 2**31,
            batch_size=ground.batch_size, on_progress=ground.on_progress,
        )  # fmt: skip
        ground.trainee.count(*found.passes)
        return {layer.name: layer.top(self.share) for layer in found.layers}
