"""Vetting: mis-declared normalisation, class order, dead gradients and unstable outputs are noticed; a sound model is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor.classifier import NORMALIZATIONS, Classifier, Normalization
from auditor.dataset import ImageDataset
from auditor.errors import EvaluationError, MismatchError
from auditor.metrics import Rate
from auditor.vet import vet
from tests.nets import SHAPE, labelled, random_images, small_cnn


def made(network: nn.Module, normalization: str | Normalization = "half", classes: int = 5) -> Classifier:
    values = NORMALIZATIONS[normalization] if isinstance(normalization, str) else normalization
    return Classifier(network, input_shape=SHAPE, num_classes=classes, normalization=values)


def sensitive() -> nn.Module:
    """A linear model: another mean or scale of its input moves it to other classes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 5))


def names(flags: object) -> dict[str, str]:
    return {flag.name: flag.severity for flag in flags}  # type: ignore[attr-defined]


def test_a_sound_model_raises_no_doubt() -> None:
    classifier = made(small_cnn())
    card = vet(classifier, labelled(classifier, n=300, wrong=30))
    assert card.flags == ()
    assert card.accuracy == Rate.count(270, 300)
    assert card.parameters == 3 * 9 * 8 + 8 + 2 * 8 + 72 * 5 + 5  # conv, norm, linear
    assert card.layer_counts == {"conv": 1, "linear": 1, "norm": 1, "activation": 1}
    assert [layer["name"] for layer in card.layers] == ["0", "1", "2", "5"]


@pytest.mark.parametrize(
    ("right", "declared", "named"),
    [
        ("imagenet", "none", "ImageNet's"),
        ("half", "none", "0.5 / 0.5"),
        ("none", "imagenet", "none"),
        (Normalization(mean=(0.2, 0.5, 0.8), std=(0.1, 0.2, 0.3), channel_order="BGR"), None, "as declared, but BGR"),
        (Normalization(mean=(120.0,), std=(60.0,), value_range="0-255"), None, "as declared, but pixels 0-255"),
    ],
    ids=["forgotten ImageNet", "forgotten 0.5", "superfluous", "BGR", "0-255"],
)
def test_a_wrong_declaration_is_found_and_the_right_one_named(right: object, declared: str | None, named: str) -> None:
    truth = made(sensitive(), right)  # type: ignore[arg-type]
    data = labelled(truth, n=300, wrong=0)
    if declared is not None:
        wrong = NORMALIZATIONS[declared]
    else:
        assert isinstance(right, Normalization)
        wrong = right.model_copy(update={"channel_order": "RGB", "value_range": "0-1"})
    card = vet(truth.with_normalization(wrong), data)
    assert names(card.flags)["normalisation"] == "severe"
    flag = next(flag for flag in card.flags if flag.name == "normalisation")
    assert f"({named})" in flag.message
    best = max(card.candidates, key=lambda item: item.lead)
    assert best.accuracy.value == 1.0
    assert best.name == named


def test_the_candidates_are_measured_one_by_one() -> None:
    classifier = made(small_cnn())
    data = labelled(classifier, n=100, wrong=20)
    card = vet(classifier, data)
    x = data.images(np.arange(100))
    for item in card.candidates:
        other = classifier.with_normalization(item.normalization)
        correct = (other(x).argmax(1).numpy() == data.labels).mean()
        assert item.accuracy.value == pytest.approx(correct)
        assert item.lead == pytest.approx(correct - 0.8)
    assert {item.name for item in card.candidates} == {
        "none", "ImageNet's", "CIFAR-10's", "as declared, but BGR", "as declared, but pixels 0-255",
    }  # fmt: skip


def test_a_small_lead_of_chance_is_no_warning() -> None:
    classifier = made(small_cnn(), "cifar10")
    data = labelled(made(small_cnn(), "cifar10-loose"), n=300, wrong=0)
    card = vet(classifier, data)
    lead = max(item.lead for item in card.candidates)
    assert ("normalisation" in names(card.flags)) == (
        lead >= 0.02 and min(item.p for item in card.candidates) < 0.01 / 8
    )


def test_classes_in_another_order_are_noticed() -> None:
    classifier = made(small_cnn())
    data = labelled(classifier, n=300, wrong=0)
    shuffled = ImageDataset(data._images, np.array([3, 4, 0, 1, 2])[data.labels], name="shuffled")
    assert names(vet(classifier, shuffled).flags) == {"class order": "severe"}


def test_a_model_no_better_than_guessing_is_noticed() -> None:
    classifier = made(small_cnn())
    labels = np.random.default_rng(0).integers(0, 5, 300)
    assert names(vet(classifier, ImageDataset(random_images(300), labels)).flags)["no better than chance"] == "severe"


class Quantised(nn.Module):
    """Rounds its input, so that no gradient comes through."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x * 8).round() / 8)


class Noisy(Quantised):
    def forward(self, x: Tensor) -> Tensor:
        return self.network(x + 0.3 * torch.randn_like(x))


class Coupled(Quantised):
    """Normalises by the batch, as batch normalisation left in training mode does."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x - 0.5 * x[:1])


class Probabilities(Quantised):
    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).softmax(1)


@pytest.mark.parametrize(
    ("wrapper", "expected"),
    [
        (Quantised, {"no gradient": "severe"}),
        (Noisy, {"random output": "warning"}),
        (Coupled, {"batch dependence": "severe"}),
        (Probabilities, {"probabilities": "warning"}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_treacherous_models_are_noticed(wrapper: type[Quantised], expected: dict[str, str]) -> None:
    assert names(vet(made(wrapper(small_cnn()))).flags) == expected


def test_a_model_without_data_is_looked_over_all_the_same() -> None:
    card = vet(made(small_cnn()))
    assert (card.dataset, card.samples, card.accuracy, card.candidates) == (None, 0, None, ())
    assert card.num_classes == 5


def test_nan_weights_stop_it() -> None:
    network = small_cnn()
    network[5].bias.data[0] = torch.nan
    with pytest.raises(EvaluationError, match="NaN"):
        vet(made(network))


def test_data_that_do_not_fit_are_named() -> None:
    classifier = made(small_cnn())
    with pytest.raises(MismatchError, match=r"takes images of 3x6x6 .* has 1x6x6"):
        vet(classifier, ImageDataset(random_images(4, (1, 6, 6)), np.zeros(4, np.int64)))
    with pytest.raises(MismatchError, match="has 6 classes, the model only 5"):
        vet(classifier, ImageDataset(random_images(4), np.array([0, 1, 2, 5])))
    with pytest.raises(MismatchError, match="holds no images"):
        vet(classifier, ImageDataset(random_images(0), np.zeros(0, np.int64)))


def test_grey_images_are_tried_with_the_normalisations_of_grey_data() -> None:
    network = small_cnn(shape=(1, 6, 6))
    classifier = Classifier(network, input_shape=(1, 6, 6), num_classes=5, normalization=NORMALIZATIONS["mnist"])
    card = vet(classifier, labelled(classifier, n=60))
    assert {item.name for item in card.candidates} == {
        "none", "0.5 / 0.5", "Fashion-MNIST's", "as declared, but pixels 0-255",
    }  # fmt: skip
