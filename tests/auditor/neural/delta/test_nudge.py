"""A moved neuron against networks taken apart by hand; first-order estimates against finite differences."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auditor.kit.errors import EvaluationError
from auditor.kit.statistics.moments import Moments
from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import Classifier
from auditor.models.neurons import list_layers
from auditor.neural.delta.crossings import first_crossings
from auditor.neural.delta.nudge import Nudge, NudgedMargins
from auditor.neural.delta.survey import before_each_change_of_size, first_order, in_float64, spreads
from tests.auditor.neural.analyses.given import Given
from tests.narrow import sequence, typed
from tests.nets import SHAPE, small_classifier


class Branches(nn.Module):
    """A concatenation with what a branch before the layer gave: it takes no more rows than came in."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1)
        self.head = nn.Linear(6 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        early = self.two(x)
        return self.head(torch.cat([self.one(x).relu(), early], 1).flatten(1))


def branches() -> Classifier:
    torch.manual_seed(0)
    return Classifier(Branches(), input_shape=SHAPE, num_classes=4, copy=False).double()


def by_hand(classifier: Classifier, place: int, image: Tensor, neuron: int, amount: float) -> Tensor:
    """The layers of a sequential network, with one map moved in between."""
    features = sequence(classifier)[:place](classifier.normalize(image)).clone()
    features[:, neuron] += amount
    return sequence(classifier)[place:](features)[0]


def two_images() -> Tensor:
    return torch.rand(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("place", [1, 2, 3, 6], ids=["conv", "norm", "relu", "logits"])
def test_a_moved_neuron_in_a_network_taken_apart(place: int) -> None:
    classifier, images = small_classifier().double(), two_images()
    owner, neurons, amounts = [0, 1, 0, 1], [0, 3, 3, 4], [0.5, -1.0, 20.0, 0.0]
    nudge = Nudge(classifier, str(place - 1))
    assert nudge.cut
    nudge.hold(images)
    found = nudge.logits(torch.tensor(owner), torch.tensor(neurons), torch.tensor(amounts).double())
    for row, image, neuron, amount in zip(found, owner, neurons, amounts, strict=True):
        expected = by_hand(classifier, place, images[image : image + 1], neuron, amount)
        assert torch.allclose(row, expected, rtol=1e-12)


def test_a_network_that_cannot_be_cut_is_run_whole() -> None:
    classifier, images = branches(), two_images()
    nudge = Nudge(classifier, "one")
    assert not nudge.cut, "the other branch sees another image"
    nudge.hold(images)
    found = nudge.logits(torch.tensor([1, 0]), torch.tensor([1, 2]), torch.tensor([0.7, -0.7]).double())
    network = typed(classifier.network, Branches)
    for row, (image, neuron, amount) in zip(found, [(1, 1, 0.7), (0, 2, -0.7)], strict=True):
        x = images[image : image + 1]
        maps = network.one(x)
        maps[:, neuron] += amount
        expected = network.head(torch.cat([maps.relu(), network.two(x)], 1).flatten(1))[0]
        assert torch.allclose(row, expected, rtol=1e-12)


def test_a_shortcut_around_the_layer_forbids_the_cut() -> None:
    """The addition would take the rows, and the other image's shortcut with them."""

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(108, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.one(x) + x).flatten(1))

    assert not Nudge(Classifier(Around(), input_shape=SHAPE, num_classes=4, copy=False).double(), "one").cut


@pytest.mark.parametrize("kind", ["vgg", "resnet-cifar"])
def test_cut_or_whole_the_logits_are_the_same(kind: str) -> None:
    torch.manual_seed(0)
    architecture = ARCHITECTURES.build(kind, {})
    classifier = Classifier(
        architecture.build(), input_shape=architecture.input_shape, num_classes=10, copy=False
    ).double()
    layers = before_each_change_of_size(classifier, 6)
    sizes = [layer.spatial for layer in layers]
    assert len(set(sizes)) == len(sizes)
    assert len(sizes) == {"vgg": 5, "resnet-cifar": 3}[kind]
    found = []
    for cut in (None, False):
        nudge = Nudge(classifier, layers[1].name, cut=cut)
        assert nudge.cut == (cut is None)
        nudge.hold(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(6)).double())
        owner, neurons, amounts = torch.tensor([1, 0]), torch.tensor([0, 5]), torch.tensor([1.0, -2.0]).double()
        found.append(nudge.logits(owner, neurons, amounts))
    cut_there, whole = found
    assert torch.allclose(cut_there, whole, rtol=1e-10)


