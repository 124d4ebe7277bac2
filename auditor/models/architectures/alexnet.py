"""AlexNet for small images."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, cast

from pydantic import Field
from torch import Tensor, nn

from auditor.models.architecture import NUMBER_CHOICE, Architecture

Stem = Literal["11x11", "3x3"]

POOL = 0
STEMS: dict[Stem, tuple[int, int, int]] = {"11x11": (11, 4, 5), "3x3": (3, 2, 1)}
"""Window, stride and padding of the first convolution."""

SECOND_WINDOW: dict[Stem, int] = {"11x11": 5, "3x3": 3}
STEM_WIDTH = 64
LAYERS = (POOL, 192, POOL, 384, 256, 256, POOL)
"""Channels of each convolution after the first, and the pools between, in the one-column form."""


class AlexNetNetwork(nn.Module):
    """Convolutions and pools, then the classifier, which gets the ``pool`` of what is left of the image as a vector."""

    def __init__(self, features: nn.Sequential, pool: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.pool = pool
        self.flatten = nn.Flatten()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.classifier(self.flatten(self.pool(self.features(x)))))


class AlexNet(Architecture):
    """AlexNet (Krizhevsky et al. 2012; one column, Krizhevsky 2014, arXiv 1404.5997) for small images.

    Tensor names and the defaults are those of bearpaw/pytorch-classification (``features.0.weight``,
    ``classifier.weight``): a padded 11x11 stem, 2x2 pools and one linear layer as head. With ``hidden`` the head is
    the paper's, named as torchvision names it (``classifier.1.weight``, ``classifier.4.weight``,
    ``classifier.6.weight``). A pool that does not fit into what is left of the image is left out; the one linear
    layer gets the average over the rest, the three get all of it.
    """

    kind: Literal["alexnet"] = "alexnet"
    title: ClassVar[str] = "AlexNet (small images)"
    stem: Stem = Field(
        "11x11", description="First convolution: 11x11 with stride 4 as in the paper, or 3x3 with stride 2."
    )
    pool: Annotated[Literal[2, 3], NUMBER_CHOICE] = Field(
        2, description="Side of the pools, of stride 2: 3 makes them overlap, as in the paper."
    )
    hidden: int = Field(
        0, ge=0, le=8192, description="Units of each of two linear layers before the last (the paper: 4096; 0: none)."
    )

    def build(self) -> nn.Module:
        """See Architecture.build."""
        kernel, stride, padding = STEMS[self.stem]
        features = nn.Sequential(nn.Conv2d(self.channels, STEM_WIDTH, kernel, stride, padding), nn.ReLU())
        sides = [(side + 2 * padding - kernel) // stride + 1 for side in (self.height, self.width)]
        width, window = STEM_WIDTH, SECOND_WINDOW[self.stem]
        for entry in LAYERS:
            if entry == POOL:
                # An Identity keeps the place, so the layers after it have their usual numbers.
                fits = min(sides) >= self.pool
                features.append(nn.MaxPool2d(self.pool, 2) if fits else nn.Identity())
                sides = [(side - self.pool) // 2 + 1 for side in sides] if fits else sides
                continue
            features.append(nn.Conv2d(width, entry, window, padding=window // 2)).append(nn.ReLU())
            width, window = entry, 3
        if self.hidden == 0:
            return AlexNetNetwork(features, nn.AdaptiveAvgPool2d(1), nn.Linear(width, self.num_classes))
        return AlexNetNetwork(features, nn.Identity(), self._hidden_layers(width * sides[0] * sides[1]))

    def _hidden_layers(self, flat: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Dropout(),
            nn.Linear(flat, self.hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(self.hidden, self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, self.num_classes),
        )
