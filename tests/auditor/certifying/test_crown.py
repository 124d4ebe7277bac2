"""CROWN beside a plain restatement with whole matrices and loops, in NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from auditor.attacking.criterion import Misclassification, TargetedMisclassification
from auditor.attacking.threat import Norm, ThreatModel
from auditor.certifying import bounds as bounds_module
from auditor.certifying import crops
from auditor.certifying.bounds import rounding
from auditor.certifying.certificate import CERTIFICATES, certify
from auditor.certifying.network import BoundableNetwork
from auditor.certifying.region import Region
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.models.dataset import ImageDataset
from tests.auditor.certifying.networks import CLASSES, KINDS, random_classifier
from tests.auditor.certifying.test_soundness import LEAVE, REACH, images
from tests.auditor.real import images as real_images
from tests.auditor.real import sequential, tensors

CROWN = CERTIFICATES.build("crown", {})


def matrices(network: nn.Sequential, shape: tuple[int, int, int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The layers between the activations as whole matrices with their offsets, found by asking for each unit vector."""
    found, part, size = [], [], shape
    for layer in [*network, nn.ReLU()]:
        if not isinstance(layer, nn.ReLU):
            part.append(layer)
            continue
        function = nn.Sequential(*part)
        with torch.no_grad():
            zero = function(torch.zeros(1, *size, dtype=torch.double))
            entries = int(np.prod(size))
            columns = function(torch.eye(entries, dtype=torch.double).view(entries, *size)) - zero
        found.append((columns.flatten(1).T.numpy(), zero.flatten().numpy()))
        part, size = [], tuple(zero.shape[1:])
    return found


def restated(
    layers: list[tuple[np.ndarray, np.ndarray]],
    low: np.ndarray,
    high: np.ndarray,
    last: np.ndarray,
    interval: bool = False,
) -> np.ndarray:
    """Lower bounds of ``last`` times the logits over the box [low, high]: equations 3 to 5 of arXiv 1811.00866 with the
    adaptive slope, neuron by neuron. ``interval``: interval bounds before the activations (CROWN-IBP)."""
    known: list[tuple[np.ndarray, np.ndarray]] = []

    def lower(rows: np.ndarray, depth: int) -> np.ndarray:
        constant = np.zeros(len(rows))
        for at in range(depth, -1, -1):
            weight, offset = layers[at]
            constant = constant + rows @ offset
            rows = rows @ weight
            if at == 0:
                break
            a, b = known[at - 1]
            turned = np.zeros_like(rows)
            for neuron in range(rows.shape[1]):
                for row in range(len(rows)):
                    value = rows[row, neuron]
                    if a[neuron] >= 0:
                        turned[row, neuron] = value
                    elif b[neuron] > 0:
                        chord = b[neuron] / (b[neuron] - a[neuron])
                        if value >= 0:
                            turned[row, neuron] = value if b[neuron] > -a[neuron] else 0.0
                        else:
                            turned[row, neuron] = value * chord
                            constant[row] -= value * chord * a[neuron]
            rows = turned
        return constant + rows.clip(min=0) @ low + rows.clip(max=0) @ high

    a, b = low, high
    for depth in range(len(layers) - 1):
        weight, offset = layers[depth]
        center, radius = weight @ (a + b) / 2 + offset, np.abs(weight) @ (b - a) / 2
        a, b = center - radius, center + radius
        known.append((a, b))
        if not interval:  # what intervals leave open, bounds passed backwards say
            unit = np.eye(len(offset))
            left = (a < 0) & (b > 0)
            tighter = lower(unit, depth), -lower(-unit, depth)
            known[-1] = np.where(left, tighter[0], a), np.where(left, tighter[1], b)
        a, b = a.clip(min=0), b.clip(min=0)
    return lower(last, len(layers) - 1)


