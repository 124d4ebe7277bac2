"""JSMA: the choice of a pair against all pairs, foolbox 2.3's single-value form restated for one image, and ART."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from auditor.attacking.attack import ATTACKS
from auditor.attacking.attacks.jsma import best_pair
from auditor.attacking.criterion import Misclassification, TargetedMisclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.harness.outcome import Finished
from auditor.attacking.threat import Norm, ThreatModel
from auditor.models.classifier import Classifier
from tests.auditor.attacking.attacks.closest import correct, in_float64, lengths, minimal
from tests.auditor.real import Setting
from tests.narrow import sequence


@pytest.mark.parametrize("correlation", [-0.9, 0.0, 0.9])
def test_the_best_pair_is_the_best_of_all_pairs(correlation: float) -> None:
    generator = torch.Generator().manual_seed(0)
    raises = torch.randn(30, 40, generator=generator)
    lowers = correlation * raises + (1 - correlation**2) ** 0.5 * torch.randn(30, 40, generator=generator)
    raises[:10], lowers[:10] = raises[:10].round(), lowers[:10].round()  # many ties
    allowed = torch.rand(30, 40, generator=generator) < 0.5
    allowed[5], allowed[6, 1:] = False, False
    raises[7] = -raises[7].abs()
    gain, index = best_pair(raises, lowers, allowed)
    for row in range(30):
        best = -np.inf
        for p in range(40):
            for q in range(p):
                a, b = float(raises[row, p] + raises[row, q]), float(lowers[row, p] + lowers[row, q])
                if allowed[row, p] and allowed[row, q] and a > 0 and b > 0:
                    best = max(best, a * b)
        assert float(gain[row]) == pytest.approx(best, rel=1e-5)
        if best > 0:
            p, q = index[row].tolist()
            assert p != q
            assert allowed[row, p]
            assert allowed[row, q]
            assert float((raises[row, p] + raises[row, q]) * (lowers[row, p] + lowers[row, q])) == pytest.approx(best)


def plain_single(classifier: Classifier, x: Tensor, label: int, target: int) -> float:
    """foolbox 2.3's fast map: the value where the loss of the target rises most goes down by 0.1, 7 times at most each."""
    x_adv, changes = x.clone(), torch.zeros_like(x)
    for _ in range(2000):
        point = x_adv.clone().requires_grad_()
        logits = classifier(point[None])
        if int(logits.argmax()) != label:
            return float(lengths(x_adv[None] - x, Norm.L0))
        (slope,) = torch.autograd.grad(cross_entropy(logits, torch.tensor([target])), point)
        slope = torch.where((changes < 7) & (x_adv > 0), slope, -torch.inf)
        place = np.unravel_index(int(slope.argmax()), slope.shape)
        if slope[place] <= 0:
            break
        x_adv[place] = (x_adv[place] - 0.1).clamp(min=0)
        changes[place] += 1
    return float("inf")


def test_the_single_form_written_for_one_image_gives_the_same_distance() -> None:
    setting = in_float64()
    logits = setting.classifier.logits(setting.x)
    targets = logits.scatter(1, setting.y[:, None], -torch.inf).argmax(1)
    ours = minimal(setting.classifier, "jsma:target=likeliest", Norm.L0, setting).closest
    expected = [plain_single(setting.classifier, *row) for row in zip(setting.x, setting.y.tolist(), targets.tolist())]  # noqa: B905
    assert np.isfinite(ours).sum() >= 6
    assert np.array_equal(ours, expected)


def test_the_form_decides_which_way_values_move_and_how_often() -> None:
    setting = in_float64()
    for form, signs in (("single", {-1.0}), ("signed", {-1.0, 1.0}), ("pairs", {1.0})):
        kept: list[Tensor] = []

        def keep(finished: Finished, kept: list[Tensor] = kept) -> None:
            kept.append(finished.x_adv - finished.x)

        run_attack(
            setting.classifier, ATTACKS.parse(f"jsma:form={form},theta=0.2,changes=2,budget=minimal"),
            ThreatModel(norm=Norm.L0, epsilon=1), setting.data, setting.ids, Misclassification(setting.y),
            seed=0, batch_size=5, on_finished=keep,
        )  # fmt: skip
        delta = torch.cat(kept)
        assert set(delta[delta.abs() > 1e-9].sign().tolist()) == signs
        assert delta.abs().max() == pytest.approx(0.4)


