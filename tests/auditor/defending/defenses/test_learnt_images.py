"""Sparse transformation and super resolution: optimality conditions, closed forms, and what was learnt."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import l1_loss

from auditor.defending.defenses.sparse_transformation import SparseTransformation
from auditor.defending.defenses.super_resolution import SuperResolution, bicubic
from auditor.defending.sparse_coding import Filters, better_filters, low_part, sparse_code
from auditor.defending.wavelets import haar, inverse_haar, shrunk
from auditor.kit.errors import MismatchError
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.models.dataset import ImageDataset
from tests.nets import small_classifier, small_cnn

SIDE = 16


def pictures(count: int = 6, side: int = SIDE, seed: int = 0) -> Tensor:
    """Edges and blobs: what a few filters can say."""
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((count, 3, side, side))
    smooth = ndimage.gaussian_filter(noise, (0, 0, 1.5, 1.5))
    return torch.from_numpy(1 / (1 + np.exp(-12 * smooth)))


def classifier_of(side: int = SIDE) -> Classifier:
    shape = (3, side, side)
    return Classifier(small_cnn(shape=shape), input_shape=shape, num_classes=5, normalization=NORMALIZATIONS["half"])


def stored(x: Tensor) -> ImageDataset:
    images = (255 * x).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    return ImageDataset(images, np.zeros(len(x), np.int64))


def test_the_smooth_part_is_where_the_derivative_is_zero() -> None:
    """Of || s - x ||^2 + w || grad s ||^2 on the mirrored image: (s - x) + w (-laplace s) = 0, the edge repeated."""
    x, weight = pictures(2, 40), 5.0
    s = low_part(x, weight)
    laplace = ndimage.convolve(s.numpy(), np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None], mode="reflect")
    assert np.abs(s.numpy() - x.numpy() - weight * laplace).max() < 1e-3, (
        "but for the seam of the padding, 16 pixels away"
    )


def test_the_code_meets_the_optimality_conditions() -> None:
    """Of 1/2 || D x - s ||^2 + w || x ||_1: D^T (D x - s) = -w sign x where x is not zero, at most w in size elsewhere."""
    filters = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    filters /= filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    high = pictures(2) - low_part(pictures(2), 5.0)
    spectrum, weight = Filters.of(filters, (SIDE, SIDE)), 0.1
    maps = sparse_code(high, spectrum, weight, 1500, 1e-9)
    miss = spectrum.synthesis(maps) - high
    slope = torch.fft.irfft2(
        torch.einsum("kchw,bchw->bkhw", spectrum.spectrum.conj(), torch.fft.rfft2(miss)), s=(SIDE, SIDE)
    )
    used = maps != 0
    assert 0.01 < used.double().mean() < 0.5
    assert torch.allclose(slope[used], -weight * maps.sign()[used], atol=1e-5)
    assert slope.abs().amax() <= weight + 1e-5


def test_synthesis_is_the_circular_convolution() -> None:
    filters = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    maps = torch.randn(1, 2, 8, 8, dtype=torch.float64)
    expected = np.zeros((3, 8, 8))
    for k in range(2):
        for c in range(3):
            for i in range(4):
                for j in range(4):
                    expected[c] += filters[k, c, i, j].item() * np.roll(maps[0, k].numpy(), (i, j), (0, 1))
    assert np.allclose(Filters.of(filters, (8, 8)).synthesis(maps)[0].numpy(), expected)


def test_an_images_code_does_not_wait_for_the_others() -> None:
    filters = Filters.of(torch.randn(5, 3, 4, 4, dtype=torch.float64) / 7, (SIDE, SIDE))
    high = pictures(3) - low_part(pictures(3), 5.0)
    high[1] *= 0.01
    together = sparse_code(high, filters, 0.02, 50, 0.01)
    alone = torch.cat([sparse_code(item[None], filters, 0.02, 50, 0.01) for item in high])
    assert torch.allclose(together, alone, atol=1e-10)


def test_the_filters_get_better_and_stay_short() -> None:
    filters = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    filters /= filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    high = pictures(4) - low_part(pictures(4), 5.0)
    maps = sparse_code(high, Filters.of(filters, (SIDE, SIDE)), 0.05, 50, 1e-4)

    def miss(candidate: Tensor) -> float:
        return float((Filters.of(candidate, (SIDE, SIDE)).synthesis(maps) - high).square().sum())

    steps = [filters]
    for _ in range(5):
        steps.append(better_filters(steps[-1], maps, high, 1))
    assert all(miss(later) < miss(earlier) for earlier, later in pairwise(steps))
    assert steps[-1].flatten(1).norm(dim=1).max() <= 1 + 1e-9


def test_learnt_filters_say_more_than_random_ones() -> None:
    classifier, x = classifier_of(), pictures(32)
    held_out = x[24:].float()
    misses = []
    for images, epochs in ((24, 3), (1, 1)):
        defense = SparseTransformation(filters=8, side=5, epochs=epochs, weight=0.05, images=images, steps=50)
        state = defense.fit(classifier, stored(x), np.arange(24), seed=0)
        passing = defense.wrap(classifier, state).passing(held_out)
        misses.append(float((defense.changed(classifier, held_out, passing) - held_out).square().mean()))
        if images > 1:
            assert state.facts["last_miss"] < state.facts["first_miss"]
    assert misses[0] < 0.95 * misses[1]


def test_the_authors_brightness_is_a_division_by_the_maximum() -> None:
    classifier, x = classifier_of(), 0.5 * pictures(8).float()
    parts = {}
    for brightness in ("clip", "maximum"):
        defense = SparseTransformation(filters=4, side=4, images=4, epochs=1, brightness=brightness)
        model = defense.wrap(classifier, defense.fit(classifier, stored(x), np.arange(8), seed=0))
        parts[brightness] = defense.changed(classifier, x, model.passing(x))
    assert parts["clip"].amax() < 0.7
    assert torch.allclose(parts["maximum"].amax((1, 2, 3)), torch.ones(8))


def test_images_too_small_are_declined() -> None:
    with pytest.raises(MismatchError, match="at least 8 pixels"):
        SparseTransformation(side=4).check(small_classifier())
    with pytest.raises(MismatchError, match="4 times smaller"):
        SuperResolution(scale=4).check(small_classifier())


def test_haar_keeps_the_energy_and_comes_back() -> None:
    x = torch.randn(2, 3, 8, 6, dtype=torch.float64)
    bands = haar(x)
    assert sum(float(band.square().sum()) for band in bands) == pytest.approx(float(x.square().sum()))
    assert torch.allclose(inverse_haar(*bands), x)
    assert torch.allclose(shrunk(x[:, :, :7, :5], 0.0, 2), x[:, :, :7, :5], atol=1e-9), (
        "odd sides, and nothing to remove"
    )


def test_shrinking_by_hand() -> None:
    """One block (1, 0; 0, 0): details of 1/2 each, sigma 0.3: signal sqrt(.25 - .09) = .4, threshold .09 / .4 = .225, so
    details of .275; the image is ((.5 + 3 * .275), (.5 - .275), ...) / 2 = .6625, .1125, .1125, .1125."""
    x = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64).view(1, 1, 2, 2)
    expected = torch.tensor([0.6625, 0.1125, 0.1125, 0.1125], dtype=torch.float64)
    assert torch.allclose(shrunk(x, 0.3, 1).flatten(), expected)


def test_shrinking_removes_noise() -> None:
    clean = pictures(4, 32)
    noisy = clean + 0.05 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (shrunk(noisy, 0.05, 2) - clean).square().mean() < 0.9 * (noisy - clean).square().mean()


def test_the_enlarging_network_learns_more_than_bicubic() -> None:
    classifier, x = classifier_of(), pictures(80)
    defense = SuperResolution(blocks=1, features=12, steps=60, batch=8)
    state = defense.fit(classifier, stored(x), np.arange(64), seed=0)
    large = x[64:].float()
    small = torch.nn.functional.avg_pool2d(large, 2)
    network = defense._network(3)
    network.load_state_dict(state.tensors)
    with torch.no_grad():
        assert l1_loss(network(small), large) < 0.95 * l1_loss(bicubic(small, 2), large), (
            "on images it was not trained on"
        )
    assert state.facts["last"] < state.facts["bicubic"]
    again = defense.fit(classifier, stored(x), np.arange(64), seed=0)
    assert all(torch.equal(value, again.tensors[name]) for name, value in state.tensors.items())
