"""Boundary attack, HopSkipJump and the pointwise attack: their formulas, closed forms, and foolbox from the same start."""

from __future__ import annotations

from typing import Literal

import foolbox
import numpy as np
import pytest
import torch
from torch import Tensor

from auditor.attacking.attack import ATTACKS, Query, Rows
from auditor.attacking.attacks.boundary import _proposals
from auditor.attacking.attacks.hop_skip_jump import BOUNDARY, ESTIMATE, LEAP, POINTS, _plan
from auditor.attacking.attacks.pointwise import Pointwise
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.harness.outcome import Finished
from auditor.attacking.threat import Norm, ThreatModel
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from tests.auditor.attacking.attacks.closest import correct, in_float64, lengths, minimal
from tests.auditor.real import Setting
from tests.nets import SHAPE, Linear, random_images


def images(setting: Setting, spec: str, norm: Norm) -> Tensor:
    """The closest adversarial images that the attack finds."""
    kept = torch.empty_like(setting.x)

    def keep(finished: Finished) -> None:
        kept[torch.from_numpy(finished.position)] = finished.x_adv

    run_attack(
        setting.classifier, ATTACKS.parse(f"{spec},budget=minimal"), ThreatModel(norm=norm, epsilon=1), setting.data,
        setting.ids, Misclassification(setting.y), seed=0, batch_size=64, on_finished=keep,
    )  # fmt: skip
    return kept


def plane() -> tuple[Setting, Tensor]:
    """A linear model whose plane is close to random images, and the distance of each to it in L2."""
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(int(np.prod(SHAPE)), generator=generator)
    data = ImageDataset(random_images(10), np.zeros(10, np.int64))
    x = data.images(np.arange(10))
    side = x.flatten(1) @ weight
    classifier = Classifier(Linear(weight, -float(side.median()) + 0.3), input_shape=SHAPE, num_classes=2)
    labels = classifier.logits(x).argmax(1)
    distance = (classifier.logits(x)[:, 1]).abs()
    return Setting(classifier, data, np.arange(10), x, labels), distance / weight.norm()


@pytest.mark.parametrize("spec", ["boundary:steps=1500", "hop-skip-jump:steps=30"])
def test_the_closest_point_of_a_plane_is_nearly_found(spec: str) -> None:
    """No image within the distance, and one within 1.1 times that: the box cuts off nothing so close to the image."""
    setting, distance = plane()
    ratio = minimal(setting.classifier, spec, Norm.L2, setting).closest / distance.numpy()
    assert (ratio >= 1 - 1e-4).all()
    assert np.median(ratio) <= 1.1
    assert ratio.max() <= 1.4, "the box holds some entries back"


def test_a_proposal_is_orthogonal_at_the_same_distance_and_then_closer() -> None:
    n = 5
    x = torch.full((n, 3, 6, 6), 0.5, dtype=torch.float64)
    away = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.02
    zero, one = np.zeros(n, np.int64), torch.ones(n, dtype=torch.float64)
    rows = Rows(
        np.arange(n), np.arange(n), zero, zero, zero, x, x + away, x, x.new_zeros(n, 2), one, one, one, one,
        Misclassification(torch.zeros(n, dtype=torch.int64)), Norm.L2, 0,
    )  # fmt: skip
    around, closer = _proposals(rows, x + away, 0.1 * one, 0.05 * one)
    distance = away.flatten(1).norm(dim=1)
    assert torch.allclose((around - x).flatten(1).norm(dim=1), distance)
    # The step aside has 0.1 times the distance before it is drawn back to the sphere: cos = 1 / sqrt(1 + 0.1^2).
    cosine = ((around - x) * away).flatten(1).sum(1) / distance**2
    assert torch.allclose(cosine, torch.full_like(cosine, 1.01**-0.5))
    assert torch.allclose((closer - x).flatten(1).norm(dim=1), 0.95 * distance)