def test_the_target_found_along_the_gradient_is_the_first_class_reached_there() -> None:
    """A plane per class: the gradient of the loss leads to the class whose logit rises most along it, not to the likeliest."""
    network = sequence(nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False)))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[1.0, 1, 1, 1], [0.9, 0.9, 0.9, 0.9], [2.0, -2, 0, 0]]))
    classifier = Classifier(network, input_shape=(1, 2, 2), num_classes=3)
    setting = in_float64(3)
    images = setting.data._images[:, :2, :2, :1].copy()
    images[:] = 128
    data = type(setting.data)(images, np.zeros(3, np.int64))
    small = Setting(classifier, data, np.arange(3), data.images(np.arange(3)), torch.zeros(3, dtype=torch.int64))
    along = minimal(classifier, "jsma:target=gradient,form=signed", Norm.L0, small)
    likeliest = minimal(classifier, "jsma:target=likeliest,form=signed", Norm.L0, small)
    assert (along.prediction == 2).all()
    assert (along.closest < likeliest.closest).all(), "class 1 is always behind class 0, for values are not negative"


def test_a_run_under_the_fixed_budget_ends_beyond_epsilon() -> None:
    setting = in_float64()
    run = {
        budget: run_attack(
            setting.classifier, ATTACKS.parse(f"jsma:budget={budget}"), ThreatModel(norm=Norm.L0, epsilon=4),
            setting.data, setting.ids, Misclassification(setting.y), seed=0, batch_size=125,
        )
        for budget in ("fixed", "minimal")
    }  # fmt: skip
    assert np.array_equal(run["fixed"].fooled, run["minimal"].fooled)
    assert run["fixed"].forwards.sum() < run["minimal"].forwards.sum()


def beside_art(setting: Setting, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels changed by us and by ART on the way to the class after the label, inf where it is not reached."""
    part = correct(setting, n)
    targets = (part.y + 1) % 10
    from art.attacks.evasion import SaliencyMapMethod
    from art.estimators.classification import PyTorchClassifier

    model = PyTorchClassifier(
        nn.Sequential(setting.classifier, nn.Softmax(1)), nn.CrossEntropyLoss(), (3, 32, 32), 10, clip_values=(0.0, 1.0)
    )
    attack = SaliencyMapMethod(model, theta=0.5, gamma=1.0, batch_size=100, verbose=False)
    x_adv = torch.from_numpy(attack.generate(part.x.numpy(), np.eye(10)[targets.numpy()]))
    reached = setting.classifier.logits(x_adv).argmax(1) == targets
    theirs = np.where(reached.numpy(), lengths(x_adv - part.x, Norm.L0).numpy(), np.inf)
    spec = "jsma:form=pairs,outputs=probabilities,theta=0.5,changes=1000"
    return minimal(setting.classifier, spec, Norm.L0, part, TargetedMisclassification(targets)).closest, theirs


def test_pairs_of_probabilities_change_the_pixels_that_art_changes(setting: Setting) -> None:
    """ART moves the two values that raise the target's probability most. With probabilities these are the paper's best pair,
    since what the others lose together is what the target gains."""
    ours, theirs = beside_art(setting, 8 if len(list(setting.classifier.modules())) > 20 else 60)
    print(f"jsma: n {len(ours)}, medians {np.median(ours)}, {np.median(theirs)}, same {(ours == theirs).mean():.3f}")
    assert np.isfinite(ours).mean() >= np.isfinite(theirs).mean() - 0.02
    assert (ours == theirs).mean() >= 0.9
    assert np.median(ours) == pytest.approx(np.median(theirs), rel=0.02)
