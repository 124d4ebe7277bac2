"""Image processing that several corruptions share. Images are float64 arrays, (..., C, H, W), in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy
from PIL import Image

from auditor.auditing.corruption import Array, Draws

LUMINANCE = np.array([0.299, 0.587, 0.114])
"""Weights of R, G and B in a grey image (ITU-R BT.601)."""


def smoothed(x: Array, sigma: float, *, mode: str = "nearest", truncate: float = 4.0) -> Array:
    """Gaussian filter over height and width alone."""
    return scipy.ndimage.gaussian_filter(x, sigma, axes=(-2, -1), mode=mode, truncate=truncate)


def grey(x: Array) -> Array:
    """Luminance, (B, 1, H, W); an image with one channel is its own."""
    return x if x.shape[1] == 1 else np.einsum("bchw,c->bhw", x, LUMINANCE)[:, None]


def painted(colour: Array, channels: int) -> Array:
    """A colour (R, G, B) shaped to multiply (B, C, H, W): its luminance for one channel."""
    return (colour if channels == 3 else np.array([colour @ LUMINANCE])).reshape(1, channels, 1, 1)


def enlarged(x: Array, factor: float) -> Array:
    """The middle of each image, enlarged by ``factor`` >= 1 to the image's own size, bilinear."""
    rows, columns = (_middle(side, factor) for side in x.shape[-2:])
    return rows @ x @ columns.T


def _middle(side: int, factor: float) -> Array:
    """Along one axis: the matrix of weights that takes a line to its enlarged middle."""
    kept = math.ceil(side / factor)
    size = round(kept * factor)
    places = (side - kept) // 2 + np.linspace(0, kept - 1, size)
    cut = (size - side) // 2
    return np.maximum(0, 1 - np.abs(places[cut : cut + side, None] - np.arange(side)))


def trail(x: Array, radius: int, sigma: float, angle: float) -> Array:
    """One image (C, H, W), each pixel the Gaussian mean of 2 radius + 1 pixels on a ray from it; ``angle`` in degrees.

    The motion blur of ImageMagick, written down: half a Gaussian, the pixels nearest to the ray, the edge repeated.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    down, right = (np.ceil(steps * way - 0.5).astype(int) for way in _direction(angle))
    height, width = x.shape[-2:]
    blurred = np.zeros_like(x)
    for weight, row, column in zip(weights / weights.sum(), down, right, strict=True):
        rows = np.clip(np.arange(height) + row, 0, height - 1)
        columns = np.clip(np.arange(width) + column, 0, width - 1)
        blurred += weight * x[:, rows[:, None], columns]
    return blurred


def _direction(angle: float) -> tuple[float, float]:
    return math.sin(math.radians(angle)), math.cos(math.radians(angle))


def plasma(draws: Draws, height: int, width: int, *, decay: float) -> Array:
    """A cloudy texture per sample, (B, H, W), from 0 to 1: diamond-square on a torus whose noise falls by decay^2 per octave."""
    size = 1 << (max(height, width) - 1).bit_length()
    field = np.zeros((len(draws), size, size))
    step, amplitude = size, 1.0
    while step >= 2:
        half, count = step // 2, size // step
        noise = amplitude * draws.uniform(3, count, count, low=-1, high=1)
        corners = field[:, ::step, ::step]
        below, beside = np.roll(corners, -1, 1), np.roll(corners, -1, 2)
        centres = (corners + below + beside + np.roll(below, -1, 2)) / 4 + noise[:, 0]
        field[:, half::step, half::step] = centres
        field[:, ::step, half::step] = (corners + beside + centres + np.roll(centres, 1, 1)) / 4 + noise[:, 1]
        field[:, half::step, ::step] = (corners + below + centres + np.roll(centres, 1, 2)) / 4 + noise[:, 2]
        step, amplitude = half, amplitude / decay**2
    low, high = field.min((1, 2), keepdims=True), field.max((1, 2), keepdims=True)
    return ((field - low) / np.maximum(high - low, 1e-12))[:, :height, :width]


def through_pillow(x: Array, change: Callable[[Image.Image], Image.Image]) -> Array:
    """Each image as Pillow changes it."""
    pixels = np.rint(255 * x).astype(np.uint8)
    changed = [
        np.asarray(change(Image.fromarray(item[0] if len(item) == 1 else item.transpose(1, 2, 0)))) for item in pixels
    ]
    return np.stack([item[None] if item.ndim == 2 else item.transpose(2, 0, 1) for item in changed]) / 255
