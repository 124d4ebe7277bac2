"""SPSA, NAttack and the one-pixel attack beside their formulas in plain form, and beside others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchattacks
from torch import Tensor

from auditor.attacking.attacks.one_pixel import _different
from auditor.attacking.harness.population import BLOCK
from auditor.attacking.threat import Norm, ThreatModel
from auditor.kit.randomness import RowRandom
from auditor.models.classifier import Classifier
from tests.auditor.attacking.attacks.closest import correct
from tests.auditor.attacking.attacks.small import SEED, ran
from tests.auditor.real import Setting, by_torchattacks, ours

LINF = ThreatModel(norm=Norm.LINF, epsilon=0.05)


def draws(kind: str, scope: str, sample: int, step: int, count: int, like: Tensor) -> Tensor:
    """What the attack draws for one sample in one step, (count, C, H, W)."""
    random = RowRandom(SEED, scope, [(sample, 0, 0, step)])
    sizes = [min(BLOCK, count - first) for first in range(0, count, BLOCK)]
    return torch.cat([getattr(random, kind)(like.expand(1, size, *like.shape))[0] for size in sizes])


def margins(classifier: Classifier, points: Tensor, label: Tensor) -> Tensor:
    """Best other logit minus the label's."""
    logits = classifier(points.clamp(0, 1))
    return logits.index_fill(1, label, -torch.inf).amax(1) - logits[:, label]


@torch.no_grad()
def test_spsa_is_adam_on_slopes_between_opposite_points() -> None:
    run = ran("spsa:steps=4,samples=30,step_size=0.01,delta=0.02", LINF, n=4)
    for sample in range(4):
        x, label = run.x[sample], run.labels[sample]
        x_adv, mean, square = x, torch.zeros_like(x), torch.zeros_like(x)
        for step in range(4):
            slope = torch.zeros_like(x)
            for v in 1 - 2.0 * (draws("uniform", "pairs", sample, step, 30, x) < 0.5):
                pair = torch.stack([x_adv + 0.02 * v, x_adv - 0.02 * v])
                above, below = margins(run.classifier, pair, label)
                slope += (above - below) / (2 * 0.02) * v / 30
            mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
            corrected = (square / (1 - 0.999 ** (step + 1))).sqrt()
            x_adv = x_adv + 0.01 * mean / (1 - 0.9 ** (step + 1)) / (corrected + 1e-8)
            x_adv = torch.minimum(torch.maximum(x_adv, x - 0.05), x + 0.05).clamp(0, 1)
        assert torch.allclose(run.x_adv[sample], x_adv, atol=1e-9)


@torch.no_grad()
def test_nattack_moves_its_mean_by_standardized_rewards() -> None:
    run = ran("nattack:steps=4,samples=30,sigma=0.1,step_size=0.05", LINF, n=4)
    for sample in range(4):
        x, label = run.x[sample], run.labels[sample]
        start, mean = torch.atanh((2 * x - 1) * 0.999999), torch.zeros_like(x)
        for step in range(4):
            noise = draws("normal", "samples", sample, step, 30, x)
            points = ((start + mean + 0.1 * noise).tanh() + 1) / 2
            points = torch.minimum(torch.maximum(points, x - 0.05), x + 0.05).clamp(0, 1)
            reward = margins(run.classifier, points, label).clamp(max=0)
            standard = (reward - reward.mean()) / (reward.std() + 1e-7)
            mean = mean + 0.05 / (30 * 0.1) * sum(weight * item for weight, item in zip(standard, noise, strict=True))
        expected = ((start + mean).tanh() + 1) / 2
        expected = torch.minimum(torch.maximum(expected, x - 0.05), x + 0.05).clamp(0, 1)
        assert torch.allclose(run.x_adv[sample], expected, atol=1e-6)


