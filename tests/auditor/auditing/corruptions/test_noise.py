"""The four noises, by their statistics; the constants are written down again from the paper's scripts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from auditor.auditing.corruption import CORRUPTIONS, Draws
from auditor.kit.randomness import RowRandom

SMALL, LARGE = (3, 32, 32), (3, 96, 96)


def raw(text: str, x: np.ndarray) -> np.ndarray:
    """The corrupted images before they are clipped and rounded."""
    corruption = CORRUPTIONS.parse(text)
    levels = corruption.small if x.shape[2] <= 64 else corruption.large
    draws = Draws(RowRandom(0, "test", [(sample,) for sample in range(len(x))]), len(x))
    return corruption.apply(x, levels[corruption.severity - 1], draws)


def ramp(shape: tuple[int, int, int], n: int = 40) -> np.ndarray:
    """Every value from 0 to 1."""
    return np.tile(np.linspace(0, 1, shape[2]), (n, shape[0], shape[1], 1))


@pytest.mark.parametrize(
    ("shape", "deviations"), [(SMALL, (0.04, 0.06, 0.08, 0.09, 0.10)), (LARGE, (0.08, 0.12, 0.18, 0.26, 0.38))]
)
def test_gaussian_noise_is_normal(shape: tuple[int, int, int], deviations: tuple[float, ...]) -> None:
    x = ramp(shape)
    for severity, deviation in enumerate(deviations, 1):
        noise = (raw(f"gaussian_noise:severity={severity}", x) - x) / deviation
        assert noise.mean() == pytest.approx(0, abs=0.02)  # standard error 1 / sqrt(122,880) = 0.003
        assert noise.std() == pytest.approx(1, abs=0.02)
        assert stats.kstest(noise.ravel()[:5000], "norm").pvalue > 0.001


@pytest.mark.parametrize("shape", [SMALL, LARGE])
@pytest.mark.parametrize("severity", [1, 5])
def test_shot_noise_counts_photons(shape: tuple[int, int, int], severity: int) -> None:
    """A Poisson count of mean c x has variance c x, so x + noise has mean x and variance x / c."""
    photons = {(SMALL, 1): 500, (SMALL, 5): 50, (LARGE, 1): 60, (LARGE, 5): 3}[shape, severity]
    x = ramp(shape)
    counts = photons * raw(f"shot_noise:severity={severity}", x)
    assert np.allclose(counts, np.rint(counts))
    columns = np.arange(4, shape[2], 5)
    for column in columns:
        values, mean = counts[..., column] / photons, x[0, 0, 0, column]
        assert values.mean() == pytest.approx(mean, abs=5 * np.sqrt(mean / photons / values.size))
        assert values.var() == pytest.approx(mean / photons, rel=0.2)
    assert (counts[..., 0] == 0).all(), "black stays black"


@pytest.mark.parametrize(
    ("shape", "shares"), [(SMALL, (0.01, 0.02, 0.03, 0.05, 0.07)), (LARGE, (0.03, 0.06, 0.09, 0.17, 0.27))]
)
def test_impulse_noise_is_salt_and_pepper(shape: tuple[int, int, int], shares: tuple[float, ...]) -> None:
    x = np.full((40, *shape), 0.5)
    for severity, share in enumerate(shares, 1):
        corrupted = raw(f"impulse_noise:severity={severity}", x)
        assert set(np.unique(corrupted)) == {0.0, 0.5, 1.0}
        error = 5 * np.sqrt(share / x.size)
        assert (corrupted == 1).mean() == pytest.approx(share / 2, abs=error)
        assert (corrupted == 0).mean() == pytest.approx(share / 2, abs=error)
        hit = corrupted != 0.5
        alone = (hit.sum(1) == 1).mean()  # channels are independent: 3 s (1 - s)^2
        assert alone == pytest.approx(3 * share * (1 - share) ** 2, abs=3 * error)


@pytest.mark.parametrize(
    ("shape", "deviations"), [(SMALL, (0.06, 0.10, 0.12, 0.16, 0.20)), (LARGE, (0.15, 0.20, 0.35, 0.45, 0.60))]
)
def test_speckle_noise_grows_with_the_value(shape: tuple[int, int, int], deviations: tuple[float, ...]) -> None:
    x = ramp(shape)
    for severity, deviation in enumerate(deviations, 1):
        corrupted = raw(f"speckle_noise:severity={severity}", x)
        factor = corrupted[..., 1:] / x[..., 1:] - 1
        assert factor.mean() == pytest.approx(0, abs=0.01)
        assert factor.std() == pytest.approx(deviation, rel=0.02)
        assert (corrupted[..., 0] == 0).all()
