"""Sparse transformation layer."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from auditor.defending.defense import Backward, ImageDefense
from auditor.defending.sparse_coding import PADDING, Filters, better_filters, low_part, sparse_code
from auditor.kit.errors import MismatchError
from auditor.kit.progress import OnProgress, no_progress
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.defended import FittedState, Passing

TOGETHER = 1 << 22
"""Coefficients that are held at a time: images of a batch are coded in parts of so many."""
LEARNING_BATCH, FILTER_STEPS, LEARNING_STEPS = 8, 10, 30
"""Images per step of the learning, gradient steps for the filters in each, and ADMM steps for the maps before."""


class SparseTransformation(ImageDefense):
    """Sparse transformation layer (Sun et al. 2019, arXiv 1812.00037): leaves out what a few filters at a few places
    cannot represent.

    The image is split into a smooth part (Tikhonov filter) and the rest, which is coded by convolutional basis pursuit
    denoising and put together again. The filters are learnt on the rest of the training images. The authors' code divides
    the result by its maximum, which changes the brightness (``maximum``); here it is cut to [0, 1]. The adaptive attacker
    ignores it backwards.
    """

    title: ClassVar[str] = "Sparse transformation (STL)"
    kind: Literal["sparse-transformation"] = "sparse-transformation"
    learns: ClassVar[bool] = True
    backward: ClassVar[Backward] = "identity"
    filters: int = Field(64, ge=1, le=512, description="Number of filters.")
    side: int = Field(8, ge=2, le=32, description="Side of a filter, in pixels.")
    weight: float = Field(0.1, gt=0, le=10, description="Weight of the absolute coefficients: larger leaves out more.")
    smoothing: float = Field(5.0, gt=0, le=1000, description="Weight of the gradient in the smooth part.")
    steps: int = Field(200, ge=1, le=5000, description="Largest number of ADMM steps.")
    tolerance: float = Field(0.005, gt=0, lt=1, description="Relative residual at which an image's steps end.")
    images: int = Field(200, ge=1, le=100_000, description="Maximum training images to learn the filters from.")
    epochs: int = Field(2, ge=1, le=1000, description="How often each of them is used.")
    brightness: Literal["clip", "maximum"] = Field(
        "clip", description="Cut the result to [0, 1], or divide it by its maximum as the authors' code does."
    )

    def check(self, classifier: Classifier) -> None:
        shortest = min(classifier.input_shape[1:])
        if shortest < self.side or shortest < PADDING // 2:
            raise MismatchError(
                f"{self.display_title()} needs images of at least {max(self.side, PADDING // 2)} pixels a side, "
                f"these have {shortest}.", "Set a smaller side, or leave this defense out.",
            )  # fmt: skip

    def fit(
        self,
        classifier: Classifier,
        dataset: ImageDataset,
        ids: NDArray[np.int64],
        *,
        seed: int,
        batch_size: int = 64,
        on_progress: OnProgress = no_progress,
    ) -> FittedState:
        """The filters, (K, C, side, side), of length 1 at most: codes and filters in turn, batch by batch (online)."""
        generator = torch.Generator().manual_seed(seed)
        channels, height, width = classifier.input_shape
        start = torch.randn(self.filters, channels, self.side, self.side, generator=generator)
        filters = (start / start.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).to(classifier.device)
        chosen, misses = ids[: self.images], []
        for epoch in range(self.epochs):
            for done, batch in enumerate(dataset.batches(chosen, LEARNING_BATCH)):
                x = batch.images.to(classifier.device)
                high = x - low_part(x, self.smoothing)
                maps = sparse_code(high, Filters.of(filters, (height, width)), self.weight, LEARNING_STEPS, 1e-4)
                filters = better_filters(filters, maps, high, FILTER_STEPS)
                miss = Filters.of(filters, (height, width)).synthesis(maps) - high
                misses.append(float(miss.square().mean()))
                on_progress((epoch + done * LEARNING_BATCH / len(chosen)) / self.epochs, self.display_title())
        return FittedState(
            {"filters": filters.cpu()}, {"images": len(chosen), "first_miss": misses[0], "last_miss": misses[-1]}
        )

    def transform(self, x: Tensor, passing: Passing) -> Tensor:
        filters = Filters.of(passing.state.tensors["filters"].to(x), (x.shape[2], x.shape[3]))
        rows = max(1, TOGETHER // (self.filters * x.shape[2] * x.shape[3]))
        found = torch.cat([self._coded(part, filters) for part in x.split(rows)])
        return found if self.brightness == "clip" else found / found.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)

    def _coded(self, x: Tensor, filters: Filters) -> Tensor:
        low = low_part(x, self.smoothing)
        return low + filters.synthesis(sparse_code(x - low, filters, self.weight, self.steps, self.tolerance))