def test_the_plan_of_hop_skip_jump_has_the_papers_numbers_of_samples() -> None:
    plan = _plan(4, 100, 180)
    for iteration, samples in enumerate((100, 141, 173, 180)):  # 100 sqrt(t), at most 180
        mine = (plan.iteration == iteration) & (plan.phase == ESTIMATE)
        assert int(mine.sum()) == -(-samples // POINTS)
        assert int(((plan.iteration == iteration) & (plan.phase == LEAP)).sum()) == 1
    assert plan.phase[0] == plan.phase[-1] == BOUNDARY


def test_pointwise_leaves_no_entry_that_could_be_restored() -> None:
    """In float64, so that the test's decisions are the attack's."""
    setting = in_float64()
    attack = ATTACKS.parse("pointwise:steps=2000,budget=minimal")
    last: dict[int, Tensor] = {}

    class Watched(Pointwise):
        def step(self, rows: Rows, query: Query) -> Tensor:
            x_adv = super().step(rows, query)
            last.update(zip(rows.position.tolist(), x_adv, strict=True))
            return x_adv

    run_attack(
        setting.classifier, Watched(**attack.model_dump()), ThreatModel(norm=Norm.L2, epsilon=1), setting.data, setting.ids,
        Misclassification(setting.y), seed=0, batch_size=5,
    )  # fmt: skip
    for position, x_adv in last.items():
        x, label = setting.x[position], setting.y[position]
        changed = (x_adv != x).flatten().nonzero().squeeze(1)
        assert len(changed)
        points = x_adv.flatten().repeat(len(changed) + 1, 1)
        points[torch.arange(len(changed)), changed] = x.flatten()[changed]
        fools = setting.classifier(points.view(-1, *SHAPE)).argmax(1) != label
        assert fools[-1]
        assert not fools[:-1].any()
        # Nor could one have gone 1/32 of its way back.
        points[torch.arange(len(changed)), changed] = x_adv.flatten()[changed] * (31 / 32) + x.flatten()[changed] / 32
        assert not (setting.classifier(points[:-1].view(-1, *SHAPE)).argmax(1) != label).any()


def beside_foolbox(
    setting: Setting, samples: int, norm: Norm, spec: str, attack: foolbox.attacks.base.MinimizationAttack
) -> tuple[float, float]:
    """Median distances, ours and foolbox's, which begins at images that our boundary attack begins at."""
    part = correct(setting, samples)
    start = images(part, "boundary:steps=1,directions=1", Norm.L2)
    model = foolbox.PyTorchModel(setting.classifier, bounds=(0, 1))
    torch.manual_seed(0)
    np.random.seed(0)
    x_adv = attack.run(model, part.x, foolbox.criteria.Misclassification(part.y), starting_points=start)
    mine = minimal(setting.classifier, spec, norm, part).closest
    medians = float(np.median(mine)), float(lengths(x_adv - part.x, norm).median())
    print(f"{spec} {norm}, n {len(part.ids)}: median distance ours {medians[0]:.4f}, foolbox {medians[1]:.4f}")
    return medians


def few(setting: Setting, on_cnn: int, on_resnet: int) -> int:
    """ResNet-20 takes ten times as long as the small network."""
    return on_resnet if "Residual" in str(setting.classifier) else on_cnn


NETWORKS = pytest.mark.parametrize(
    "setting", ["cnn-a", pytest.param("resnet20", marks=pytest.mark.slow)], indirect=True
)
"""Decisions of the deep network take long; `benchmarks/peers.py` asks it on more samples."""


@NETWORKS
def test_the_boundary_attack_gets_as_close_as_foolbox(setting: Setting) -> None:
    """With about as many questions: they ask 1.1 per step, we one."""
    steps = few(setting, 4000, 1500)
    attack = foolbox.attacks.BoundaryAttack(steps=steps)
    spec = f"boundary:steps={steps},directions=1"
    mine, theirs = beside_foolbox(setting, few(setting, 20, 4), Norm.L2, spec, attack)
    assert mine <= 1.05 * theirs


@NETWORKS
@pytest.mark.parametrize(("norm", "constraint"), [(Norm.L2, "l2"), (Norm.LINF, "linf")])
def test_hop_skip_jump_gets_as_close_as_foolbox(
    setting: Setting, norm: Norm, constraint: Literal["l2", "linf"]
) -> None:
    """The same iterations and images in the estimates."""
    steps = few(setting, 15, 8)
    attack = foolbox.attacks.HopSkipJumpAttack(steps=steps, constraint=constraint)
    mine, theirs = beside_foolbox(setting, few(setting, 20, 25), norm, f"hop-skip-jump:steps={steps}", attack)
    assert mine <= 1.1 * theirs


def test_pointwise_changes_as_few_entries_as_foolbox() -> None:
    """From our noise: theirs fools these small networks with some samples never. Real networks: docs/peers.md."""
    setting = in_float64()
    model = foolbox.PyTorchModel(setting.classifier, bounds=(0, 1))
    torch.manual_seed(0)
    np.random.seed(0)
    x_adv = foolbox.attacks.PointwiseAttack(l2_binary_search=True).run(
        model,
        setting.x,
        foolbox.criteria.Misclassification(setting.y),
        starting_points=images(setting, "pointwise:steps=1", Norm.L0),
    )
    for norm in (Norm.L0, Norm.L2):
        mine = minimal(setting.classifier, "pointwise", norm, setting).closest.mean()
        theirs = lengths(x_adv - setting.x, norm).mean()
        print(f"pointwise {norm}, n {len(setting.ids)}: mean distance ours {mine:.3f}, foolbox {theirs:.3f}")
        assert mine <= 1.15 * theirs
