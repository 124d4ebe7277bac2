"""Contrast, brightness, saturation, JPEG, pixelation and the elastic transform, against closed forms, colorsys and Pillow."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from auditor.auditing.corruption import CORRUPTIONS
from tests.auditor.auditing.corruptions.pictures import pictures
from tests.auditor.auditing.corruptions.test_blur import HALF_A_LEVEL, rounded
from tests.auditor.auditing.corruptions.test_noise import raw

SMALL, LARGE, GREY = (3, 32, 32), (3, 96, 96), (1, 28, 28)


def images(shape: tuple[int, int, int], n: int = 3) -> np.ndarray:
    x = pictures(shape, n).double().numpy()
    x[0, :, 0, 0], x[0, :, 0, 1], x[0, :, 0, 2] = 0, 1, 0.4  # black, white, grey
    x[0, 0, 0, 3], x[0, 1:, 0, 3] = 1, 0  # pure red
    return np.rint(255 * x) / 255


@pytest.mark.parametrize(
    ("shape", "shares"),
    [(SMALL, (0.75, 0.5, 0.4, 0.3, 0.15)), (GREY, (0.75, 0.5, 0.4, 0.3, 0.15)), (LARGE, (0.4, 0.3, 0.2, 0.1, 0.05))],
)
def test_contrast_in_closed_form(shape: tuple[int, int, int], shares: tuple[float, ...]) -> None:
    x = images(shape)
    for severity, share in enumerate(shares, 1):
        mean = np.array([[channel.mean() for channel in image] for image in x])[:, :, None, None]
        expected = share * x + (1 - share) * mean
        assert np.abs(rounded(f"contrast:severity={severity}", x) - expected).max() <= HALF_A_LEVEL


def in_hsv(x: np.ndarray, change: Callable[[float, float, float], tuple[float, float, float]]) -> np.ndarray:
    """Pixel by pixel through Python's colorsys."""
    changed = np.empty_like(x)
    for index in np.ndindex(len(x), *x.shape[2:]):
        pixel = (index[0], slice(None), *index[1:])
        changed[pixel] = colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*x[pixel])))
    return changed


@pytest.mark.parametrize(
    ("shape", "shifts"), [(SMALL, (0.05, 0.1, 0.15, 0.2, 0.3)), (LARGE, (0.1, 0.2, 0.3, 0.4, 0.5))]
)
def test_brightness_is_added_to_v(shape: tuple[int, int, int], shifts: tuple[float, ...]) -> None:
    x = images(shape, 1)
    for severity, shift in enumerate(shifts, 1):

        def brighter(h: float, s: float, v: float, shift: float = shift) -> tuple[float, float, float]:
            return h, s, min(1, v + shift)

        expected = in_hsv(x, brighter)
        assert np.abs(rounded(f"brightness:severity={severity}", x) - expected).max() <= HALF_A_LEVEL


def test_brightness_of_grey_images_is_a_sum() -> None:
    x = images(GREY)
    assert np.abs(rounded("brightness:severity=4", x) - np.minimum(1, x + 0.2)).max() <= HALF_A_LEVEL


@pytest.mark.parametrize(
    ("shape", "levels"),
    [(SMALL, [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)]), (LARGE, [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)])],
)  # fmt: skip
def test_saturation_is_scaled_and_shifted(shape: tuple[int, int, int], levels: list[tuple[float, float]]) -> None:
    x = images(shape, 1)
    for severity, (factor, shift) in enumerate(levels, 1):

        def saturated(h: float, s: float, v: float, a: float = factor, b: float = shift) -> tuple[float, float, float]:
            return h, min(1, a * s + b), v

        expected = in_hsv(x, saturated)
        assert np.abs(rounded(f"saturate:severity={severity}", x) - expected).max() <= HALF_A_LEVEL


@pytest.mark.parametrize(
    ("shape", "qualities"), [(SMALL, (80, 65, 58, 50, 40)), (GREY, (80, 65, 58, 50, 40)), (LARGE, (25, 18, 15, 10, 7))]
)
def test_jpeg_is_pillows(shape: tuple[int, int, int], qualities: tuple[int, ...]) -> None:
    x = images(shape)
    for severity, quality in enumerate(qualities, 1):
        for image, seen in zip(x, rounded(f"jpeg:severity={severity}", x), strict=True):
            pixels = np.rint(255 * image).astype(np.uint8)
            picture = (
                Image.fromarray(pixels[0], "L")
                if len(image) == 1
                else Image.fromarray(np.moveaxis(pixels, 0, -1), "RGB")
            )
            stream = io.BytesIO()
            picture.save(stream, format="JPEG", quality=quality)
            expected = np.asarray(Image.open(io.BytesIO(stream.getvalue())))
            assert np.array_equal(np.rint(255 * np.moveaxis(seen, 0, -1).squeeze()), expected)


