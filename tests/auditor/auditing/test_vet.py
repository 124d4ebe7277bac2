"""Vetting: mis-declared normalization, class order, dead gradients and unstable outputs are noticed; a sound model is not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor.auditing.declaration import parse_accuracy
from auditor.auditing.normalizations import BUDGETS, likely_mistakes
from auditor.auditing.vet import ClassifierCard, vet
from auditor.kit.errors import EvaluationError, MismatchError, SpecError
from auditor.kit.flag import Flag
from auditor.kit.statistics.estimate import Rate
from auditor.models.classifier import NORMALIZATIONS, Classifier, Normalization
from auditor.models.dataset import ImageDataset
from tests.auditor.auditing.checks.models import examine
from tests.narrow import known, sequence
from tests.nets import SHAPE, labelled, random_images, small_cnn


def made(network: nn.Module, normalization: str | Normalization = "half", classes: int = 5) -> Classifier:
    values = NORMALIZATIONS[normalization] if isinstance(normalization, str) else normalization
    return Classifier(network, input_shape=SHAPE, num_classes=classes, normalization=values)


def sensitive() -> nn.Module:
    """A linear model: another mean or scale of its input moves it to other classes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 5))


def names(flags: Iterable[Flag]) -> dict[str, str]:
    return {flag.name: flag.severity for flag in flags}


def test_a_sound_model_raises_no_doubt() -> None:
    classifier = made(small_cnn())
    card = vet(classifier, labelled(classifier, n=300, wrong=30))
    assert card.flags == ()
    assert card.accuracy == Rate.count(270, 300)
    assert card.parameters == 3 * 9 * 8 + 8 + 2 * 8 + 72 * 5 + 5  # conv, norm, linear
    assert card.layer_counts == {"conv": 1, "linear": 1, "norm": 1, "activation": 1}
    assert [layer.name for layer in card.layers] == ["0", "1", "2", "5"]


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
def test_a_wrong_declaration_is_found_and_the_right_one_named(
    right: str | Normalization, declared: str | None, named: str
) -> None:
    truth = made(sensitive(), right)
    data = labelled(truth, n=300, wrong=0)
    if declared is not None:
        wrong = NORMALIZATIONS[declared]
    else:
        assert isinstance(right, Normalization)
        wrong = right.model_copy(update={"channel_order": "RGB", "value_range": "0-1"})
    card = vet(truth.with_normalization(wrong), data)
    assert names(card.flags)["normalization"] == "severe"
    flag = next(flag for flag in card.flags if flag.name == "normalization")
    assert f"({named}" in flag.message, "the best comes first, then those that tie with it"
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
        "none", "ImageNet's", "CIFAR-10's", "CIFAR's with std 0.2", "CIFAR-100's", "as declared, but BGR",
        "as declared, but pixels 0-255",
    }  # fmt: skip


def test_a_small_lead_of_chance_is_no_warning() -> None:
    classifier = made(small_cnn(), "cifar10")
    data = labelled(made(small_cnn(), "cifar10-loose"), n=300, wrong=0)
    card = vet(classifier, data)
    lead = max(item.lead for item in card.candidates)
    assert ("normalization" in names(card.flags)) == (
        lead >= 0.02 and min(item.p for item in card.candidates) < 0.01 / 7
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


class Quantized(nn.Module):
    """Rounds its input, so that no gradient comes through."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x * 8).round() / 8)


class Noisy(Quantized):
    def forward(self, x: Tensor) -> Tensor:
        return self.network(x + 0.3 * torch.randn_like(x))


class Coupled(Quantized):
    """Normalizes by the batch, as batch normalization left in training mode does."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x - 0.5 * x[:1])


class Probabilities(Quantized):
    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).softmax(1)


