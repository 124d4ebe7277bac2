"""Images for these tests: random, but smooth with some detail, as photographs are."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

SHAPES = [(3, 32, 32), (3, 96, 96), (1, 28, 28)]


def pictures(shape: tuple[int, int, int], n: int = 12, seed: int = 0) -> Tensor:
    """(n, C, H, W), on the grid of uint8, from 0 to 1; the colours of a pixel are alike, but not the same."""
    channels, height, width = shape
    random = np.random.default_rng(seed)
    coarse = ndimage.gaussian_filter(
        random.normal(size=(n, 1, height, width)), (0, 0, height / 10, width / 10), mode="wrap"
    )
    fine = ndimage.gaussian_filter(random.normal(size=(n, 1, height, width)), (0, 0, 1, 1))
    hues = ndimage.gaussian_filter(random.normal(size=(n, channels, height, width)), (0, 0, height / 8, width / 8))
    mixed = sum(weight * part / part.std() for weight, part in ((1.0, coarse), (0.5, fine), (0.6, hues)))
    pixels = np.rint(255 * np.clip(0.5 + 0.25 * mixed, 0, 1))
    return torch.from_numpy(pixels.astype(np.uint8)).float() / 255
