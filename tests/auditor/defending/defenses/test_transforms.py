"""Defenses that change the image, beside the Adversarial Robustness Toolbox, scipy and formulas written anew."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import fft, optimize
from torch import Tensor

from auditor.defending.defense import DEFENSES, ImageDefense
from auditor.defending.defenses.feature_distillation import FeatureDistillation
from auditor.defending.defenses.total_variation import TotalVarianceMinimization, objective
from auditor.kit.colour import from_luma_chroma, to_luma_chroma
from auditor.models.defended import NOTHING, DefendedClassifier, Passing
from auditor.models.drawing import View
from auditor.models.preflight import no_gradient
from tests.auditor.defending.defenses.small import behind, images, network
from tests.late import late

preprocessor = late("art.defences.preprocessor")


def pictures(channels: int = 3, side: int = 12, count: int = 6) -> Tensor:
    """Smooth pictures with some noise, in [0, 1]."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (side, side + 1), mode="bilinear")
    return (smooth + 0.05 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)


def changed(text: str, x: Tensor, seed: int = 0) -> Tensor:
    defense = DEFENSES.parse(text)
    assert isinstance(defense, ImageDefense)
    return defense.changed(network(), x, Passing(NOTHING, View(), seed, 0, x))


@pytest.mark.parametrize("window", [2, 3, 4, 5])
def test_spatial_smoothing_is_that_of_art(window: int) -> None:
    x = pictures()
    expected, _ = preprocessor.SpatialSmoothing(window_size=window, channels_first=True)(x.numpy())
    assert np.array_equal(changed(f"spatial-smoothing:window={window}", x).numpy(), expected)


@pytest.mark.parametrize("bits", [1, 4, 5, 8])
def test_bit_depth_reduction_is_that_of_art(bits: int) -> None:
    x = pictures().double()
    expected, _ = preprocessor.FeatureSqueezing(clip_values=(0.0, 1.0), bit_depth=bits)(x.numpy())
    assert np.allclose(changed(f"bit-depth:bits={bits}", x).numpy(), expected, atol=1e-12)


def test_eight_bits_do_nothing_to_the_images_of_a_file() -> None:
    x = (255 * pictures()).round() / 255
    assert torch.allclose(changed("bit-depth:bits=8", x), x, atol=1e-7)


