"""Super resolution."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import interpolate, l1_loss

from auditor.defending.defense import ImageDefense
from auditor.defending.wavelets import shrunk
from auditor.kit.colour import from_luma_chroma, to_luma_chroma
from auditor.kit.errors import MismatchError
from auditor.kit.progress import OnProgress, no_progress
from auditor.kit.randomness import derive_seed
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.defended import FittedState, Passing


class SuperResolution(ImageDefense):
    """Wavelet denoising and super resolution (Mustafa et al. 2020, arXiv 1901.01677): the image enlarged by a network, and back.

    Soft-thresholded Haar details of Y, Cb and Cr (BayesShrink), then EDSR (Lim et al. 2017, arXiv 1707.02921), then the mean over
    blocks back to the size that the classifier takes. The authors' EDSR was trained on DIV2K. This one is small, adds to a
    bicubic enlargement, and is trained here, on shrunk copies of the given training images.
    """

    title: ClassVar[str] = "Super resolution (SR, trained here)"
    kind: Literal["super-resolution"] = "super-resolution"
    learns: ClassVar[bool] = True
    sigma: float = Field(0.02, ge=0, le=1, description="Deviation of the noise that the wavelets remove.")
    scale: int = Field(2, ge=2, le=4, description="Enlargement; the authors' code takes 2.")
    blocks: int = Field(4, ge=1, le=64, description="Residual blocks; EDSR's baseline has 16.")
    features: int = Field(32, ge=1, le=512, description="Channels of the blocks; EDSR's baseline has 64.")
    steps: int = Field(500, ge=1, le=1_000_000, description="Training steps (Adam, mean absolute error).")
    batch: int = Field(16, ge=1, le=1024, description="Images per training step.")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Step size of Adam.")

    def check(self, classifier: Classifier) -> None:
        _, height, width = classifier.input_shape
        if height % self.scale or width % self.scale:
            raise MismatchError(
                f"{self.display_title()} makes images {self.scale} times smaller to learn, which {height}x{width} does "
                "not allow.",
                "Choose another scale, or leave this defense out.",
            )

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
        """The weights of the network; the facts say the mean absolute error of its first and last steps, and of bicubic."""
        generator = torch.Generator().manual_seed(derive_seed(seed, "super resolution"))
        network = self._network(classifier.input_shape[0])
        initialize(network, generator)
        network.to(classifier.device)
        adam = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        errors, plain = [], []
        for step in range(self.steps):
            drawn = torch.randint(len(ids), (self.batch,), generator=generator).numpy()
            large = dataset.images(ids[drawn]).to(classifier.device)
            small = interpolate(large, scale_factor=1 / self.scale, mode="area")
            with torch.enable_grad():
                error = l1_loss(network(small), large)
                adam.zero_grad()
                error.backward()
            adam.step()
            errors.append(error.item())
            plain.append(l1_loss(bicubic(small, self.scale), large).item())
            on_progress((step + 1) / self.steps, self.display_title())
        last = max(1, self.steps // 10)
        facts = {
            "images": len(ids),
            "first": errors[0],
            "last": float(np.mean(errors[-last:])),
            "bicubic": float(np.mean(plain)),
        }
        return FittedState({name: value.detach().cpu() for name, value in network.state_dict().items()}, facts)

    def transform(self, x: Tensor, passing: Passing) -> Tensor:
        levels = max(1, int(math.log2(min(x.shape[2:]))) - 3)
        colour = x.shape[1] == 3
        smooth = shrunk(to_luma_chroma(x) if colour else x, self.sigma, levels)
        weights = {name: value.to(x) for name, value in passing.state.tensors.items()}
        network = self._network(x.shape[1])
        large = torch.func.functional_call(network, weights, (from_luma_chroma(smooth) if colour else smooth,))
        return nn.functional.avg_pool2d(large, self.scale)

    def _network(self, channels: int) -> EDSR:
        with torch.random.fork_rng(devices=[]):  # modules initialize themselves from the global generator
            return EDSR(channels, self.features, self.blocks, self.scale)


class EDSR(nn.Module):
    """EDSR without batch normalization, on top of bicubic enlargement: (B, C, H, W) to (B, C, scale H, scale W)."""

    def __init__(self, channels: int, features: int, blocks: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.head = convolution(channels, features)
        self.body = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(features, features, 3, padding=1), nn.ReLU(), nn.Conv2d(features, features, 3, padding=1)
            )
            for _ in range(blocks)
        )
        self.tail = nn.Sequential(
            convolution(features, features * scale**2), nn.PixelShuffle(scale), convolution(features, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        first = values = self.head(x)
        for block in self.body:
            values = values + block(values)
        return bicubic(x, self.scale) + self.tail(first + values)


def convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def bicubic(x: Tensor, scale: int) -> Tensor:
    return interpolate(x, scale_factor=scale, mode="bicubic", align_corners=False)


def initialize(network: nn.Module, generator: torch.Generator) -> None:
    """He initialization, biases zero; the last convolution starts at zero, so the network begins as bicubic."""
    last = None
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
            module.weight.data *= 0.1
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            last = module
    assert last is not None
    nn.init.zeros_(last.weight)
