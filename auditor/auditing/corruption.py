"""Corruption: a common corruption of images at five severities; CorruptedDataset: a data set seen through one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from auditor.kit import plugins
from auditor.kit.capability import Capability, Catalog
from auditor.kit.errors import SpecError
from auditor.kit.randomness import RowRandom
from auditor.models.dataset import ImageDataset

Array = NDArray[np.float64]

SEVERITIES = (1, 2, 3, 4, 5)

SMALL_SIDE = 64
"""Images whose shorter side has at most 64 pixels get the constants of CIFAR-10-C (made for 32 x 32), larger ones those of
ImageNet-C (made for 224 x 224)."""


def is_small(height: int, width: int) -> bool:
    """Whether images of this size get the constants of CIFAR-10-C."""
    return min(height, width) <= SMALL_SIDE


class Draws:
    """Random arrays for a batch, (B, *shape), each row from its own sample's stream."""

    def __init__(self, random: RowRandom, count: int) -> None:
        self._random, self._count = random, count

    def __len__(self) -> int:
        return self._count

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Array:
        return low + (high - low) * self._random.uniform(self._like(shape)).numpy()

    def normal(self, *shape: int) -> Array:
        return self._random.normal(self._like(shape)).numpy()

    def poisson(self, rates: Array) -> Array:
        """Poisson counts with these means, (B, *shape)."""
        return self._random.poisson(torch.from_numpy(rates)).numpy()

    def _like(self, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(self._count, *shape, dtype=torch.float64)


class Corruption(Capability):
    """A change of the images that no attacker makes: noise, blur, weather, digital loss. One subclass per file in
    ``auditor.auditing.corruptions``.

    ``small`` and ``large``: the constants of the severities 1 to 5 for small and large images (see SMALL_SIDE), from the
    scripts of Hendrycks and Dietterich. ``channels``: what it can be applied to.
    """

    channels: ClassVar[frozenset[int]] = frozenset({1, 3})
    small: ClassVar[tuple[Any, ...]]
    large: ClassVar[tuple[Any, ...]]

    severity: int = Field(0, ge=0, le=5, description="How strong, from 1 to 5; 0 for each of the five.")

    def each(self) -> tuple[Corruption, ...]:
        """One corruption per severity that is meant: itself, or all five."""
        if self.severity:
            return (self,)
        return tuple(self.model_copy(update={"severity": severity}) for severity in SEVERITIES)

    def check(self, channels: int) -> None:
        """Raises SpecError for images that it cannot be applied to."""
        if channels not in self.channels:
            known = " or ".join(map(str, sorted(self.channels)))
            raise SpecError(
                f"The corruption {self.kind} takes images with {known} channels, these have {channels}.",
                "Leave it out.",
            )

    def corrupt(self, images: Tensor, samples: Sequence[int] | NDArray[np.int64], seed: int) -> Tensor:
        """The images (B, C, H, W) in [0, 1], corrupted and rounded to the 256 levels that an image file has.

        ``samples``: their ids. Random numbers depend on the seed, the kind and the id alone, so all severities of a
        sample share them. Raises SpecError if no single severity is chosen, or the images have the wrong channels.
        """
        if not self.severity:
            raise SpecError(f"{self.kind}: expected a severity from 1 to 5, got 0.")
        self.check(images.shape[1])
        x = np.rint(255 * np.nan_to_num(images.detach().cpu().double().numpy())) / 255
        levels = self.small if is_small(*x.shape[2:]) else self.large
        random = RowRandom(seed, f"corruption {self.kind}", [(int(sample),) for sample in samples])
        corrupted = self.apply(x, levels[self.severity - 1], Draws(random, len(x)))
        pixels = np.rint(255 * np.clip(corrupted, 0, 1)).astype(np.uint8)
        return torch.from_numpy(pixels).to(images) / 255

    @abstractmethod
    def apply(self, x: Array, level: Any, draws: Draws) -> Array:
        """The corrupted images for one entry of ``small`` or ``large``; ``corrupt`` clips and rounds them.

        ``x``: float64, (B, C, H, W), in [0, 1]; not to be changed.
        """


CORRUPTIONS: Catalog[Corruption] = Catalog("auditor.auditing.corruptions", Corruption, entry_points=plugins.CORRUPTIONS)


class CorruptedDataset(ImageDataset):
    """The same samples, their images corrupted when they are read."""

    def __init__(self, dataset: ImageDataset, corruption: Corruption, seed: int) -> None:
        self.__dict__.update(dataset.__dict__)  # its arrays were checked
        self.sha256 = ""
        self.corruption, self.seed = corruption, seed

    def images(self, ids: Sequence[int] | NDArray[np.int64]) -> Tensor:
        return self.corruption.corrupt(super().images(ids), ids, self.seed)