@torch.no_grad()
def test_a_yellow_pixel_is_tried_at_every_place() -> None:
    run = ran("one-pixel:search=yellow", ThreatModel(norm=Norm.L0, epsilon=1), early_stop=True)
    for sample, label in enumerate(run.labels):
        points = run.x[sample].repeat(36, 1, 1, 1)
        for place in range(36):
            points[place, :, place // 6, place % 6] = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
        assert run.outcome.fooled[sample] == bool((run.classifier(points).argmax(1) != label).any())
    assert 0 < run.outcome.fooled.sum() < len(run.labels)


@torch.no_grad()
def test_evolution_finds_what_all_pixels_with_many_colours_show() -> None:
    """Colours at the corners of the box are nearly always the best: with them at every place the answer is known."""
    run = ran("one-pixel:generations=20", ThreatModel(norm=Norm.L0, epsilon=1), early_stop=True)
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)
    for sample, label in enumerate(run.labels):
        points = run.x[sample].repeat(36 * 8, 1, 1, 1)
        for place in range(36):
            points[8 * place : 8 * place + 8, :, place // 6, place % 6] = corners
        assert run.outcome.fooled[sample] >= bool((run.classifier(points).argmax(1) != label).any())
        assert int((run.x_adv[sample] != run.x[sample]).any(0).sum()) <= 1


def test_no_more_pixels_are_painted_than_epsilon_allows() -> None:
    run = ran("one-pixel:pixels=5,generations=3,population=20", ThreatModel(norm=Norm.L0, epsilon=2))
    assert ((run.x_adv != run.x).any(1).flatten(1).sum(1) <= 2).all()
    run = ran("one-pixel:pixels=3,generations=1,population=20", ThreatModel(norm=Norm.L0, epsilon=5))
    assert ((run.x_adv != run.x).any(1).flatten(1).sum(1) <= 3).all()


def test_three_different_candidates_are_drawn_all_alike_often() -> None:
    drawn = torch.stack(_different(torch.rand(1, 60_000, 3, generator=torch.Generator().manual_seed(0)), 5), 2)[0]
    triples, counts = drawn.unique(dim=0, return_counts=True)
    assert len(triples) == 5 * 4 * 3
    assert all(len(set(triple)) == 3 for triple in triples.tolist())
    assert counts.double().std() < 4 * 1000**0.5, "1000 of each, with a standard deviation of 31"


def test_one_pixel_is_as_strong_as_torchattacks(setting: Setting) -> None:
    """With as many candidates and generations, on few samples."""
    part = correct(setting, 12)
    threat = ThreatModel(norm=Norm.L0, epsilon=5)
    mine = ours(part, "one-pixel:pixels=5,population=50,generations=6", threat).mean()
    torch.manual_seed(0)
    np.random.seed(0)
    theirs = by_torchattacks(part, torchattacks.OnePixel(setting.classifier, pixels=5, steps=6, popsize=50)).mean()
    print(f"five pixels, of {len(part.ids)}: fooled by us {mine:.3f}, by torchattacks {theirs:.3f}")
    assert mine >= theirs - 0.15, "one sample"


@pytest.mark.parametrize(
    "attack", ["spsa:steps=60", "nattack:steps=40,samples=100,step_size=0.05"], ids=["spsa", "nattack"]
)
def test_estimated_slopes_do_nearly_as_well_as_true_ones(setting: Setting, attack: str) -> None:
    """There is no other SPSA or NAttack at hand; PGD follows the slopes that they estimate."""
    beside_pgd(setting, attack, samples=20)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["spsa", "nattack"])
def test_estimated_slopes_do_nearly_as_well_by_default(setting: Setting, attack: str) -> None:
    beside_pgd(setting, attack, samples=100)


def beside_pgd(setting: Setting, attack: str, samples: int) -> None:
    part = correct(setting, samples)
    threat = ThreatModel(norm=Norm.LINF, epsilon=8 / 255)
    mine, exact = ours(part, attack, threat).mean(), ours(part, "pgd:steps=30,step_size=0.1", threat).mean()
    print(f"{attack}, of {len(part.ids)}: fooled {mine:.3f}, by PGD {exact:.3f}")
    assert mine >= exact - 0.1
