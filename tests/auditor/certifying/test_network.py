"""Which networks bounds pass through, and what is said of those that they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from auditor.attacking.criterion import Misclassification
from auditor.attacking.threat import Norm, ThreatModel
from auditor.certifying.certificate import CERTIFICATES, Proofs, certify
from auditor.certifying.network import BoundableNetwork, NotProvable
from auditor.kit.errors import SpecError
from auditor.models.classifier import Classifier
from auditor.models.dataset import ImageDataset
from auditor.models.preflight import drawn
from tests.auditor.auditing.test_random_networks import Dropping
from tests.auditor.certifying.networks import KINDS, SHAPE, random_classifier
from tests.auditor.certifying.test_soundness import images


class Applied(nn.Module):
    """A function between a convolution and a linear layer."""

    def __init__(self, function: Any, features: int = 2 * 64, classes: int = 4) -> None:
        super().__init__()
        self.conv, self.function, self.last = nn.Conv2d(3, 2, 3, padding=1), function, nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Any:
        return self.last(torch.flatten(self.function(self.conv(x)), 1))


def classifier_of(network: nn.Module, classes: int = 4, **options: Any) -> Classifier:
    torch.manual_seed(0)
    return Classifier(network, input_shape=SHAPE, num_classes=classes, **options)


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_operations_are_the_network(kind: str) -> None:
    classifier = random_classifier(kind, 3)
    x = images(4)
    with torch.no_grad():
        given, wanted = BoundableNetwork(classifier)(x), classifier(x.float())
    assert torch.allclose(given.log_softmax(1).float(), wanted.log_softmax(1), atol=1e-5)


@pytest.mark.parametrize(
    ("function", "features"),
    [
        (lambda x: functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True), 2 * 25), (nn.AdaptiveMaxPool2d(4), 2 * 16),
        (lambda x: functional.pad(x, (1, 2, 0, 1)), 2 * 99), (lambda x: x.permute(0, 2, 3, 1), 128),
        (lambda x: x[:, :, ::2, 1:], 2 * 28), (lambda x: 2 - x / 4, 128), (lambda x: x - torch.relu(x), 128),
        (lambda x: x.view(x.size(0), -1), 128), (lambda x: functional.dropout(x, 0.5, False), 128),
    ],
)  # fmt: skip
def test_bounds_pass(function: Any, features: int) -> None:
    network = BoundableNetwork(classifier_of(Applied(function, features)))
    ids, data = np.arange(3), ImageDataset(images().float().numpy(), np.zeros(3, np.int64))
    with torch.no_grad():
        labels = network(images()).argmax(1)
    found = certify(
        classifier_of(Applied(function, features)), CERTIFICATES.parse("crown"), ThreatModel(epsilon=1e-6), data, ids,
        Misclassification(labels),
    )  # fmt: skip
    assert np.isfinite(found.margin).all()


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (nn.GELU(), "GELU at function"), (torch.sigmoid, "sigmoid at sigmoid"), (nn.GroupNorm(1, 2), "GroupNorm at function"),
        (lambda x: x * x, "mul at mul (of two values that depend on the image)"), (lambda x: 1 / x, "truediv at truediv"),
        (nn.AdaptiveMaxPool2d(3), "AdaptiveMaxPool2d at function (windows of unlike sizes)"),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), "Conv2d at function (circular padding)"),
    ],
)  # fmt: skip
def test_what_bounds_do_not_pass_is_named(function: Any, said: str) -> None:
    features = 2 * 9 if isinstance(function, nn.AdaptiveMaxPool2d) else 128
    with pytest.raises(NotProvable) as caught:
        BoundableNetwork(classifier_of(Applied(function, features)))
    assert f"Not provable with this method: {said}" in str(caught.value)


def test_a_random_network_is_not_provable() -> None:

    classifier = drawn(
        classifier_of(Dropping(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)))), images().float(), seed=0
    )
    assert classifier.random
    with pytest.raises(NotProvable, match="random numbers"):
        BoundableNetwork(classifier)


def test_l0_is_refused_in_a_sentence() -> None:
    data = ImageDataset(images().float().numpy(), np.zeros(3, np.int64))
    goal = Misclassification(torch.zeros(3, dtype=torch.long))
    with pytest.raises(SpecError, match="knows L1, L2, L∞, not L0"):
        certify(
            random_classifier("plain"),
            CERTIFICATES.parse("crown"),
            ThreatModel(norm=Norm.L0, epsilon=3),
            data,
            [0, 1, 2],
            goal,
        )


class Outputs(nn.Module):
    def __init__(self, shape: str) -> None:
        super().__init__()
        self.body = Applied(nn.ReLU(), classes=1 if shape == "one" else 4)
        self.shape = shape

    def forward(self, x: Tensor) -> Any:
        z = self.body(x)
        if self.shape == "dict":
            return {"features": z * 2, "logits": z}
        return torch.softmax(z, dim=1) if self.shape == "softmax" else z[:, :, None] if self.shape == "wide" else z


@pytest.mark.parametrize("shape", ["dict", "softmax", "wide", "one"])
def test_outputs_are_read_as_the_classifier_reads_them(shape: str) -> None:
    classifier = classifier_of(Outputs(shape), classes=2 if shape == "one" else 4)
    x = images(4)
    with torch.no_grad():
        given, wanted = BoundableNetwork(classifier)(x), classifier(x.float()).double()
    assert given.shape == wanted.shape
    if shape == "softmax":
        wanted = wanted.log()
    assert torch.allclose(given.log_softmax(1), wanted.log_softmax(1), atol=1e-5)


def test_a_bound_that_is_not_finite_proves_nothing() -> None:
    found = Proofs(np.array([0.1, np.nan, np.inf, -np.inf, 0.0, -0.1]), 0.0)
    assert found.proved.tolist() == [True, False, False, False, False, False]
