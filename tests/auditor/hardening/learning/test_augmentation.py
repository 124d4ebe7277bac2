"""Crops and flips, pixel by pixel, and whose they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditor.hardening.learning.augmentation import Augmentation, Augmenter, crop_padding, shifted

X = torch.rand(40, 2, 28, 28, generator=torch.Generator().manual_seed(0))


def test_the_frame_has_four_pixels_for_28_and_32() -> None:
    assert [crop_padding(side) for side in (6, 28, 32, 64)] == [1, 4, 4, 8]


def test_a_crop_moves_the_image_and_lets_black_in() -> None:
    draws = torch.tensor([[0.5, 0.5], [0.0, 0.999], [0.999, 0.3]])
    moved = shifted(X[:3], draws)
    # 9 places each way: 0.5 is place 4, the middle; 0.999 is place 8, 0.3 is place 2.
    for image, (down, right) in enumerate([(0, 0), (-4, 4), (4, -2)]):
        for i in range(28):
            for j in range(28):
                inside = 0 <= i + down < 28 and 0 <= j + right < 28
                expected = X[image, :, i + down, j + right] if inside else torch.zeros(2)
                assert torch.equal(moved[image, :, i, j], expected)


def test_a_rows_crop_and_flip_belong_to_the_epoch_and_not_to_the_batch() -> None:
    augment = Augmenter("crop_flip", 40, seed=1)
    rows = np.arange(40)
    whole = augment(X, rows, 0)
    parts = torch.cat([augment(X[part], part, 0) for part in (rows[:7], rows[7:])])
    assert torch.equal(whole, parts)
    assert not torch.equal(whole, augment(X, rows, 1))
    assert torch.equal(whole, Augmenter("crop_flip", 40, seed=1)(X, rows, 0))
    assert not torch.equal(whole, Augmenter("crop_flip", 40, seed=2)(X, rows, 0))


def test_none_changes_nothing_and_crop_never_flips() -> None:
    assert Augmenter("none", 40, 0)(X, np.arange(40), 0) is X
    ramp = torch.linspace(0.1, 1, 28).expand(40, 1, 28, 28)
    shares: tuple[tuple[Augmentation, float], ...] = (("crop", 0.0), ("crop_flip", 0.5))
    for kind, share in shares:
        found = Augmenter(kind, 40, 0)(ramp, np.arange(40), 0)
        middle = found[:, 0, 14, 8:20]
        flipped = (middle.diff(dim=1) < 0).all(1).double().mean()
        assert flipped == pytest.approx(share, abs=0.25)
        assert (flipped > 0) == (share > 0)


def test_every_place_is_as_likely() -> None:
    augment = Augmenter("crop", 9000, seed=0)
    dot = torch.zeros(9000, 1, 28, 28)
    dot[:, :, 14, 14] = 1
    places = augment(dot, np.arange(9000), 0).flatten(1).argmax(1)
    counts = torch.bincount((places // 28 - 10) * 9 + places % 28 - 10, minlength=81)
    # 81 places, 111 images each on average; a deviation of 10.5.
    assert counts.min() > 60
    assert counts.max() < 165
