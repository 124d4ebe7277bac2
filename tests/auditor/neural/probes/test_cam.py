"""Grad-CAM split in two against the plain sums in numpy, and the picture of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.neural.probes.cam import SplitCam, overlay, split_cam
from auditor.neural.probes.layer_gradient import Slope

RANDOM = torch.Generator().manual_seed(0)
SLOPE = Slope(*(torch.randn(3, 5, 4, 6, generator=RANDOM, dtype=torch.float64) for _ in range(2)))


@pytest.mark.parametrize("own", [False, True])
def test_both_maps_equal_the_plain_sums(own: bool) -> None:
    inside = torch.tensor([[1, 0, 0, 1, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 1]]).bool() if own else torch.arange(5) < 2
    found = split_cam(SLOPE, inside)
    output, gradient = (item.numpy() for item in SLOPE)
    for image in range(3):
        sums = {True: np.zeros((4, 6)), False: np.zeros((4, 6))}
        for channel in range(5):
            weight = gradient[image, channel].sum() / 24
            member = bool(inside[image, channel] if own else inside[channel])
            sums[member] += weight * output[image, channel]
        maps = {member: np.maximum(values, 0) for member, values in sums.items()}
        assert np.allclose(found.inside[image], maps[True], rtol=1e-12)
        assert np.allclose(found.outside[image], maps[False], rtol=1e-12)
        mass = {member: values.sum() for member, values in maps.items()}
        assert float(found.share[image]) == pytest.approx(mass[True] / (mass[True] + mass[False]), rel=1e-12)
        scale = max(maps[True].max(), maps[False].max())
        assert np.allclose(found.normalized().inside[image], maps[True] / scale)
        assert np.allclose(found.normalized().outside[image], maps[False] / scale)


def test_no_mass_at_all() -> None:
    nothing = SplitCam(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2))
    assert torch.isnan(nothing.share).all()
    assert not nothing.normalized().inside.any()


def test_the_picture_is_half_image_half_heat() -> None:
    x = torch.full((3, 4, 4), 0.5)
    heat = torch.tensor([[0.0, 1 / 3, 2 / 3, 1.0]] * 4)
    # Heat 0: black; 1/3: red; 2/3: yellow; 1: white; each averaged with grey 0.5.
    expected = [[0.25, 0.25, 0.25], [0.75, 0.25, 0.25], [0.75, 0.75, 0.25], [0.75, 0.75, 0.75]]
    assert torch.allclose(overlay(x, heat)[:, 0].T, torch.tensor(expected), atol=1e-6)
    assert overlay(torch.zeros(1, 8, 8), heat).shape == (3, 8, 8)