@pytest.mark.parametrize(("channels", "quality"), [(3, 80), (3, 30), (1, 80), (4, 80)])
def test_jpeg_is_that_of_art_which_cuts_off(channels: int, quality: int) -> None:
    x = pictures(channels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, at ART's way to call it
        expected, _ = preprocessor.JpegCompression(clip_values=(0, 1), quality=quality, channels_first=True)(x.numpy())
    assert np.allclose(changed(f"jpeg:quality={quality},rounding=down", x).numpy(), expected, atol=1e-6)
    assert not np.allclose(changed(f"jpeg:quality={quality}", x).numpy(), expected, atol=1e-6), (
        "ours rounds to the nearest"
    )


def test_the_derivative_of_the_total_variation_is_the_numeric_one_and_that_of_art_twice_it() -> None:
    rng = np.random.default_rng(0)
    x, z, mask = rng.random((5, 6)), rng.random((5, 6)), (rng.random((5, 6)) < 0.5).astype(float)
    value, gradient = objective(z.ravel(), x, mask, 0.1)
    assert value == pytest.approx(preprocessor.TotalVarMin._loss_func(z.ravel(), x, mask, 2, 0.1), rel=1e-12)
    numeric = optimize.approx_fprime(z.ravel(), lambda point: objective(point, x, mask, 0.1)[0], 1e-7)
    assert np.allclose(gradient, numeric, atol=1e-6)
    theirs = preprocessor.TotalVarMin._deri_loss_func(z.ravel(), x, mask, 2, 0.1)
    assert np.allclose(objective(z.ravel(), x, mask, 0.1, slope=2.0)[1], theirs, atol=1e-12)
    data = objective(z.ravel(), x, mask, 1e-12)[1]
    assert np.allclose((theirs - data)[gradient != data], 2 * (gradient - data)[gradient != data], atol=1e-9)


def test_the_steps_are_those_of_art_with_its_gradient_and_go_lower_with_the_true_one() -> None:
    rng = np.random.default_rng(0)
    image = pictures(side=10).double().numpy()[0]
    mask = (rng.random(image.shape) < 0.5).astype(float)
    theirs = preprocessor.TotalVarMin(prob=0.5, lamb=0.1)._minimize(image.transpose(1, 2, 0), mask.transpose(1, 2, 0))
    ours = {flag: TotalVarianceMinimization(art_gradient=flag).minimized(image, mask) for flag in (True, False)}
    assert np.allclose(ours[True], theirs.transpose(2, 0, 1), atol=1e-8)

    def reached(z: np.ndarray) -> float:
        return sum(objective(z[c].ravel(), image[c], mask[c], 0.1)[0] for c in range(3))

    assert reached(ours[False]) < reached(ours[True]) < reached(image)


def test_total_variance_minimization_smooths_what_the_mask_leaves_free() -> None:
    x = pictures()
    assert torch.allclose(changed("tvm:kept=1,weight=1e-6,steps=3", x), x, atol=1e-4), (
        "nothing to fill in, nothing to smooth"
    )
    smooth = changed("tvm", x)
    variation = (smooth.diff(dim=2).abs().sum() + smooth.diff(dim=3).abs().sum()).item()
    assert variation < 0.9 * (x.diff(dim=2).abs().sum() + x.diff(dim=3).abs().sum()).item()


def by_hand(x: np.ndarray, table: np.ndarray) -> np.ndarray:
    """One channel (16, 16) in [0, 1], block by block with scipy's transform."""
    out = np.zeros_like(x)
    for row in range(0, 16, 8):
        for column in range(0, 16, 8):
            spectrum = fft.dctn(255 * x[row : row + 8, column : column + 8] - 128, norm="ortho")
            for i in range(8):
                for j in range(8):
                    spectrum[i, j] = np.rint(spectrum[i, j] / table[i, j]) * table[i, j]
            out[row : row + 8, column : column + 8] = (fft.idctn(spectrum, norm="ortho") + 128) / 255
    return out.clip(0, 1)


@pytest.mark.parametrize(("factor", "low", "high"), [(50, 1.5, 41.5), (25, 2.5, 82.5), (75, 1.0, 21.0)])
def test_feature_distillation_block_by_block(factor: int, low: float, high: float) -> None:
    """Steps q = 1 and 41 at factor f: (q s + 50) / 100, at least 1, with s = 5000 / f below 50 and 200 - 2 f from there on:
    f = 50: s = 100, 1.5 and 41.5; f = 25: s = 200, 2.5 and 82.5; f = 75: s = 50, 1 and 21."""
    i, j = np.indices((8, 8))
    table = np.where(i + j < 5, low, high)
    assert int((table == low).sum()) == 15
    x = torch.rand(2, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got = changed(f"feature-distillation:factor={factor}", x)
    for row in range(2):
        assert np.allclose(got[row, 0].numpy(), by_hand(x[row, 0].numpy(), table), atol=1e-12)


def test_factor_100_rounds_and_distils_nothing() -> None:
    assert (FeatureDistillation(factor=100).table() == 1).all()
    x = pictures(side=16).double()
    assert (changed("feature-distillation:factor=100", x) - x).abs().mean() < 1 / 255
    assert (changed("feature-distillation:factor=50", x) - x).abs().mean() > 2 / 255


def test_sides_that_are_no_multiples_of_eight_are_continued_by_their_edge() -> None:
    x = torch.full((1, 1, 11, 13), 0.5)
    assert torch.allclose(changed("feature-distillation", x), x, atol=1.0 / 255)


def test_colours_come_back_and_grey_has_none() -> None:
    x = pictures().double()
    assert torch.allclose(from_luma_chroma(to_luma_chroma(x)), x, atol=1e-12)
    grey = torch.full((1, 3, 2, 2), 0.3, dtype=torch.float64)
    expected = torch.tensor([0.3, 128 / 255, 128 / 255], dtype=torch.float64).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert torch.allclose(to_luma_chroma(grey), expected)


def test_controls_are_of_the_size_that_they_are_told() -> None:
    x = torch.full((4, 3, 32, 32), 0.5)
    noise = changed("gaussian-noise:size=0.02", x) - x
    assert noise.std() == pytest.approx(0.02, rel=0.03)
    step = changed("random-direction:size=0.02", x) - x
    assert torch.allclose(step.square().mean((1, 2, 3)).sqrt(), torch.full((4,), 0.02), rtol=1e-5)
    span = (changed("gaussian-noise:scale=nip", 0.5 * x) - 0.5 * x).flatten(1)
    assert torch.allclose(span.amax(1) - span.amin(1), torch.full((4,), 0.25), rtol=1e-4), "the mean of the image"


@pytest.mark.parametrize("kind", ["bit-depth", "jpeg"])
def test_a_defense_that_only_hides_gradients_is_flagged(kind: str) -> None:
    model = behind(DEFENSES.build(kind, {}))
    x = images(network()).images(np.arange(8))
    assert flags(model, x) == {"severe"}
    assert flags(model.seen(View(adaptive=True)), x) == set()


def flags(model: DefendedClassifier, x: Tensor) -> set[str]:
    return {flag.severity for flag in no_gradient(model, x).flags}