@pytest.mark.parametrize("epsilon", [0.002, 0.02, 0.1])
def test_equal_to_the_restatement(epsilon: float) -> None:
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3, 2, 1), nn.ReLU(), nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 9), nn.ReLU(),
        nn.Linear(9, CLASSES),
    )  # fmt: skip
    classifier = Classifier(network, input_shape=(1, 8, 8), num_classes=CLASSES)
    boundable, x = BoundableNetwork(classifier), torch.rand(2, 1, 8, 8, dtype=torch.double)
    region = Region(ThreatModel(epsilon=epsilon), x)
    layers = matrices(network.double(), (1, 8, 8))
    unit = np.eye(CLASSES)
    with torch.no_grad():
        for certificate, interval in (("crown", False), ("crown-ibp", True)):
            found = CERTIFICATES.build(certificate, {}).least(
                boundable, region, rounding(boundable), LEAVE[:2], REACH[:2]
            )
            for image in range(2):
                low, high = (item[image].flatten().numpy() for item in (region.low, region.high))
                rows = unit[int(LEAVE[image])] - unit[REACH[image].numpy()]
                assert found[image].numpy() == pytest.approx(restated(layers, low, high, rows, interval), abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "norm"), [*((kind, Norm.LINF) for kind in KINDS), ("residual", Norm.L2), ("plain", Norm.L1)]
)
def test_windows_and_few_rows_at_once_change_nothing(kind: str, norm: Norm, monkeypatch: pytest.MonkeyPatch) -> None:
    boundable = BoundableNetwork(random_classifier(kind, 2))
    region = Region(ThreatModel(norm=norm, epsilon=0.02 if norm is Norm.LINF else 0.3), images(2))
    margins = rounding(boundable)
    with torch.no_grad():
        found = CROWN.least(boundable, region, margins, LEAVE[:2], REACH[:2])
        for module, name, value in ((bounds_module, "ELEMENTS", 30_000), (crops, "DENSE", 0.0)):
            with monkeypatch.context() as patch:
                patch.setattr(module, name, value)
                again = CROWN.least(boundable, region, margins, LEAVE[:2], REACH[:2])
            assert torch.allclose(again, found, rtol=0, atol=1e-10)


def test_rounding_covers_the_difference_to_exact_arithmetic() -> None:
    """With weights and pixels in units of 2^-10, float64 holds every value of this network exactly; float32 does not."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 3))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_((parameter * 2**10).round() / 2**10)
    boundable = BoundableNetwork(Classifier(network, input_shape=(1, 8, 8), num_classes=3))
    x = (torch.rand(50, 1, 8, 8, dtype=torch.double) * 2**10).round() / 2**10
    with torch.no_grad():
        exact, coarse = boundable(x), network.float()(x.float()).double()
    margin = rounding(boundable)[-1]
    assert (coarse - exact).abs().max() > 0
    assert (
        (coarse - exact).abs() <= margin * 2.0**29
    ).all()  # the unit roundoff of float32 is 2^29 times that of float64
    assert (margin < 1e-10).all()


def test_a_targeted_attacker_has_less_to_reach() -> None:
    """Proved against any wrong class is proved against each; the class to beat is then the likeliest of the others."""
    classifier = random_classifier("plain", 4)
    data = ImageDataset(images(12).float().numpy(), np.zeros(12, np.int64))
    ids = np.arange(12)
    with torch.no_grad():
        answers = classifier(data.images(ids)).argmax(1)
    threat = ThreatModel(epsilon=0.01)
    anything = certify(classifier, CROWN, threat, data, ids, Misclassification(answers))
    single = [
        certify(classifier, CROWN, threat, data, ids, TargetedMisclassification((answers + shift) % CLASSES))
        for shift in range(1, CLASSES)
    ]
    assert np.min([item.margin for item in single], axis=0) == pytest.approx(anything.margin, abs=1e-9)
    each = np.array([item.proved for item in single])
    assert (anything.proved == each.all(0)).all()
    assert (each.any(0) & ~anything.proved).any()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "epsilon", "count", "proved", "correct"),
    [("fashion", 0.1, 200, 130, 162), ("fashion", 0.05, 100, 68, 75), ("cnn-a", 1 / 255, 200, 107, 116)],
)
def test_real_networks_are_proved_as_often_as_measured_before(
    kind: str, epsilon: float, count: int, proved: int, correct: int, shared: Path
) -> None:
    """Counts of auto_LiRPA's CROWN on the same images (docs/benchmarks-certificates.md)."""
    if kind == "cnn-a":
        network, file, data, name = (
            sequential(3, (16, 32), 2048),
            "cnn-a-adversarially-trained.pt",
            "cifar10",
            "cifar10-loose",
        )
    else:
        network, file, data, name = sequential(1, (16, 32), 1568), "fashion-certified-0.1.pth", "fashion-mnist", "none"
    network.load_state_dict(tensors(shared, file))
    shape = (3, 32, 32) if kind == "cnn-a" else (1, 28, 28)
    classifier = Classifier(network, input_shape=shape, num_classes=10, normalization=NORMALIZATIONS[name])
    dataset = real_images(shared / "data" / f"{data}-test.npz", count)
    ids = np.arange(count)
    found = certify(
        classifier,
        CROWN,
        ThreatModel(epsilon=epsilon),
        dataset,
        ids,
        Misclassification(torch.from_numpy(dataset.labels)),
    )
    with torch.no_grad():
        right = (classifier(dataset.images(ids)).argmax(1).numpy() == dataset.labels).sum()
    assert int(right) == correct
    assert int(found.proved.sum()) >= proved
