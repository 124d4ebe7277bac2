"""AutoAttack and its gradient parts: schedules, losses and distances by hand, and others' code beside ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchattacks
from torch import Tensor

from auditor.attacking.attack import ATTACKS, Attack, Ensemble
from auditor.attacking.attacks.auto_attack import AutoAttack
from auditor.attacking.criterion import Misclassification, TargetedMisclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.harness.auto_pgd import AutoPGD
from auditor.attacking.harness.losses import difference_of_logits_ratio, margin, targeted_ratio
from auditor.attacking.harness.outcome import Outcome
from auditor.attacking.threat import Norm, ThreatModel
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.models.dataset import ImageDataset
from tests.auditor.real import Setting, by_torchattacks, fewer, ours
from tests.narrow import typed
from tests.nets import SHAPE, Linear, labelled, small_classifier

LOGITS = torch.tensor([[3.0, 1.0, 0.5, -1.0], [0.0, 2.0, 4.0, 1.0]])


def test_the_windows_are_the_papers() -> None:
    """p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), of 100 steps (equation in section 3.1)."""
    attack = ATTACKS.build("apgd-ce", {"steps": 100})
    assert isinstance(attack, AutoPGD)
    ends = [step for step, window in enumerate(attack.windows) if window]
    # 22; +19 = 41; +16 = 57; +13 = 70; +10 = 80; +7 = 87; +6 = 93; +6 = 99.
    assert ends == [22, 41, 57, 70, 80, 87, 93, 99]
    assert [attack.windows[step] for step in ends] == [22, 19, 16, 13, 10, 7, 6, 6]


def test_the_losses_by_hand() -> None:
    criterion = Misclassification(torch.tensor([0, 1]))
    # Row 0: label 3, best other 1, third 0.5: margin -2, ratio -2 / 2.5. Row 1: label 2, best other 4, third 1: 2, 2 / 3.
    assert margin(criterion, LOGITS).tolist() == [-2.0, 2.0]
    assert difference_of_logits_ratio(criterion, LOGITS).tolist() == pytest.approx([-0.8, 2 / 3])
    # Targets 2 and 3: -(3 - 0.5) / (3 - (0.5 - 1) / 2) = -2.5 / 3.25, and -(2 - 1) / (4 - (1 + 0) / 2) = -1 / 3.5.
    towards = targeted_ratio(LOGITS, torch.tensor([0, 1]), torch.tensor([2, 3]))
    assert towards.tolist() == pytest.approx([-2.5 / 3.25, -1 / 3.5])
    targeted = TargetedMisclassification(torch.tensor([3, 2]))
    assert margin(targeted, LOGITS).tolist() == [-4.0, 2.0]
    assert (
        difference_of_logits_ratio(criterion, 7 * LOGITS + 5) - difference_of_logits_ratio(criterion, LOGITS)
    ).abs().max() < 1e-6
    two = torch.tensor([[1.0, 3.0]])
    assert difference_of_logits_ratio(Misclassification(torch.tensor([0])), two).item() == 2.0


def test_who_leaves_and_who_is_reached() -> None:
    untargeted = Misclassification(torch.tensor([0, 1]))
    assert untargeted.leave(LOGITS).tolist() == [0, 1]
    assert untargeted.reach(LOGITS).tolist() == [[1, 2, 3], [2, 3, 0]]
    targeted = TargetedMisclassification(torch.tensor([0, 1]))
    assert targeted.leave(LOGITS).tolist() == [1, 2]
    assert targeted.reach(LOGITS).tolist() == [[0], [1]]


def run(attack: Attack, classifier: Classifier, data: ImageDataset, threat: ThreatModel) -> Outcome:
    labels = torch.from_numpy(data.labels)
    return run_attack(
        classifier, attack, threat, data, np.arange(len(data)), Misclassification(labels), seed=0, batch_size=16
    )


@pytest.mark.parametrize("kind", ["fab", "fab-t"])
@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2, Norm.L1])
def test_fab_finds_the_distance_to_a_plane(kind: str, norm: Norm) -> None:
    torch.manual_seed(0)
    weight = torch.randn(int(np.prod(SHAPE)))
    classifier = Classifier(Linear(weight, 0.0), input_shape=SHAPE, num_classes=2)
    images = np.random.default_rng(0).integers(100, 156, (20, SHAPE[1], SHAPE[2], SHAPE[0]), dtype=np.uint8)
    unlabelled = ImageDataset(images, np.zeros(20, np.int64))
    side = unlabelled.images(np.arange(20)).flatten(1) @ weight
    data = ImageDataset(images, (side > 0).long().numpy())
    step = (
        ThreatModel(norm=norm)
        .ball(side)
        .onto_plane(unlabelled.images(np.arange(20)), weight.view(1, *SHAPE).expand(20, -1, -1, -1), torch.zeros(20))
    )
    expected = ThreatModel(norm=norm).ball(side).distance(step, torch.zeros_like(step))  # tested beside scipy
    outcome = run(ATTACKS.build(kind, {"budget": "minimal"}), classifier, data, ThreatModel(norm=norm, epsilon=1))
    assert np.allclose(outcome.closest, expected.numpy(), rtol=0.02)
    assert (outcome.closest >= expected.numpy() * (1 - 1e-5)).all(), "nothing behind the plane is closer than the plane"


class TestEnsemble:
    def test_each_stage_sees_only_what_still_stands_and_passes_add_up(self) -> None:
        class Two(Ensemble):
            @property
            def stages(self) -> tuple[Attack, ...]:
                return ATTACKS.parse("fgsm"), ATTACKS.parse("apgd-t:steps=10,restarts=4")

        classifier, threat = small_classifier(), ThreatModel(epsilon=0.05)
        data = labelled(classifier, wrong=0)
        first = run(ATTACKS.parse("fgsm"), classifier, data, threat)
        both = run(Two(kind="two"), classifier, data, threat)
        assert first.fooled.any()
        assert not first.fooled.all()
        assert np.array_equal(both.forwards[first.fooled], first.forwards[first.fooled])
        assert (both.forwards[~first.fooled] > first.forwards[~first.fooled]).all()
        alone = run(ATTACKS.parse("apgd-t:steps=10,restarts=4"), classifier, data, threat)
        assert np.array_equal(both.fooled, first.fooled | alone.fooled)
        rest = ~first.fooled
        assert np.array_equal(both.backwards[rest], first.backwards[rest] + alone.backwards[rest])

    def test_the_standard_version_is_the_papers(self) -> None:
        stages = [stage.describe() for stage in typed(ATTACKS.parse("auto-attack"), AutoAttack).stages]
        assert [stage.split(":")[0] for stage in stages] == ["apgd-ce", "apgd-t", "fab-t", "square"]
        assert all(setting in stages[1] for setting in ("steps=100", "restarts=9"))
        assert "queries=5000" in stages[3]


@pytest.mark.parametrize("kind", ["apgd-ce", "apgd-dlr"])
def test_apgd_is_not_weaker_than_torchattacks(setting: Setting, kind: str) -> None:
    """20 steps, 8/255, 200 images: robust accuracy within 1.5 points, or lower."""
    setting = fewer(setting)
    mine = ours(setting, f"{kind}:steps=20", ThreatModel(norm=Norm.LINF, epsilon=8 / 255))
    theirs = by_torchattacks(
        setting, torchattacks.APGD(setting.classifier, eps=8 / 255, steps=20, loss=kind.removeprefix("apgd-"))
    )
    print(f"{kind}: robust ours {1 - mine.mean():.3f}, torchattacks {1 - theirs.mean():.3f}")
    assert mine.mean() >= theirs.mean() - 0.015


def test_apgd_averages_over_a_random_model() -> None:
    """With ``eot`` each step asks for as many gradients."""

    class Noisy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = small_classifier().network

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x + 0.1 * torch.randn_like(x))

    torch.manual_seed(0)
    half = NORMALIZATIONS["half"]
    classifier = Classifier(Noisy(), input_shape=SHAPE, num_classes=5, normalization=half)
    data = labelled(small_classifier(), wrong=0)
    outcome = run(ATTACKS.parse("apgd-ce:steps=5,eot=8"), classifier, data, ThreatModel(epsilon=0.1))
    assert outcome.backwards.max() == 5 * 8
    assert outcome.fooled.any()
