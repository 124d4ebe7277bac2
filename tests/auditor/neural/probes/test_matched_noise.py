"""Noise of the size of a perturbation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.neural.probes.matched_noise import matched_noise


def norms(delta: torch.Tensor) -> torch.Tensor:
    return delta.flatten(1).norm(dim=1)


def test_the_norm_after_the_cut_is_that_of_the_perturbation() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 3, 5, 5, generator=generator, dtype=torch.float64).round(decimals=1)  # some pixels at 0 and 1
    sizes = torch.tensor([1e-4, 0.03, 0.1, 0.3, 0.6, 0.0], dtype=torch.float64).view(-1, 1, 1, 1)
    x_adv = (x + sizes * torch.randn(x.shape, generator=generator, dtype=torch.float64).sign()).clamp(0, 1)
    noisy = matched_noise(x, x_adv, np.arange(6), seed=0)
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    assert norms(noisy - x).tolist() == pytest.approx(norms(x_adv - x).tolist(), rel=1e-9, abs=1e-12)
    assert torch.equal(noisy[5], x[5])
    in_float32 = matched_noise(x.float(), x_adv.float(), np.arange(6), seed=0)
    assert in_float32.dtype == torch.float32
    assert norms(in_float32 - x.float()).tolist() == pytest.approx(norms(x_adv.float() - x.float()).tolist(), rel=1e-4)


def test_away_from_the_box_it_is_the_scaled_noise() -> None:
    x = torch.full((1, 1, 20, 20), 0.5, dtype=torch.float64)
    delta = matched_noise(x, x + 0.01, np.array([3]), seed=1) - x
    assert norms(delta).item() == pytest.approx(0.01 * 20)
    assert abs(delta.mean().item()) < 0.002  # standard error 0.01 / 20
    assert delta.std().item() == pytest.approx(0.01, rel=0.01)
    kurtosis = (delta**4).mean() / (delta**2).mean() ** 2
    assert 2.2 < kurtosis < 3.8  # 3 for a normal distribution, 1.8 for a uniform one


def test_noise_belongs_to_the_sample_and_not_to_the_batch() -> None:
    x = torch.rand(4, 3, 4, 4, dtype=torch.float64)
    x_adv = (x + 0.1).clamp(0, 1)
    ids = np.array([7, 3, 9, 1])
    whole = matched_noise(x, x_adv, ids, seed=0)
    alone = matched_noise(x[2:3], x_adv[2:3], ids[2:3], seed=0)
    assert torch.equal(whole[2:3], alone)
    assert not torch.equal(whole, matched_noise(x, x_adv, ids, seed=1))


def test_where_no_noise_is_as_large_the_largest_is_used() -> None:
    """From 0.1 to 1 everywhere: noise is cut at 0 as often as at 1, and 0 is not far enough."""
    x = torch.full((1, 1, 2, 2), 0.1, dtype=torch.float64)
    noisy = matched_noise(x, torch.ones_like(x), np.array([0]), seed=0)
    assert set(noisy.flatten().tolist()) <= {0.0, 1.0}