def plain_margins(classifier: Classifier, x: Tensor, predicted: Tensor, neurons: Tensor, places: Tensor) -> Tensor:
    """In float64, one image, one neuron and one place after the other: the lead of the predicted class."""
    exact, found = copy.deepcopy(classifier).double(), []
    for line, place in enumerate(places):
        image, neuron = divmod(line, len(neurons))
        logits = by_hand(exact, 3, x[image : image + 1].double(), int(neurons[neuron]), float(place))
        own = logits[predicted[image]].item()
        logits[predicted[image]] = -torch.inf
        found.append(own - logits.max().item())
    return torch.tensor(found, dtype=torch.float64)


def test_margins_in_float32_with_float64_in_doubt_have_the_sign_of_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """At and around places found by the search, down to a ten-millionth away, and far from them."""
    classifier = small_classifier()
    x, neurons = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(3)), torch.arange(8)
    predicted = classifier(x).argmax(1)
    margins = NudgedMargins(classifier, in_float64(classifier), "2").lines(x, predicted, neurons, 7)
    found = first_crossings(margins, torch.full((40,), 50.0).double(), points=40, per_call=16).value
    known = found.isfinite().nonzero().squeeze(1)
    assert len(known) > 10
    asked: list[int] = []
    logits = Nudge.logits

    def counted(self: Nudge, *where: Tensor) -> Tensor:
        asked.append(len(where[0]) if self.classifier.dtype == torch.float64 else 0)
        return logits(self, *where)

    monkeypatch.setattr(Nudge, "logits", counted)
    for factor, in_doubt in ((1 + 1e-7, True), (1 - 1e-7, True), (1 - 1e-4, True), (0.5, False), (0.0, False)):
        asked.clear()
        places = torch.where(found.isfinite(), found * factor, 1.0)
        expected = plain_margins(classifier, x, predicted, neurons, places)
        mine = margins(known, places[known])
        assert torch.equal(mine.sign(), expected[known].sign())
        assert torch.allclose(mine, expected[known], rtol=0, atol=1e-4)
        assert sum(asked) == len(known) if in_doubt else sum(asked) < len(known) / 2


def test_of_two_equal_logits_the_lower_index_is_the_answer() -> None:
    network = sequence(nn.Sequential(nn.Flatten(), nn.Linear(108, 3), nn.Identity()))
    with torch.no_grad():
        network[1].weight[:], network[1].bias[:] = 0.0, torch.tensor([1.0, 2.0, 1.0])
    classifier = Classifier(network, input_shape=SHAPE, num_classes=3, copy=False).double()
    margins = NudgedMargins(classifier, classifier, "1").lines(
        torch.rand(1, *SHAPE), torch.tensor([1]), torch.arange(3), 9
    )
    # Class 0 and class 2 rise by 1 each: equal to class 1, which stands behind class 0 and before class 2.
    signs = margins(torch.tensor([0, 2, 1, 1]), torch.tensor([1.0, 1.0, -1.0, 0.0]).double()).sign()
    assert signs.tolist() == [-1, 1, -1, 1]


