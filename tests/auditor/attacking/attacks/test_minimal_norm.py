"""DeepFool, Carlini-Wagner, DDN and FMN: a closed form, the papers' formulas restated for one image, and foolbox."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import foolbox
import numpy as np
import pytest
import torch
from torch import Tensor

from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Misclassification, TargetedMisclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.harness.adam import adam
from auditor.attacking.threat import Norm, ThreatModel
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from tests.auditor.attacking.attacks.closest import Both, beside_foolbox, correct, in_float64, lengths, minimal
from tests.auditor.real import Setting
from tests.narrow import sequence
from tests.nets import SHAPE, Linear

ORDER = {Norm.LINF: np.inf, Norm.L2: 2, Norm.L1: 1}
DUAL = {Norm.LINF: 1, Norm.L2: 2, Norm.L1: np.inf}


@pytest.mark.parametrize(
    ("spec", "norm", "most"),
    [
        ("deepfool", Norm.L2, 1.0201),
        ("deepfool", Norm.LINF, 1.0201),
        ("deepfool:overshoot_at=step", Norm.L2, 1.0201),
        ("carlini-wagner", Norm.L2, 1.02),
        ("ddn", Norm.L2, 1.01),
        ("fmn", Norm.L2, 1.01),
        ("fmn", Norm.LINF, 1.01),
        ("fmn", Norm.L1, 1.01),
    ],
)
def test_the_distance_to_a_plane_is_found(spec: str, norm: Norm, most: float) -> None:
    """|w.x + b| over the dual norm of w. In L1 the entries of w are equal in size: else one entry would have to leave the box."""
    torch.manual_seed(0)
    weight = torch.randn(int(np.prod(SHAPE)))
    weight = weight.sign() if norm is Norm.L1 else weight
    classifier = Classifier(Linear(weight, 6.0), input_shape=SHAPE, num_classes=2)
    images = np.random.default_rng(0).integers(100, 156, (20, SHAPE[1], SHAPE[2], SHAPE[0]), dtype=np.uint8)
    data, ids = ImageDataset(images, np.zeros(20, np.int64)), np.arange(20)
    x = data.images(ids)
    side = x.flatten(1) @ weight + 6
    distance = (side.abs() / torch.linalg.vector_norm(weight, DUAL[norm])).numpy()
    closest = minimal(classifier, spec, norm, Setting(classifier, data, ids, x, (side > 0).long())).closest
    assert (closest >= 0.9999 * distance).all()
    assert (closest <= most * distance).all()


def test_adam_is_torchs() -> None:
    torch.manual_seed(0)
    point = torch.randn(3, 2, 4, 4, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.Adam([point], lr=0.07)
    ours, mean, square = point.detach().clone(), torch.zeros_like(point), torch.zeros_like(point)
    for count in range(1, 8):
        gradient = torch.randn_like(point)
        point.grad = gradient
        optimizer.step()
        step, mean, square = adam(gradient, mean, square, torch.full((3,), count), 0.07)
        ours = ours - step
        assert torch.allclose(ours, point.detach(), atol=1e-12)


Loss = Callable[[Tensor], Tensor]


def slope(classifier: Classifier, point: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, gradient and logits at one image (C, H, W)."""
    point = point.detach().requires_grad_()
    logits = classifier(point[None])[0]
    value = loss(logits)
    return value.detach(), torch.autograd.grad(value, point)[0], logits.detach()


def lead_over(label: int) -> Loss:
    return lambda logits: logits[torch.arange(len(logits)) != label].max() - logits[label]


def plain_ddn(classifier: Classifier, x: Tensor, label: int, steps: int) -> float:
    """Rony et al., algorithm 1, with the step size that falls in a cosine from 1 to 0.01."""
    best, radius, x_adv, delta = math.inf, 1.0, x, torch.zeros_like(x)
    for k in range(steps + 1):
        _, gradient, logits = slope(
            classifier, x_adv, lambda z: torch.nn.functional.cross_entropy(z, torch.tensor(label))
        )
        adversarial = int(logits.argmax()) != label
        if adversarial:
            best = min(best, float((x_adv - x).norm()))
        size = 0.01 + 0.99 * (1 + math.cos(math.pi * k / steps)) / 2
        delta = x_adv - x + size * gradient / gradient.norm()
        radius *= 0.95 if adversarial else 1.05
        x_adv = (x + radius * delta / delta.norm()).clamp(0, 1)
    return best


def plain_fmn(classifier: Classifier, x: Tensor, label: int, steps: int, norm: Norm) -> float:
    """Pintor et al., algorithm 1, the first radius 0.1 % larger; projections in L2 and L-infinity."""
    best, radius, delta = math.inf, math.inf, torch.zeros_like(x)
    for k in range(steps + 1):
        lead, gradient, logits = slope(classifier, x + delta, lead_over(label))
        length = float(torch.linalg.vector_norm(delta, ORDER[norm]))
        cosine = (1 + math.cos(math.pi * k / steps)) / 2
        size, gamma = 0.01 + 0.99 * cosine, 0.001 + 0.049 * cosine
        if int(logits.argmax()) != label:
            best = min(best, length)
            radius = min(radius * (1 - gamma), best)
        elif math.isinf(best):
            radius = 1.001 * (length + float(lead.abs() / torch.linalg.vector_norm(gradient, DUAL[norm])))
        else:
            radius *= 1 + gamma
        delta = delta + size * gradient / gradient.norm()
        delta = delta * min(1.0, radius / float(delta.norm())) if norm is Norm.L2 else delta.clamp(-radius, radius)
        delta = (x + delta).clamp(0, 1) - x
    return best


