"""A classifier with changed outputs against the same network with a layer that makes the change."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from auditor.attacking.harness.fast import fast_copy
from auditor.defending.defense import DEFENSES
from auditor.models.classifier import Classifier
from auditor.neural.probes.altered import altered_classifier, scaled
from tests.narrow import known, sequence
from tests.nets import SHAPE, small_classifier


class Scale(nn.Module):
    factors: Tensor

    def __init__(self, factors: Tensor) -> None:
        super().__init__()
        self.register_buffer("factors", factors.view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors


def with_scale(classifier: Classifier, factors: Tensor, after: int = 2) -> Classifier:
    """The small network with a layer more, after its ReLU."""
    layers = list(sequence(classifier))
    network = nn.Sequential(*layers[: after + 1], Scale(factors), *layers[after + 1 :])
    other = Classifier(
        network, input_shape=SHAPE, num_classes=classifier.num_classes, normalization=classifier.normalization
    )
    return other.to(classifier.device, classifier.dtype)


def test_outputs_and_gradients_are_those_of_a_network_with_the_change_built_in() -> None:
    classifier = small_classifier().double()
    mask = torch.tensor([True, False, False, True, False, False, False, False])
    factors = torch.where(mask, 0.3, 1.0).double()
    changed = altered_classifier(classifier, {"2": scaled(mask, 0.3)})
    expected = with_scale(classifier, factors)
    gradients = []
    for one in (changed, expected):
        x = torch.rand(4, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        logits = one(x)
        logits[:, 1].sum().backward()
        gradients.append((logits.detach(), known(x.grad)))
    assert torch.allclose(gradients[0][0], gradients[1][0], rtol=1e-12)
    assert torch.allclose(gradients[0][1], gradients[1][1], rtol=1e-12)
    assert not torch.allclose(gradients[0][0], classifier(x))
    assert changed.dtype == torch.float64


def test_attacks_see_the_changes_too() -> None:
    """A copy made by tracing would have lost them, and at a factor near 1 nobody would have noticed."""
    changed = altered_classifier(small_classifier(), {"2": scaled(torch.ones(8, dtype=torch.bool), 0.9999)})
    assert fast_copy(changed) is changed
    plain = small_classifier()
    assert fast_copy(plain) is not plain


def test_the_network_is_left_as_it_was() -> None:
    classifier = small_classifier()
    x = torch.rand(2, *SHAPE)
    before = classifier(x)
    altered_classifier(classifier, {"2": scaled(torch.ones(8, dtype=torch.bool), 0.0)})(x)
    assert torch.equal(classifier(x), before)


def test_a_defense_stays_in_front_of_the_changed_network() -> None:
    classifier, x = small_classifier(), torch.rand(4, *SHAPE)
    off = torch.arange(8) < 3
    defense = DEFENSES.build("bit-depth", {"bits": 2})
    both = altered_classifier(defense.wrap(classifier), {"2": scaled(off, 0.0)})
    assert torch.equal(
        both.logits(x), altered_classifier(classifier, {"2": scaled(off, 0.0)}).logits((x * 3).round() / 3)
    )