def test_which_layers_stand_before_a_change_of_size() -> None:
    relu, conv = nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1)
    network = nn.Sequential(
        conv, nn.ReLU(), relu, nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4), nn.ReLU()
    )
    classifier = Classifier(network, input_shape=SHAPE, num_classes=4)
    assert [layer.name for layer in before_each_change_of_size(classifier, 6)] == ["2", "4", "7"]
    assert [layer.name for layer in before_each_change_of_size(classifier, 2)] == ["2", "7"]
    assert [layer.name for layer in before_each_change_of_size(classifier, 1)] == ["2"]
    plain = Classifier(nn.Sequential(conv, nn.Flatten(), nn.Linear(108, 4)), input_shape=SHAPE, num_classes=4)
    assert [layer.name for layer in before_each_change_of_size(plain, 6)] == ["0"]


def test_the_first_order_estimate_is_the_finite_difference() -> None:
    """Central differences of each margin along each neuron; steps of 1e-6 in float64, where ReLU and pool stay linear."""
    classifier = small_classifier().double()
    layers = [layer for layer in list_layers(classifier) if layer.name in ("0", "2")]
    x = torch.rand(3, *SHAPE, dtype=torch.float64)
    found = first_order(classifier, layers, x)
    for layer in layers:
        for b in range(3):
            logits = classifier(x[b : b + 1])[0]
            y = int(logits.argmax())
            for neuron in range(8):
                up, down = (by_hand(classifier, int(layer.name) + 1, x[b : b + 1], neuron, e) for e in (1e-6, -1e-6))
                estimates = [
                    -float(logits[y] - logits[c]) / float(((up[y] - up[c]) - (down[y] - down[c])) / 2e-6)
                    for c in range(5)
                    if c != y
                ]
                assert float(found[layer.name][b, neuron]) == pytest.approx(min(estimates, key=abs), rel=1e-4)


def test_a_neuron_without_influence_has_no_estimate() -> None:
    classifier = small_classifier().double()
    with torch.no_grad():
        sequence(classifier)[5].weight[:, :9] = 0.0  # what neuron 0 of the ReLU feeds
    layer = next(layer for layer in list_layers(classifier) if layer.name == "2")
    found = first_order(classifier, [layer], torch.rand(2, *SHAPE).double())["2"]
    assert found[:, 0].isinf().all()
    assert found[:, 1:].isfinite().any()


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_spread_is_numpys_over_images_and_positions(batch_size: int) -> None:
    classifier = small_classifier().double()
    x = torch.rand(10, *SHAPE, dtype=torch.float64)
    layers = [layer for layer in list_layers(classifier) if layer.name in ("0", "2", "5")]
    found = spreads(classifier, layers, Given(x, x, batch_size))
    features = classifier.normalize(x)
    for place, module in enumerate(sequence(classifier)):
        features = module(features)
        if str(place) in found:
            maps = features.flatten(2) if features.dim() > 2 else features[:, :, None]
            assert np.allclose(found[str(place)], maps.numpy().std((0, 2)), rtol=1e-10)


def test_equal_numbers_have_no_deviation() -> None:
    moments = Moments()
    for size in (3, 7, 20):
        moments.add(torch.full((2, size), 0.1))
    assert moments.std.tolist() == [0, 0]
    assert moments.count == 30


def test_a_network_that_needs_float32_is_declined() -> None:
    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(108, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.flatten(1).float())

    classifier = Classifier(Narrow(), input_shape=SHAPE, num_classes=3)
    with pytest.raises(EvaluationError, match="does not run in float64"):
        in_float64(classifier)
    assert classifier.dtype == torch.float32, "the classifier itself stays as it is"


def test_a_layer_that_folds_its_images_is_declined() -> None:
    """Every image becomes four rows: a channel is no longer one neuron of one image."""

    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            parts = torch.cat(x.split(3, 3)).split(3, 2)
            return self.head(self.conv(torch.cat(parts)).reshape(4, len(x), 4).movedim(0, 1).flatten(1))

    classifier = Classifier(Windows(), input_shape=SHAPE, num_classes=3)
    with pytest.raises(EvaluationError, match="does not keep one row per image"):
        first_order(
            classifier, [layer for layer in list_layers(classifier) if layer.name == "conv"], torch.rand(2, *SHAPE)
        )