def plain_carlini_wagner(classifier: Classifier, x: Tensor, label: int, steps: int, first: float) -> float:
    """Carlini and Wagner's loss through tanh by autograd, minimized by torch's Adam; c as in their code."""
    best, c, low, high = math.inf, first, 0.0, math.inf
    for _ in range(3):
        w = ((2 * x - 1) * 0.999999).atanh().requires_grad_()
        origin = ((w.tanh() + 1) / 2).detach()
        optimizer, found = torch.optim.Adam([w], lr=0.01), False
        for _ in range(steps):
            x_adv = (w.tanh() + 1) / 2
            logits = classifier(x_adv[None])[0]
            lead = lead_over(label)(logits)
            if lead > 0:
                found, best = True, min(best, float((x_adv - x).detach().norm()))
            loss = (x_adv - origin).square().sum() + c * (-lead).clamp_min(0)
            (w.grad,) = torch.autograd.grad(loss, w)
            optimizer.step()
        low, high = (low, c) if found else (c, high)
        c = c * 10 if math.isinf(high) else (low + high) / 2
    return best


def plain_deepfool(classifier: Classifier, x: Tensor, label: int, norm: Norm) -> float:
    """Moosavi-Dezfooli et al., algorithm 2 with 2 % overshoot, each step longer by 0.1 % of the way so far."""
    base = x
    for _ in range(50):
        ahead = (x + 1.02 * (base - x)).clamp(0, 1)
        for point in (base, ahead):
            if int(classifier(point[None]).argmax()) != label:
                return float(torch.linalg.vector_norm(point - x, ORDER[norm]))
        nearest, step = math.inf, base
        for rival in range(classifier.num_classes):
            if rival == label:
                continue

            def lead(z: Tensor, rival: int = rival) -> Tensor:
                return z[rival] - z[label]

            value, gradient, _ = slope(classifier, base, lead)
            distance = float(value.abs() / torch.linalg.vector_norm(gradient, DUAL[norm]))
            if distance < nearest:
                nearest, step = distance, gradient.sign() if norm is Norm.LINF else gradient / gradient.norm()
        so_far = float(torch.linalg.vector_norm(base - x, ORDER[norm]))
        base = (base + (nearest + 1e-3 * so_far) * step).clamp(0, 1)
    return math.inf


@pytest.mark.parametrize(
    ("spec", "norm", "plain"),
    [
        ("ddn:steps=40", Norm.L2, partial(plain_ddn, steps=40)),
        ("fmn:steps=40", Norm.L2, partial(plain_fmn, steps=40, norm=Norm.L2)),
        ("fmn:steps=40", Norm.LINF, partial(plain_fmn, steps=40, norm=Norm.LINF)),
        ("carlini-wagner:steps=30,first_weight=1", Norm.L2, partial(plain_carlini_wagner, steps=30, first=1.0)),
        ("deepfool", Norm.L2, partial(plain_deepfool, norm=Norm.L2)),
        ("deepfool", Norm.LINF, partial(plain_deepfool, norm=Norm.LINF)),
    ],
    ids=["ddn", "fmn-l2", "fmn-linf", "carlini-wagner", "deepfool-l2", "deepfool-linf"],
)
def test_the_formula_written_for_one_image_gives_the_same_distance(
    spec: str, norm: Norm, plain: Callable[[Classifier, Tensor, int], float]
) -> None:
    setting = in_float64()
    ours = minimal(setting.classifier, spec, norm, setting).closest
    expected = [plain(setting.classifier, x, int(y)) for x, y in zip(setting.x, setting.y, strict=True)]
    assert np.isfinite(ours).sum() >= 10
    assert ours == pytest.approx(np.array(expected), rel=1e-4)


def test_ddn_leaves_a_point_without_a_gradient_at_random_and_reproducibly() -> None:
    setting = in_float64()
    with torch.no_grad():
        sequence(setting.classifier)[5].weight *= 1e6  # the softmax saturates: the loss and its gradient are exactly 0
    labels = setting.classifier.logits(setting.x).argmax(1)
    criterion = Misclassification(labels)
    first = minimal(setting.classifier, "ddn:steps=20", Norm.L2, setting, criterion)
    again = minimal(setting.classifier, "ddn:steps=20", Norm.L2, setting, criterion)
    assert first.blind.any()
    assert np.isfinite(first.closest[first.blind]).any()
    assert np.array_equal(first.closest, again.closest)


