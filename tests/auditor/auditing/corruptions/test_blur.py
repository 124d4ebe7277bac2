"""The blurs, against scipy and against loops over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, signal

from auditor.auditing.corruption import CORRUPTIONS
from auditor.auditing.corruptions.glass_blur import _copied
from auditor.auditing.imaging import enlarged, trail
from tests.auditor.auditing.corruptions.pictures import SHAPES, pictures
from tests.auditor.auditing.corruptions.test_noise import raw

HALF_A_LEVEL = 0.5 / 255 + 1e-6


def rounded(text: str, x: np.ndarray) -> np.ndarray:
    return CORRUPTIONS.parse(text).corrupt(torch.from_numpy(x), range(len(x)), seed=0).numpy()


@pytest.fixture(params=SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def x(request: pytest.FixtureRequest) -> np.ndarray:
    return pictures(request.param, 3).double().numpy()


def test_gaussian_blur_is_scipys(x: np.ndarray) -> None:
    sigmas = (0.4, 0.6, 0.7, 0.8, 1) if x.shape[2] <= 64 else (1, 2, 3, 4, 6)
    for severity, sigma in enumerate(sigmas, 1):
        expected = [[ndimage.gaussian_filter(channel, sigma, mode="nearest") for channel in image] for image in x]
        assert np.abs(rounded(f"gaussian_blur:severity={severity}", x) - expected).max() <= HALF_A_LEVEL


def test_defocus_blur_is_the_mean_over_a_soft_disk(x: np.ndarray) -> None:
    discs = (
        [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)]
        if x.shape[2] <= 64
        else [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)]
    )
    sums: dict[float, float] = {8: 1.013, 10: 1.011}
    for severity, (radius, alias) in enumerate(discs, 1):
        reach = max(8, math.ceil(radius))
        axis = range(-reach, reach + 1)
        inside = np.array([[float(i * i + j * j <= radius**2) for j in axis] for i in axis])
        half = 1 if radius <= 8 else 2
        taps = np.array([math.exp(-(i**2) / (2 * alias**2)) for i in range(-half, half + 1)])
        soft = signal.correlate2d(
            np.pad(inside / inside.sum(), half, mode="reflect"), np.outer(taps, taps) / taps.sum() ** 2, mode="valid"
        )
        assert soft.sum() == pytest.approx(sums.get(radius, 1.0), abs=1e-3)
        expected = [
            [signal.correlate2d(np.pad(channel, reach, mode="reflect"), soft, "valid") for channel in image]
            for image in x
        ]
        assert np.abs(rounded(f"defocus_blur:severity={severity}", x) - np.clip(expected, 0, 1)).max() <= HALF_A_LEVEL


@pytest.mark.parametrize("angle", [-135.0, -45.0, -20.0, 0.0, 33.3, 45.0, 90.0])
def test_a_trail_is_half_a_gaussian_along_a_ray(angle: float) -> None:
    """The plainest form of ImageMagick's: pixel (r, c) is the mean of those at ceil(k sin - 1/2), ceil(k cos - 1/2) from it."""
    image = pictures((3, 9, 14), 1).double().numpy()[0]
    radius, sigma = 4, 1.7
    weights = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(2 * radius + 1)]
    expected = np.zeros_like(image)
    for row in range(9):
        for column in range(14):
            for k, weight in enumerate(weights):
                down = math.ceil(k * math.sin(math.radians(angle)) - 0.5)
                right = math.ceil(k * math.cos(math.radians(angle)) - 0.5)
                source = image[:, min(max(row + down, 0), 8), min(max(column + right, 0), 13)]
                expected[:, row, column] += weight / sum(weights) * source
    assert np.allclose(trail(image, radius, sigma, angle), expected, atol=1e-12)


def test_motion_blur_draws_its_angles_between_45_and_45() -> None:
    """One white pixel leaves a trail; the angle from it to the trail's centre of mass is the one drawn, turned around."""
    x = np.zeros((200, 1, 61, 61))
    x[:, :, 30, 30] = 1
    blurred = raw("motion_blur:severity=5", x)[:, 0]
    assert np.allclose(blurred.sum((1, 2)), 1)
    rows, columns = np.indices((61, 61)) - 30
    angles = np.degrees(np.arctan2(-(blurred * rows).sum((1, 2)), -(blurred * columns).sum((1, 2))))
    assert np.abs(angles).max() < 48, "45 degrees, and the rounding to pixels"
    assert np.histogram(angles, 3, (-45, 45))[0].min() > 45, "about a third of 200 in each third"


@pytest.mark.parametrize("factor", [1.0, 1.01, 1.13, 1.25, 1.75, 2.25, 4.5])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 41)])
def test_enlarging_is_scipys_zoom_of_the_middle(shape: tuple[int, int, int], factor: float) -> None:
    x = pictures(shape, 2).double().numpy()
    sides = [(side, math.ceil(side / factor)) for side in shape[1:]]
    starts = [(side - kept) // 2 for side, kept in sides]
    middle = x[:, :, starts[0] : starts[0] + sides[0][1], starts[1] : starts[1] + sides[1][1]]
    zoomed = ndimage.zoom(middle, (1, 1, factor, factor), order=1)
    cuts = [(have - want) // 2 for have, want in zip(zoomed.shape[2:], shape[1:], strict=True)]
    expected = zoomed[:, :, cuts[0] : cuts[0] + shape[1], cuts[1] : cuts[1] + shape[2]]
    assert np.allclose(enlarged(x, factor), expected, atol=1e-9)


def test_zoom_blur_is_the_mean_of_its_zooms(x: np.ndarray) -> None:
    ranges = (
        [(1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)]
        if x.shape[2] <= 64
        else [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)]
    )
    for severity, (end, step) in enumerate(ranges, 1):
        factors = np.arange(1, end, step)
        expected = np.mean([x, *(enlarged(x, factor) for factor in factors)], axis=0)
        assert np.allclose(raw(f"zoom_blur:severity={severity}", x), expected, atol=1e-9)


def test_glass_blur_copies_pixels_in_turn() -> None:
    """The bookkeeping of sources against copying the pixels themselves."""
    random = np.random.default_rng(0)
    pixels, places = random.random((3, 30)), random.permutation(30)[:20].tolist()
    rounds = random.integers(0, 30, (2, 20)).tolist()
    expected = pixels.copy()
    for sources in rounds:
        for place, source in zip(places, sources, strict=True):
            expected[:, place] = expected[:, source]
    assert np.array_equal(pixels[:, _copied(30, places, rounds)], expected)


def test_glass_blur_takes_pixels_from_nearby() -> None:
    """Severity 1 has no blur (sigma 0.05) and reach 1: a pixel is itself or one of three neighbours up and left of it; the two
    first rows and columns stay."""
    x = pictures((3, 32, 32), 20).double().numpy()
    shattered = raw("glass_blur:severity=1", x)
    assert np.array_equal(shattered[:, :, :2], x[:, :, :2])
    assert np.array_equal(shattered[:, :, :, :2], x[:, :, :, :2])
    moved = [np.roll(x, (down, right), (2, 3)) for down in (0, 1) for right in (0, 1)]
    matches = np.array([(shattered == candidate).all(1)[:, 2:, 2:] for candidate in moved])
    assert matches.any(0).all()
    assert matches.mean((1, 2, 3)) == pytest.approx([0.25] * 4, abs=0.03)
