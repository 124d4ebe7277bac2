"""What the penalties on the critical attacking route have in common: whose channels, in which layers, added to which training."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from auditor.attacking.threat import ThreatModel
from auditor.hardening.hardening import Ground, Memory, TrainingStep
from auditor.hardening.learning.mixture import BothSides, Mixture
from auditor.hardening.learning.passes import Passes
from auditor.kit.flag import Flag
from auditor.kit.randomness import derive_seed
from auditor.models.classifier import Classifier
from auditor.neural.routes.routes import RouteFinder, model_route
from auditor.neural.routes.selection import frequency_over

PREFIX = "channels of "


class RoutePenalized(Mixture):
    """Vanilla training or PAT with a penalty on some channels of each layer, by default those of the model-level route.

    The route is that of clean training images on the network at the start (Li et al. 2021, eq. 3-8).
    """

    base: Literal["vanilla", "pat"] = Field(
        "vanilla", description="What the penalty is added to: clean training, or PAT."
    )
    channels: Literal["route", "outside", "random", "all"] = Field(
        "route",
        description="Which channels: those of the route; as many drawn from outside it or from all channels; or all "
        "channels. All but the first are controls.",
    )
    images: int = Field(1000, ge=1, le=1_000_000, description="Training images used to find the route.")
    image_width: float = Field(0.2, gt=0, le=1, description="Share of each layer's channels on the route of an image.")
    width: float = Field(0.3, gt=0, le=1, description="Share of each layer's channels on the route of the network.")

    @property
    def cost(self) -> Passes:
        return Passes(1, 1) if self.base == "vanilla" else super().cost

    @property
    def attacks_within(self) -> ThreatModel | None:
        return None if self.base == "vanilla" else self.threat

    def prepare(self, ground: Ground) -> Memory:
        classifier = ground.trainee.snapshot()
        generator = np.random.default_rng(derive_seed(ground.seed, "routes"))
        ids = np.sort(generator.permutation(ground.ids)[: self.images])

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            seen = 0
            for batch in ground.dataset.batches(ids, ground.batch_size):
                yield batch.images.to(classifier.device, classifier.dtype), batch.labels.to(classifier.device)
                seen += len(batch.ids)
                ground.on_progress(seen / len(ids), "critical attacking routes")

        found = frequency_over(RouteFinder(classifier), batches(), width=self.image_width)
        ground.trainee.count(len(ids), len(ids))
        chosen = [
            self._chosen(route, size, derive_seed(ground.seed, "channels", layer))
            for layer, route, size in zip(found.layers, model_route(found.share, self.width), found.sizes, strict=True)
        ]
        return {
            PREFIX + layer: torch.from_numpy(np.sort(channels)).to(classifier.device)
            for layer, channels in zip(found.layers, chosen, strict=True)
        }

    def watched(self, memory: Memory) -> tuple[str, ...]:
        return tuple(name.removeprefix(PREFIX) for name in memory)

    def flags(self, classifier: Classifier, memory: Memory) -> tuple[Flag, ...]:
        left_out = RouteFinder(classifier).left_out
        flag = Flag(
            name="route begins late",
            severity="info",
            message="The penalty leaves out the first layers, because influence between them has no closed form.",
            evidence=" ".join(left_out),
        )
        return (flag,) if left_out else ()

    def sides(self, step: TrainingStep, layers: Collection[str] = ()) -> BothSides:
        """Passes over what is trained on, with the outputs of some layers; vanilla training has the clean side twice."""
        if self.base == "pat":
            return self.both(step, self.adversarial(step), layers)
        clean = step.trainee.features(step.x, layers)
        return BothSides(clean, clean)

    def _chosen(self, route: NDArray[np.int64], size: int, seed: int) -> NDArray[np.int64]:
        if self.channels == "route":
            return route
        order = np.random.default_rng(seed).permutation(size)
        if self.channels == "outside":
            order = order[~np.isin(order, route)]
        return order if self.channels == "all" else order[: len(route)]