def test_pixelation_by_half_is_the_mean_of_four() -> None:
    """Severity 2 of large images: 96 -> 48 -> 96."""
    x = images(LARGE)
    means = np.rint(255 * x.reshape(3, 3, 48, 2, 48, 2).mean((3, 5)) - 1e-9)
    expected = means.repeat(2, 2).repeat(2, 3) / 255
    assert np.abs(rounded("pixelate:severity=2", x) - expected).max() <= 1.01 / 255  # a half may be rounded up or down


@pytest.mark.parametrize(("shape", "sides"), [(SMALL, (30, 28, 27, 24, 20)), (GREY, (26, 25, 23, 21, 18))])
def test_pixelation_shrinks_by_box_means(shape: tuple[int, int, int], sides: tuple[int, ...]) -> None:
    """int(32 * 0.95) = 30 and so on; both ways each pixel takes the source pixels whose middles its own square holds."""

    def box(size: int, to: int) -> np.ndarray:
        """Weights of Pillow's box filter: the support is a target pixel, at least one source pixel wide."""
        scale = size / to
        half = max(scale, 1.0) / 2
        middles, sources = (np.arange(to) + 0.5) * scale, np.arange(size) + 0.5
        weights = (sources > middles[:, None] - half - 1e-9) & (sources <= middles[:, None] + half - 1e-9)
        return weights / weights.sum(1, keepdims=True)

    x = images(shape)
    for severity, side in enumerate(sides, 1):
        down, up = box(shape[1], side), box(side, shape[1])
        expected = up @ down @ x @ down.T @ up.T
        seen = rounded(f"pixelate:severity={severity}", x)
        assert np.abs(seen - expected).mean() < 0.003, "rounding to bytes between the steps"


def coordinates(n: int, side: int) -> np.ndarray:
    """Images whose channels say where a pixel comes from: row, column, nothing; linear, so interpolation is exact."""
    rows, columns = np.indices((side, side)) / side
    return np.tile(np.stack([rows, columns, np.zeros_like(rows)]), (n, 1, 1, 1))


def fitted(sources: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The affine map (3, 2) from places to sources, over the middle where nothing is reflected, and what it leaves."""
    middle = slice(side // 4, side - side // 4)
    rows, columns = np.indices((side, side))[:, middle, middle].reshape(2, -1)
    places = np.stack([rows, columns, np.ones_like(rows)], 1)
    wanted = side * sources[:2, middle, middle].reshape(2, -1).T
    solution = np.linalg.lstsq(places, wanted, rcond=None)[0]
    return solution, wanted - places @ solution


def test_elastic_severity_1_moves_three_points() -> None:
    """No displacement: the points (16 +- 10) come from places up to 0.08 * 32 = 2.56 away, uniformly."""
    moves = []
    for sources in raw("elastic:severity=1", coordinates(80, 32)):
        affine, rest = fitted(sources, 32)
        assert np.abs(rest).max() < 1e-4
        inverse = np.linalg.inv(affine[:2])
        for point in ((26, 26), (6, 26), (6, 6)):
            moves += ((np.array(point) - affine[2]) @ inverse - point).tolist()
    assert np.abs(moves).max() <= 2.56 + 1e-3
    assert stats.kstest(np.array(moves) / 2.56, "uniform", (-1, 2)).pvalue > 0.001


@pytest.mark.parametrize(
    ("side", "severity", "pull", "sigma"),
    [
        (32, 4, 0.1 * 32, 0.04 * 32),
        (32, 5, 0.1 * 32, 0.03 * 32),
        (224, 4, 0.07 * 244, 0.01 * 244),
        (224, 5, 0.12 * 244, 0.01 * 244),
    ],
)
def test_elastic_displaces_by_blurred_noise(side: int, severity: int, pull: float, sigma: float) -> None:
    """What an affine fit leaves has the spread of blurred uniform noise."""
    n = 30 if side == 32 else 3
    left = [fitted(sources, side)[1].std() for sources in raw(f"elastic:severity={severity}", coordinates(n, side))]
    random = np.random.default_rng(0)
    expected = []
    for places in coordinates(n, side):
        places[:2] += [
            pull / side * ndimage.gaussian_filter(noise, sigma, truncate=3.0)
            for noise in random.uniform(-1, 1, (2, side, side))
        ]
        expected.append(fitted(places, side)[1].std())
    assert np.mean(left) == pytest.approx(np.mean(expected), rel=0.05)


def test_the_catalogue_has_the_fifteen_and_the_four() -> None:
    main = "gaussian_noise shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur snow frost fog brightness " \
        "contrast elastic pixelate jpeg"  # fmt: skip
    extra = "speckle_noise gaussian_blur spatter saturate"
    assert set(CORRUPTIONS.members) >= {*main.split(), *extra.split()}
