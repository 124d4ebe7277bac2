"""PSNR, TKNC, and paired tests with their correction, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.defending.metrics import holm, leading_in_common, mean_of_finite, paired_tests, psnr
from auditor.kit.errors import MismatchError
from tests.narrow import sequence
from tests.nets import deeper_classifier, labelled


def test_psnr_by_hand() -> None:
    """All values 0.1 apart: MSE 0.01, 10 log10(1 / 0.01) = 20 dB; as printed, 20 log10(1 / 0.01) = 40."""
    x = torch.full((1, 3, 4, 4), 0.5, dtype=torch.float64)
    assert psnr(x, x + 0.1).item() == pytest.approx(20)
    assert psnr(x, x + 0.1, literal=True).item() == pytest.approx(40)
    assert psnr(x, x).item() == float("inf")
    assert mean_of_finite(psnr(x, x)) is None
    assert mean_of_finite(torch.tensor([1.0, 3.0, float("inf")])) == 2


def test_leading_neurons_in_common_by_sets() -> None:
    classifier = deeper_classifier().double()
    data = labelled(classifier, 12)
    x, y = data.images(np.arange(6)).double(), data.images(np.arange(6, 12)).double()

    def leading(image: torch.Tensor) -> set[int]:
        features = torch.nn.Sequential(*list(sequence(classifier))[:10])
        z = features(classifier.normalize(image[None])).detach().requires_grad_()
        (slope,) = torch.autograd.grad(sequence(classifier)[10](z).softmax(1).max(), z)
        influence = (slope * z)[0].tolist()
        return set(sorted(range(12), key=lambda neuron: (-influence[neuron], neuron))[:4])

    expected = [len(leading(a) & leading(b)) / len(leading(a) | leading(b)) for a, b in zip(x, y, strict=True)]
    assert leading_in_common(classifier, x, y, 4).tolist() == pytest.approx(expected)
    assert leading_in_common(classifier, x, x, 4).tolist() == [1.0] * 6


def test_holm_by_hand() -> None:
    """p = .01, .04, .03: sorted .01 x 3 = .03, .03 x 2 = .06, .04 x 1 = .04 but no less than .06."""
    assert holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.6, 0.9])).tolist() == [1, 1]


def test_paired_tests_by_hand() -> None:
    """Differences .1, .2, .3: mean .2, deviation .1, t = .2 / (.1 / sqrt 3) = 3.4641; two-sided p with 2 degrees of freedom is
    1 - t / sqrt(t^2 + 2) = .0742; twice that for two tests."""
    (found, other) = paired_tests([("a", [0.6, 0.8, 1.0], [0.5, 0.6, 0.7]), ("b", [0.5, 0.5], [0.5, 0.5])])
    assert found.difference == pytest.approx(0.2)
    assert found.t == pytest.approx(12**0.5)
    assert found.p == pytest.approx(1 - 12**0.5 / 14**0.5)
    assert found.adjusted == pytest.approx(2 * found.p)
    assert (other.difference, other.p, other.adjusted) == (0, 1, 1)
    assert paired_tests([("a", [0.5, 0.6], [0.4, 0.5])])[0].p == pytest.approx(0, abs=1e-12)
    with pytest.raises(MismatchError, match="2 or more attacks"):
        paired_tests([("a", [0.5], [0.4])])
