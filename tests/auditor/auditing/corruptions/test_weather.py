"""Fog, frost, snow, spatter: what their formulas say, whatever the random texture."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, stats

from auditor.auditing.corruption import Draws
from auditor.auditing.corruptions.frost import crystals
from auditor.auditing.corruptions.spatter import MUD, WATER, drop_light, equalized
from auditor.auditing.imaging import plasma
from auditor.kit.randomness import RowRandom
from tests.auditor.auditing.corruptions.pictures import pictures
from tests.auditor.auditing.corruptions.test_noise import raw


def draws(n: int, scope: str = "test") -> Draws:
    return Draws(RowRandom(0, scope, [(sample,) for sample in range(n)]), n)


class Recorded(Draws):
    """Keeps what was drawn."""

    def __init__(self, n: int) -> None:
        super().__init__(RowRandom(0, "test", [(sample,) for sample in range(n)]), n)
        self.uniforms: list[np.ndarray] = []

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        self.uniforms.append(super().uniform(*shape, low=low, high=high))
        return self.uniforms[-1]


@pytest.mark.parametrize("decay", [1.4, 2.0, 3.0])
def test_plasma_is_the_diamond_square_algorithm(decay: float) -> None:
    """Point by point: the middle of a square from its corners, the middle of an edge from its four neighbours, on a torus."""
    recorded = Recorded(1)
    field = plasma(recorded, 16, 16, decay=decay)[0]
    plain, step, level = np.zeros((16, 16)), 16, 0
    while step > 1:
        half, noise = step // 2, recorded.uniforms[level][0] / decay ** (2 * level)
        at = lambda row, column: plain[row % 16, column % 16]  # noqa: E731
        for i, row in enumerate(range(0, 16, step)):
            for j, column in enumerate(range(0, 16, step)):
                corners = (
                    at(row, column) + at(row + step, column) + at(row, column + step) + at(row + step, column + step)
                )
                plain[row + half, column + half] = corners / 4 + noise[0, i, j]
        for i, row in enumerate(range(0, 16, step)):
            for j, column in enumerate(range(0, 16, step)):
                for way, (down, right) in ((1, (0, half)), (2, (half, 0))):
                    r, c = row + down, column + right
                    cross = at(r - half, c) + at(r + half, c) + at(r, c - half) + at(r, c + half)
                    plain[r, c] = cross / 4 + noise[way, i, j]
        step, level = half, level + 1
    assert np.allclose(field, (plain - plain.min()) / (plain.max() - plain.min()), atol=1e-6)


def test_a_faster_decay_is_a_smoother_cloud() -> None:
    roughness = [np.abs(np.diff(plasma(draws(30), 64, 64, decay=decay), axis=2)).mean() for decay in (1.2, 1.5, 2, 3)]
    assert roughness == sorted(roughness, reverse=True)


@pytest.mark.parametrize(
    ("shape", "strengths"), [((3, 32, 32), (0.2, 0.5, 0.75, 1, 1.5)), ((1, 96, 96), (1.5, 2, 2.5, 2.5, 3))]
)
def test_fog_adds_clouds_and_scales_back(shape: tuple[int, int, int], strengths: tuple[float, ...]) -> None:
    """Under the same clouds two images of the same maximum m differ by m / (m + c) of what they differed."""
    one, other = (pictures(shape, 4, seed).double().numpy() for seed in (0, 1))
    one, other = (0.8 * item / item.max((1, 2, 3), keepdims=True) for item in (one, other))
    for severity, strength in enumerate(strengths, 1):
        foggy = [raw(f"fog:severity={severity}", item) for item in (one, other)]
        assert np.allclose(foggy[0] - foggy[1], (one - other) * 0.8 / (0.8 + strength), atol=1e-9)
        clouds = foggy[0] * (0.8 + strength) / 0.8 - one
        assert clouds.min() == pytest.approx(0, abs=1e-9)
        assert clouds.max() == pytest.approx(strength, rel=1e-6 if shape[1] == 32 else 0.1)  # 96 is cut from 128
        assert np.allclose(clouds, clouds[:, :1], atol=1e-9), "fog is grey"


@pytest.mark.parametrize(
    ("shape", "weights"),
    [((3, 32, 32), [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)]),
     ((3, 96, 96), [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)])],
)  # fmt: skip
def test_frost_is_a_weighted_sum(shape: tuple[int, int, int], weights: list[tuple[float, float]]) -> None:
    x = pictures(shape, 6).double().numpy()
    textures = []
    for severity, (of_image, of_frost) in enumerate(weights, 1):
        textures.append((raw(f"frost:severity={severity}", x) - of_image * x) / of_frost)
    assert np.allclose(textures, textures[0], atol=1e-9), "the same frost at every severity"
    assert textures[0].min() >= 0
    assert textures[0].max() <= 1
    red, green, blue = textures[0].mean((0, 2, 3))
    assert red < green < blue


@pytest.mark.parametrize(("side", "neighbours"), [(32, 1.1), (224, 0.65)])
def test_frost_looks_like_the_photographs_in_numbers(side: int, neighbours: float) -> None:
    """Measured on crops of the script's five pictures: mean grey 0.45 to 0.80, standard deviation 0.09, and so rough."""
    grey = crystals(draws(60), side, side)
    assert grey.mean((1, 2)).min() >= 0.44
    assert grey.mean((1, 2)).max() <= 0.81
    assert grey.std((1, 2)) == pytest.approx(np.full(60, 0.09), abs=1e-6)
    steps = np.sqrt((np.diff(grey, axis=2) ** 2).mean((1, 2))) / grey.std((1, 2))
    assert steps.mean() == pytest.approx(neighbours, abs=0.06)