@pytest.mark.parametrize("spec", ["deepfool", "carlini-wagner:steps=60,first_weight=1", "ddn", "fmn"])
def test_targeted_runs_find_the_target(spec: str) -> None:
    setting = in_float64()
    targets = (setting.y + 1) % 5
    outcome = minimal(setting.classifier, spec, Norm.L2, setting, TargetedMisclassification(targets))
    assert (outcome.prediction == targets.numpy()).mean() >= 0.9
    assert np.median(outcome.closest) >= np.median(minimal(setting.classifier, spec, Norm.L2, setting).closest)


def test_deepfool_stops_at_its_first_success_and_cuts_it_to_epsilon() -> None:
    """The last image of a run is the adversarial one cut to the ball: some are found that way and in no other."""
    setting = in_float64()
    closest = minimal(setting.classifier, "deepfool:overshoot=1", Norm.L2, setting)
    assert closest.forwards.max() < 2 * 20
    outcome = run_attack(
        setting.classifier, ATTACKS.parse("deepfool:overshoot=1,overshoot_at=step"), ThreatModel(norm=Norm.L2, epsilon=0.5),
        setting.data, setting.ids, Misclassification(setting.y), seed=0, batch_size=125,
    )  # fmt: skip
    assert np.isclose(outcome.distance[outcome.fooled], 0.5).any()


# Beside foolbox: the distance image by image, and the share within epsilon (the fooled ones at that radius).
# The numbers of samples keep each test short; `make test-slow` takes 200.
FOOLBOX: dict[str, tuple[str, Norm, float, foolbox.attacks.base.Attack]] = {
    "deepfool-l2": (
        "deepfool:steps=50", Norm.L2, 0.5, foolbox.attacks.L2DeepFoolAttack(steps=50, overshoot=0.02),
    ),
    "deepfool-l2-step": (
        "deepfool:steps=50,overshoot_at=step", Norm.L2, 0.5, foolbox.attacks.L2DeepFoolAttack(steps=50, overshoot=0.02),
    ),
    "deepfool-linf": (
        "deepfool:steps=50", Norm.LINF, 8 / 255, foolbox.attacks.LinfDeepFoolAttack(steps=50, overshoot=0.02),
    ),
    "ddn": ("ddn:steps=50", Norm.L2, 0.5, foolbox.attacks.DDNAttack(steps=50)),
    # foolbox 3.3.4's L2FMNAttack never projects (it scales by norm / norm), and so it is no measure; DDN stands in.
    "fmn-l2": ("fmn:steps=50,step_size=0.3", Norm.L2, 0.5, foolbox.attacks.DDNAttack(steps=50)),
    "fmn-linf": ("fmn:steps=50", Norm.LINF, 8 / 255, foolbox.attacks.LInfFMNAttack(steps=50)),
    "fmn-l1": ("fmn:steps=50", Norm.L1, 12.0, foolbox.attacks.L1FMNAttack(steps=50)),
    # Its L0 counts channel values, and is measured here in pixels: ours, which counts pixels, needs fewer.
    "fmn-l0": ("fmn:steps=50", Norm.L0, 12.0, foolbox.attacks.L0FMNAttack(steps=50)),
    "carlini-wagner": (
        "carlini-wagner:steps=60,first_weight=0.1", Norm.L2, 0.5,
        foolbox.attacks.L2CarliniWagnerAttack(
            binary_search_steps=3, steps=60, stepsize=0.01, confidence=0, initial_const=0.1, abort_early=False
        ),
    ),
}  # fmt: skip


def compare(setting: Setting, name: str, n: int) -> Both:
    spec, norm, epsilon, attack = FOOLBOX[name]
    both = beside_foolbox(setting, n, norm, spec, attack)
    print(f"{name}: {both}, within {epsilon:.3f} {both.within(epsilon)}")
    assert both.ratio() <= 1.02
    ours, theirs = both.within(epsilon)
    assert ours >= theirs - 0.015
    return both


@pytest.mark.parametrize("name", list(FOOLBOX))
def test_as_close_as_foolbox(setting: Setting, name: str) -> None:
    plain = len(list(setting.classifier.modules())) > 20
    both = compare(setting, name, {"carlini-wagner": 12 if plain else 60}.get(name, 20 if plain else 100))
    if name in ("ddn", "fmn-linf", "carlini-wagner"):  # the same formula: image by image the same, but for rounding
        assert np.array_equal(np.isfinite(both.ours), np.isfinite(both.theirs))
        assert both.ratio() == pytest.approx(1, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(FOOLBOX))
def test_as_close_as_foolbox_on_200(setting: Setting, name: str) -> None:
    compare(setting, name, 200)


def test_lengths_and_correct_samples_of_the_comparison(setting: Setting) -> None:
    part = correct(setting, 20)
    assert (setting.classifier.logits(part.x).argmax(1) == part.y).all()
    delta = torch.zeros(1, 3, 4, 4)
    delta[0, 0, 1, 1], delta[0, 2, 1, 1], delta[0, 1, 3, 0] = 3.0, 4.0, 1e-6
    assert lengths(delta, Norm.L0).tolist() == [2.0]
    assert lengths(delta, Norm.L1).tolist() == pytest.approx([7.0])