@pytest.mark.parametrize(
    ("wrapper", "expected"),
    [
        (Quantized, {"no gradient": "severe"}),
        (Noisy, {"random output": "warning"}),
        (Coupled, {"batch dependence": "severe"}),
        (Probabilities, {"probabilities": "warning"}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_treacherous_models_are_noticed(wrapper: type[Quantized], expected: dict[str, str]) -> None:
    assert names(vet(made(wrapper(small_cnn()))).flags) == expected


def test_a_model_without_data_is_looked_over_all_the_same() -> None:
    card = vet(made(small_cnn()))
    assert (card.dataset, card.samples, card.accuracy, card.candidates) == (None, 0, None, ())
    assert card.num_classes == 5


def test_nan_weights_stop_it() -> None:
    network = sequence(small_cnn())
    network[5].bias.data[0] = torch.nan
    with pytest.raises(EvaluationError, match="NaN"):
        vet(made(network))


def test_data_that_do_not_fit_are_named() -> None:
    classifier = made(small_cnn())
    with pytest.raises(MismatchError, match=r"takes images of 3x6x6 .* has 1x6x6"):
        vet(classifier, ImageDataset(random_images(4, (1, 6, 6)), np.zeros(4, np.int64)))
    with pytest.raises(MismatchError, match="labels from 0 to 5, the model only 5 classes"):
        vet(classifier, ImageDataset(random_images(4), np.array([0, 1, 2, 5])))
    with pytest.raises(MismatchError, match="holds no images"):
        vet(classifier, ImageDataset(random_images(0), np.zeros(0, np.int64)))


def test_grey_images_are_tried_with_the_normalizations_of_grey_data() -> None:
    network = small_cnn(shape=(1, 6, 6))
    classifier = Classifier(network, input_shape=(1, 6, 6), num_classes=5, normalization=NORMALIZATIONS["mnist"])
    card = vet(classifier, labelled(classifier, n=60))
    assert {item.name for item in card.candidates} == {
        "none", "0.5 / 0.5", "Fashion-MNIST's", "as declared, but pixels 0-255",
    }  # fmt: skip


def mnist(shared: Path, training: str) -> tuple[Classifier, ImageDataset]:
    """A network that others trained on MNIST's pixels as they are, and 300 test images."""
    layers = [nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))
    weights = torch.load(shared / "weights" / f"mnist-cnn-{training}.pt", weights_only=True, map_location="cpu")
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
    with np.load(shared / "data" / "mnist-test.npz") as arrays:
        data = ImageDataset(arrays["images"][:300, ..., None], arrays["labels"][:300], name="MNIST")
    return Classifier(network, input_shape=(1, 28, 28), num_classes=10), data


def left_by_pgd(classifier: Classifier, data: ImageDataset, ids: np.ndarray, epsilon: float) -> float:
    """A plain PGD of 20 small steps on the margin, without the harness: the share of these images that stays right."""
    x, y = data.images(ids), torch.from_numpy(data.labels[ids])
    stands = classifier(x).argmax(1) == y
    points = x.clone()
    for _ in range(20):
        points.requires_grad_()
        logits = classifier(points)
        rival = logits.scatter(1, y[:, None], -torch.inf).amax(1)
        (slope,) = torch.autograd.grad((rival - logits.gather(1, y[:, None]).squeeze(1)).sum(), points)
        points = torch.clamp(points.detach() + epsilon / 8 * slope.sign(), x - epsilon, x + epsilon).clamp(0, 1)
        stands &= classifier(points).argmax(1) == y
    return float(stands.float().mean())


@pytest.mark.parametrize("training", ["pgd-trained", "trades-trained"])
def test_a_normalization_that_keeps_clean_accuracy_and_costs_robustness_is_noticed(shared: Path, training: str) -> None:
    right, data = mnist(shared, training)
    wrong = right.with_normalization(NORMALIZATIONS["mnist"])
    card = vet(wrong, data, samples=200)
    assert names(card.flags) == {"normalization": "warning"}
    (flag,) = card.flags
    assert "(none" in flag.message
    assert "none: mean 0, std 1" in flag.remedy
    assert "add the model again with `--normalization`" in flag.remedy
    none = next(item for item in card.candidates if item.name == "none")
    assert card.robust is not None
    assert none.robust is not None
    assert card.tied
    assert none.tied, "clean accuracy does not tell them apart"
    assert abs(none.lead) < 0.02
    assert card.epsilon == 0.3
    # Five steps leave a little more than twenty do, and say the same.
    ids = data.select(200, 0)
    for robust, classifier in ((card.robust, wrong), (none.robust, right)):
        independent = left_by_pgd(classifier, data, ids, 0.3)
        assert robust.value is not None
        assert independent - 0.02 <= robust.value <= independent + 0.15
    assert known(none.robust.value) - known(card.robust.value) > 0.4
    assert f"leaves {card.robust} as declared" in card.ties
    assert f"{none.robust} under none" in card.ties
    # The audit's own check says the same of the same images.
    found = examine("normalization", wrong, data=data, settings={"images": 200})
    assert found.said == {"normalization": "warning"}
    assert found.flags[0].message == flag.message


@pytest.mark.parametrize("training", ["plain", "fgsm-trained", "pgd-trained", "trades-trained"])
def test_no_doubt_about_networks_that_are_declared_rightly(shared: Path, training: str) -> None:
    card = vet(*mnist(shared, training), samples=200)
    assert card.flags == ()
    assert card.ties, "ties are named all the same"


@pytest.mark.parametrize("key", ["plain", "robust"])
def test_no_doubt_about_the_sample(key: str) -> None:
    from auditor.data import samples
    from auditor.data.intake.weights import load_weights

    network = samples.ARCHITECTURE.build()
    load_weights(network, samples.WEIGHTS[key])
    with np.load(samples.IMAGES) as arrays:
        images = arrays["images"][:400].reshape(400, 28, 28, 1)
        data = ImageDataset(images, arrays["labels"][:400])
    assert vet(Classifier(network, input_shape=(1, 28, 28), num_classes=10), data).flags == ()


def test_which_of_several_equal_normalizations_is_meant_is_left_open() -> None:
    """A network that sees only which side of zero its input lies on: as many named ones as have a mean near the right one fit."""

    class Signs(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            means = x.mean((2, 3)).sum(1)
            return torch.stack([means, -means], 1)

    right = Classifier(Signs(), input_shape=SHAPE, num_classes=2, normalization=NORMALIZATIONS["cifar10"])
    data = labelled(right, n=300, wrong=0)
    card = vet(right.with_normalization(NORMALIZATIONS["none"]), data)
    flag = next(flag for flag in card.flags if flag.name == "normalization")
    tied = {item.name for item in card.candidates if item.tied}
    assert {"CIFAR-10's", "CIFAR's with std 0.2"} <= tied, "the same mean, and the scale is nothing to this network"
    for name in tied:
        assert name in flag.message
        assert f"{name}: mean" in flag.remedy


@pytest.mark.parametrize(
    ("right", "classes", "declared", "said"),
    [
        (60, 10, None, {"near chance": "warning"}),  # 20 %: twice as good as guessing, and yet hardly a classifier
        (60, 10, 0.2, {}),  # known and said
        (60, 10, 0.9, {"near chance": "warning", "short of its declared accuracy": "severe"}),
        (120, 10, None, {}),  # 40 %
        (120, 10, 0.55, {"short of its declared accuracy": "warning"}),  # upper end 45.6 %
        (120, 10, 0.50, {}),
        (30, 10, None, {"no better than chance": "severe"}),
        (180, 2, None, {"near chance": "warning"}),  # 60 % of two classes
    ],
)
def test_an_accuracy_near_chance_or_far_under_the_declared_one_is_a_flag(
    right: int, classes: int, declared: float | None, said: dict[str, str]
) -> None:
    class Constant(nn.Module):
        """Always the last class."""

        def forward(self, x: Tensor) -> Tensor:
            return (
                nn.functional.one_hot((x[:, 0, 0, 0] * 0 + classes - 1).long(), classes) + 0 * x.sum((1, 2, 3))[:, None]
            )

    labels = np.concatenate([np.full(right, classes - 1), np.arange(300 - right) % (classes - 1)])
    data = ImageDataset(random_images(300), labels)
    classifier = Classifier(Constant(), input_shape=SHAPE, num_classes=classes, declared_accuracy=declared)
    flags = names(vet(classifier, data).flags)
    for unrelated in ("no gradient", "probabilities"):
        flags.pop(unrelated, None)
    assert flags == said
    assert examine("normalization", classifier, data=data).said == said


def test_an_accuracy_is_read_as_percent_or_as_a_share() -> None:
    assert [parse_accuracy(text) for text in ("", " 92.5 ", "92.5 %", "0.925", "1", "0.9%")] == [
        None, 0.925, 0.925, 0.925, 1.0, pytest.approx(0.009),
    ]  # fmt: skip
    for text in ("high", "0", "101", "-3", "nan"):
        with pytest.raises(SpecError, match=r"accuracy: expected percent of images, such as 92\.5, got"):
            parse_accuracy(text)


def test_every_named_normalization_is_a_candidate_where_its_channels_fit() -> None:
    for channels, left_out in ((1, ()), (3, ("mnist", "fashion-mnist"))):
        classifier = Classifier(nn.Flatten(), input_shape=(channels, 4, 4), num_classes=2)
        tried = {item.for_channels(channels) for item in likely_mistakes(classifier).values()}
        for name, item in NORMALIZATIONS.items():
            if name not in ("none", *left_out) and len(item.mean) in (1, channels):
                assert item.for_channels(channels) in tried, name
    assert "CIFAR's with std 0.2" in likely_mistakes(classifier)
    assert set(BUDGETS) == {1, 3}


def test_a_card_made_before_ties_were_looked_for_still_loads() -> None:
    classifier = made(small_cnn())
    card = vet(classifier, labelled(classifier, n=60))
    old = card.model_dump(mode="json", exclude={"declared_accuracy", "tied", "robust", "epsilon"})
    for item in old["candidates"]:
        del item["tied"], item["robust"]
    assert ClassifierCard.model_validate(old).ties == ""
