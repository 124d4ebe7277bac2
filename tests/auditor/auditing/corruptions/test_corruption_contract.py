"""What every corruption of the catalogue keeps to, whoever adds it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from auditor.auditing.corruption import CORRUPTIONS, SEVERITIES, CorruptedDataset, Corruption
from auditor.kit.errors import SpecError
from auditor.models.dataset import ImageDataset
from tests.auditor.auditing.corruptions.pictures import SHAPES, pictures

NOT_MONOTONE = {
    "elastic": "from severity 1 to 5 the affine part shrinks while the displacements grow rougher",
    "frost": "the image's own share falls with the frost's rising one, so that bright images change less",
    "glass_blur": "severity 3 blurs more than 2, but shuffles alike; 4 blurs less than 3",
    "saturate": "severities 1 and 2 take colour away, 3 to 5 add some",
    "spatter": "1 to 3 are water, 4 and 5 are mud",
}
"""Whose mean squared change need not grow with the severity, and why."""

combinations = pytest.mark.parametrize(
    ("member", "shape"),
    [(member, shape) for member in CORRUPTIONS for shape in SHAPES if shape[0] in member.channels],
    ids=lambda value: "x".join(map(str, value)) if isinstance(value, tuple) else value.kind_name(),
)
members = pytest.mark.parametrize("member", list(CORRUPTIONS), ids=lambda member: member.kind_name())


def each(member: type[Corruption]) -> tuple[Corruption, ...]:
    return member(kind=member.kind_name()).each()


@combinations
def test_images_stay_images(member: type[Corruption], shape: tuple[int, int, int]) -> None:
    x = pictures(shape, 3)
    before = x.clone()
    for corruption in each(member):
        corrupted = corruption.corrupt(x, [5, 6, 7], seed=0)
        assert corrupted.shape == x.shape
        assert corrupted.dtype == x.dtype
        assert corrupted.min() >= 0
        assert corrupted.max() <= 1
        assert torch.equal((255 * corrupted).round() / 255, corrupted), "on the grid of uint8"
        assert not torch.equal(corrupted, x)
    assert torch.equal(x, before)


@combinations
def test_the_seed_and_the_sample_make_it_not_the_batch(member: type[Corruption], shape: tuple[int, int, int]) -> None:
    x, samples = pictures(shape, 5), [3, 14, 15, 92, 65]
    for severity in (2, 5):
        corruption = member(kind=member.kind_name(), severity=severity)
        whole = corruption.corrupt(x, samples, seed=1)
        assert torch.equal(whole, corruption.corrupt(x, samples, seed=1))
        parts = [corruption.corrupt(x[index : index + 2], samples[index : index + 2], seed=1) for index in (0, 2, 4)]
        assert torch.equal(whole, torch.cat(parts))
        order = [4, 2, 0, 1, 3]
        assert torch.equal(whole[order], corruption.corrupt(x[order], [samples[index] for index in order], seed=1))


@members
def test_another_seed_is_another_draw_where_there_is_one(member: type[Corruption]) -> None:
    corruption, x = member(kind=member.kind_name(), severity=5), pictures((3, 32, 32), 1)
    twice = x.repeat(2, 1, 1, 1)
    first, second = corruption.corrupt(twice, [0, 1], seed=0)
    other = corruption.corrupt(x, [0], seed=1)[0]
    assert torch.equal(first, second) == torch.equal(first, other)


@combinations
def test_a_higher_severity_changes_more(member: type[Corruption], shape: tuple[int, int, int]) -> None:
    if member.kind_name() in NOT_MONOTONE:
        pytest.skip(NOT_MONOTONE[member.kind_name()])
    x = pictures(shape, 24)
    change = [float((corruption.corrupt(x, range(24), seed=0) - x).square().mean()) for corruption in each(member)]
    for weaker, stronger in pairwise(change):
        assert stronger >= 0.99 * weaker, change
    assert change[-1] > 1.4 * change[0]


@members
def test_both_sets_have_five_levels_and_the_side_decides(member: type[Corruption]) -> None:
    assert len(member.small) == len(member.large) == len(SEVERITIES)
    seen: list[object] = []

    class Spy(member):  # type: ignore[misc, valid-type]  # each member in turn
        def apply(self, x: np.ndarray, level: object, draws: object) -> np.ndarray:
            seen.append(level)
            return x

    for side in (64, 65):
        Spy(severity=3).corrupt(torch.rand(1, 3, side, 100), [0], seed=0)
    assert seen == [member.small[2], member.large[2]]


@members
def test_flat_and_tiny_images_are_no_trouble(member: type[Corruption]) -> None:
    for value in (0.0, 1.0):
        for shape in ((3, 6, 6), (3, 5, 9), (3, 70, 66)):
            corrupted = each(member)[4].corrupt(torch.full((2, *shape), value), [0, 1], seed=0)
            assert corrupted.isfinite().all()


@members
def test_what_it_cannot_take_is_refused(member: type[Corruption]) -> None:
    corruption = member(kind=member.kind_name(), severity=1)
    for channels in {1, 2, 3, 4} - member.channels:
        with pytest.raises(SpecError, match=rf"{corruption.kind} takes images with .* channels, these have {channels}"):
            corruption.corrupt(torch.rand(1, channels, 32, 32), [0], seed=0)
    with pytest.raises(SpecError, match="expected a severity from 1 to 5, got 0"):
        member(kind=member.kind_name()).corrupt(torch.rand(1, 3, 32, 32), [0], seed=0)
    with pytest.raises(SpecError, match="severity: expected less than or equal to 5, got '6'"):
        CORRUPTIONS.parse(f"{corruption.kind}:severity=6")


def test_colour_is_needed_only_for_saturation() -> None:
    assert {member.kind_name() for member in CORRUPTIONS if 1 not in member.channels} == {"saturate"}


def test_severity_zero_means_all_five() -> None:
    fog = CORRUPTIONS.parse("fog")
    assert [single.severity for single in fog.each()] == [1, 2, 3, 4, 5]
    assert CORRUPTIONS.parse("fog:severity=3").each() == (CORRUPTIONS.parse("fog:severity=3"),)


def test_a_corrupted_data_set_is_the_same_samples() -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    data = ImageDataset(images, np.arange(20) % 3, ["a", "b", "c"], name="noise")
    noise = CORRUPTIONS.parse("gaussian_noise:severity=4")
    corrupted = CorruptedDataset(data, noise, seed=7)
    ids = np.array([3, 8, 19])
    assert torch.equal(corrupted.images(ids), noise.corrupt(data.images(ids), ids, seed=7))
    batches = list(corrupted.batches(ids, 2))
    assert torch.equal(torch.cat([batch.images for batch in batches]), corrupted.images(ids))
    assert np.array_equal(corrupted.labels, data.labels)
    assert (len(corrupted), corrupted.shape, corrupted.class_names) == (20, (3, 32, 32), ("a", "b", "c"))