def test_snow_whitens_and_falls_twice() -> None:
    """On grey 0.5 the haze is max(0.5, 1.5 * 0.5 + 0.5) = 1.25; the flakes are symmetric under half a turn."""
    x = np.full((300, 3, 32, 32), 0.5)
    for severity, clear in ((1, 0.95), (2, 0.9), (3, 0.9), (4, 0.85), (5, 0.8)):
        flakes = raw(f"snow:severity={severity}", x) - (clear * 0.5 + (1 - clear) * 1.25)
        assert flakes.min() >= -1e-9
        assert np.allclose(flakes, flakes[:, :, ::-1, ::-1], atol=1e-9)
        assert np.allclose(flakes, flakes[:, :1])
    # Severity 1 does not enlarge: twice the mean of a normal (0.1, 0.2) where it exceeds 0.6 (the cut at 1 hardly matters).
    normal = stats.norm(0.1, 0.2)
    expected = 2 * normal.expect(lambda value: min(value, 1.0), lb=0.6)
    seen = raw("snow:severity=1", x).mean() - (0.95 * 0.5 + 0.05 * 1.25)
    assert seen == pytest.approx(expected, rel=0.1)


def test_mud_covers_what_it_covers() -> None:
    """Against the plain filter, with the very same noise."""
    x = pictures((3, 32, 32), 5).double().numpy()
    spattered = raw("spatter:severity=4", x)
    noise = draws(5).normal(32, 32)
    for image, seen, layer in zip(x, spattered, noise, strict=True):
        drops = ndimage.gaussian_filter(0.65 + 0.1 * layer, 0.7, mode="nearest") > 0.69
        cover = ndimage.gaussian_filter(drops.astype(float), 0.6, mode="nearest")
        cover[cover < 0.8] = 0
        expected = image * (1 - cover) + cover * MUD[:, None, None]
        assert np.allclose(seen, expected, atol=1e-9)
        assert 0.01 < (cover > 0).mean() < 0.3


def test_water_shines_where_drops_are() -> None:
    x = pictures((3, 32, 32), 8).double().numpy()
    for severity, mean, deviation, sigma, threshold in ((1, 0.62, 0.1, 0.7, 0.7), (3, 0.65, 0.3, 1.0, 0.69)):
        added = raw(f"spatter:severity={severity}", x) - x
        noise = draws(8).normal(32, 32)
        for seen, layer in zip(added, noise, strict=True):
            drops = ndimage.gaussian_filter(mean + deviation * layer, sigma, mode="nearest") >= threshold
            assert np.allclose(seen[:, ~drops], 0)
            assert seen.min() >= -1e-12
            assert seen.max((1, 2)) == pytest.approx(0.5 * WATER)  # the brightest drop, in the colour of water
            assert np.allclose(seen[1] * WATER[0], seen[0] * WATER[1], atol=1e-9)


def test_a_histogram_is_made_even() -> None:
    # Cumulated counts of 10, 20, 30 are 1, 3, 4: (count - 1) / (4 - 1) * 255.
    assert equalized(np.array([[10, 20], [20, 30]], np.uint8)).tolist() == [[0, 170], [170, 255]]
    assert equalized(np.full((2, 2), 7, np.uint8)).tolist() == [[7, 7], [7, 7]]


def test_no_drop_no_light() -> None:
    assert not drop_light(np.zeros((8, 8), bool)).any()
    assert not drop_light(np.ones((8, 8), bool)).any(), "a drop without a rim"
