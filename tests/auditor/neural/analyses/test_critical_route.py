"""The critical route of a small network against a restatement image by image, and what its section shows."""

from __future__ import annotations

import copy
import json
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from auditor.kit.errors import NotFoundError
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.neural.analyses.critical_route import IMAGES as IMAGES_KEPT
from auditor.neural.analyses.critical_route import CriticalRoute
from auditor.neural.analysis import Finding, Subject, detail_of, measured, section_of
from auditor.neural.found import SIDES
from auditor.neural.routes.critical import Critical
from auditor.neural.routes.route_map import (
    class_route,
    classes_in,
    image_route,
    route_figure,
    route_table,
    samples_in,
    stored_model_route,
)  # fmt: skip
from auditor.neural.routes.route_tally import RouteTally
from auditor.show.charts import draw
from tests.auditor.brute_force import loss_gradient, randomized, route
from tests.auditor.neural.analyses.given import Given, attacked, plain, subject_of
from tests.narrow import sequence, typed
from tests.nets import SHAPE, labelled, small_classifier

IMAGES = 7


def network() -> nn.Module:
    torch.manual_seed(0)
    return randomized(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
            nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(8, 10, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(90, 3),
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    half = NORMALIZATIONS["half"]
    return Classifier(network(), input_shape=SHAPE, num_classes=3, normalization=half).double()


def pairs(batch_size: int = 3) -> Given:
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(IMAGES, *SHAPE, generator=generator, dtype=torch.float64)
    noise = torch.rand(x.shape, generator=generator, dtype=torch.float64) * 0.2 - 0.1
    return Given(x, (x + noise).clamp(0, 1), batch_size, labels=torch.arange(IMAGES) % 3)


ANALYSIS = CriticalRoute(width=0.34, model_width=0.5)


@pytest.fixture(scope="module")
def finding(classifier: Classifier) -> Finding:
    return ANALYSIS.run(subject_of(classifier, pairs()))


def layers_of(classifier: Classifier) -> list[nn.Conv2d]:
    return [module for module in classifier.network.children() if isinstance(module, nn.Conv2d)]


def restated(classifier: Classifier, x: Tensor, labels: Tensor) -> list[np.ndarray]:
    """Frequency of every neuron on the route, by brute force, image by image."""
    layers = layers_of(classifier)
    found = [np.zeros(layer.out_channels) for layer in layers]
    for image, label in zip(x, labels.tolist(), strict=True):
        for counts, members in zip(
            found,
            route(classifier.network, classifier.normalize(image[None]), label, layers, ANALYSIS.width),
            strict=True,
        ):
            counts[members] += 1 / len(x)
    return found


def outputs(classifier: Classifier, x: Tensor, layer: nn.Module) -> Tensor:
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _m, _i, output: kept.append(output.clone()))
    classifier.logits(x)
    handle.remove()
    return kept[0]


def test_frequencies_and_routes_are_those_of_brute_force(classifier: Classifier, finding: Finding) -> None:
    given = pairs()
    for which, x in (("clean", given.x), ("adversarial", given.x_adv)):
        for layer, expected in zip(plain(finding)["layers"], restated(classifier, x, given.labels), strict=True):
            assert layer["frequency"][which] == pytest.approx(expected, abs=1e-12)
            count = max(1, int(0.5 * len(expected)))
            assert layer["route"][which] == np.argsort(-np.round(expected, 9), kind="stable")[:count].tolist()
    assert [layer["name"] for layer in plain(finding)["layers"]] == ["0", "3", "6"]


def test_the_routes_of_classes_and_of_the_first_images_are_those_of_brute_force(
    classifier: Classifier, finding: Finding
) -> None:
    given = pairs()
    layers = plain(finding)["layers"]
    for side, x in (("clean", given.x), ("adversarial", given.x_adv)):
        said = classifier.logits(x).argmax(1).tolist()
        assert [item[side] for item in plain(finding)["samples"]] == said
        for place in range(IMAGES):
            alone = restated(classifier, x[place : place + 1], given.labels[place : place + 1])
            kept = [layer["samples"][side][place] for layer in layers]
            assert kept == [np.flatnonzero(members).tolist() for members in alone]
        for label in range(3):
            mine = given.labels == label
            for layer, expected in zip(layers, restated(classifier, x[mine], given.labels[mine]), strict=True):
                route = layer["classes"][label]["route"][side]
                assert route == np.argsort(-np.round(expected, 9), kind="stable")[: len(expected) // 2].tolist()
    assert [(item["id"], item["label"]) for item in plain(finding)["samples"]] == [(i, i % 3) for i in range(IMAGES)]


def test_of_many_images_and_classes_the_first_are_kept() -> None:
    """What is stored does not grow with the data: 20 images, and the 20 classes with most of them."""
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 30))
    classifier = Classifier(randomized(wide), input_shape=SHAPE, num_classes=30).double()
    x = torch.rand(64, *SHAPE, dtype=torch.float64)
    given = Given(x, x.flip(0), 7, labels=torch.arange(64) % 30)
    finding = CriticalRoute().run(subject_of(classifier, given))
    data = plain(finding)
    assert [item["id"] for item in data["samples"]] == list(range(20))
    assert [len(layer["samples"]["clean"]) for layer in data["layers"]] == [20, 20]
    # 64 images: three each of the classes 0 to 3, two of the others; of equals the lower index.
    assert list(classes_in(typed(finding.data, Critical)).items()) == [
        (label, 3 if label < 4 else 2) for label in range(20)
    ]


def test_what_is_kept_of_routes_is_small() -> None:
    """VGG-16 at full width, 4,224 neurons in 13 layers, 20 classes: two sides of 20 routes of 30 % and 20 of 20 % are 84,480
    indices of at most three digits and a comma. With the brackets: 340 KB, as much as the frequencies already take."""
    sizes = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    added = 0
    generator = torch.Generator().manual_seed(0)
    for neurons in sizes:
        tally = RouteTally(neurons, np.zeros(60, np.int64), 20, IMAGES_KEPT)
        order = [torch.rand(60, neurons, generator=generator).argsort(1)[:, : neurons // 5] for _ in SIDES]
        members = [torch.zeros(60, neurons, dtype=torch.bool).scatter_(1, each, True) for each in order]
        clean, adversarial = members
        tally.add(clean, adversarial, np.arange(60) % 20)
        routes = [item.model_dump()["route"] for item in tally.by_class(20, 5, 0.3)]
        added += len(json.dumps([routes, tally.kept], separators=(",", ":")))
    assert sum(sizes) == 4224
    assert added < 350_000


def test_a_finding_from_before_routes_of_classes_and_images_were_kept_still_draws(finding: Finding) -> None:
    data = plain(finding)
    del data["samples"]
    for layer in data["layers"]:
        del layer["samples"]
        for item in layer["classes"]:
            del item["route"]
    old = Finding.model_validate(finding.model_dump() | {"data": data})
    assert [block.type for block in section_of(old).blocks] == [block.type for block in section_of(finding).blocks]
    assert detail_of(old, ("3",)) == detail_of(finding, ("3",))
    kept = typed(old.data, Critical)
    assert (classes_in(kept), samples_in(kept)) == ({}, ())
    assert stored_model_route(kept) == stored_model_route(typed(finding.data, Critical))
    with pytest.raises(NotFoundError, match="class 0 was not kept"):
        class_route(kept, 0)
    with pytest.raises(NotFoundError, match="sample 0 was not kept"):
        image_route(kept, 0)


def test_a_route_is_drawn_layer_by_layer_with_what_both_sides_share(finding: Finding) -> None:
    data = typed(finding.data, Critical)
    for layers in (stored_model_route(data), class_route(data, 1), image_route(data, 4)):
        figure, table = route_figure(layers, "Route"), route_table(layers)
        draw(figure).to_dict()
        for layer, row in zip(layers, table.rows, strict=True):
            clean, adversarial = set(layer.clean), set(layer.adversarial)
            marks = {mark["neuron"]: mark for mark in figure.rows if mark["layer"] == layer.name}
            assert marks.keys() == clean | adversarial
            groups = [mark["group"] for mark in marks.values()]
            assert row["common"] == len(clean & adversarial) == groups.count("both")
            assert groups.count("clean only") == groups.count("adversarial only") == len(clean - adversarial)
            assert row["jaccard"] == len(clean & adversarial) / len(clean | adversarial)
            first = next(iter(marks))
            assert marks[first]["from"] * layer.neurons == pytest.approx(first)
            assert marks[first]["to"] * layer.neurons == pytest.approx(first + 1)
    sets = [set(item) for item in combinations(range(6), 3)]  # 34 % and 50 % of 6 neurons: 2 and 3
    chance = np.mean([len(a & b) / len(a | b) for a in sets for b in sets])
    assert route_table(class_route(data, 1)).rows[0]["chance"] == pytest.approx(chance)
    assert "clean" in route_figure(stored_model_route(data), "").rows[0], "the frequencies"


def test_sensitivity_and_gradient_on_and_off_the_route(classifier: Classifier, finding: Finding) -> None:
    given = pairs()
    for layer, module in zip(plain(finding)["layers"], layers_of(classifier), strict=True):
        on = np.isin(np.arange(layer["neurons"]), layer["route"]["clean"])
        change = (outputs(classifier, given.x, module) - outputs(classifier, given.x_adv, module)).abs()
        slope = torch.stack(
            [
                loss_gradient(classifier.network, classifier.normalize(x[None]), int(label), module)
                for x, label in zip(given.x, given.labels, strict=True)
            ]
        )
        for what, each in (("sensitivity", change.mean((2, 3)).numpy()), ("gradient", slope.numpy())):
            assert layer["mean"][what] == pytest.approx(each.mean(0), rel=1e-9)
            assert layer["contrast"][what]["on"]["value"] == pytest.approx(each[:, on].mean(), rel=1e-9)
            assert layer["contrast"][what]["off"]["value"] == pytest.approx(each[:, ~on].mean(), rel=1e-9)
            spread = each[:, on].mean(1).std(ddof=1) / np.sqrt(IMAGES)
            # t with 6 degrees of freedom at 97.5 %: 2.446912
            assert layer["contrast"][what]["on"]["high"] == pytest.approx(
                each[:, on].mean() + 2.446912 * spread, rel=1e-6
            )


def test_neurons_after_their_normalization_are_measured_there(classifier: Classifier) -> None:
    given = pairs()
    found = CriticalRoute(node="bn").run(subject_of(classifier, given)).data.model_dump()["layers"][0]
    norm = sequence(classifier)[1]
    change = (outputs(classifier, given.x, norm) - outputs(classifier, given.x_adv, norm)).abs()
    assert found["name"] == "0"
    assert found["mean"]["sensitivity"] == pytest.approx(change.mean((0, 2, 3)).numpy(), rel=1e-9)


def test_occurrence_and_its_bound(finding: Finding) -> None:
    for layer in plain(finding)["layers"]:
        frequency = np.sort(layer["frequency"]["clean"])[::-1]
        k, wide = layer["image_count"], layer["route_count"]
        assert layer["occurrence"]["clean"] == pytest.approx(frequency[:k].mean())
        assert layer["occurrence"]["model"] == pytest.approx(frequency[:wide].mean())
        assert layer["occurrence"]["model"] <= layer["occurrence"]["bound"] + 1e-12 == pytest.approx(k / wide)
        assert sum(layer["frequency"]["clean"]) == pytest.approx(k), "every image has as many neurons on its route"


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_changes_nothing(classifier: Classifier, finding: Finding, batch_size: int) -> None:
    other = ANALYSIS.run(subject_of(classifier, pairs(batch_size)))
    assert flat(plain(other)) == pytest.approx(flat(plain(finding)), rel=1e-9, abs=1e-12, nan_ok=True)


def flat(data: object) -> list[float]:
    """Every number, in order."""
    if isinstance(data, dict):
        return [number for item in data.values() for number in flat(item)]
    if isinstance(data, list | tuple):
        return [number for item in data for number in flat(item)]
    return [float(data)] if isinstance(data, int | float) else []


def test_identical_twins_have_identical_routes(classifier: Classifier) -> None:
    given = pairs()
    same = ANALYSIS.run(subject_of(classifier, Given(given.x, given.x, 3, labels=given.labels)))
    for layer in plain(same)["layers"]:
        assert layer["overlap"]["twins"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": IMAGES}
        assert layer["overlap"]["model"] == 1.0
        assert layer["frequency"]["clean"] == layer["frequency"]["adversarial"]
        assert layer["contrast"]["sensitivity"]["on"]["value"] == 0
    assert any("random neurons" in flag.name for flag in same.flags)
    section_of(same)


def test_a_dead_network_and_a_single_image(classifier: Classifier) -> None:
    """All scores tie: the lowest indices, everywhere; nothing divides by zero."""
    dead = copy.deepcopy(classifier)
    sequence(dead)[3].weight.data.zero_()
    sequence(dead)[3].bias.data.fill_(-1.0)
    given = pairs()
    one = Given(given.x[:1], given.x_adv[:1], 1, labels=given.labels[:1])
    found = ANALYSIS.run(subject_of(dead, one))
    assert plain(found)["layers"][0]["route"]["clean"] == [0, 1, 2]
    assert plain(found)["layers"][0]["overlap"]["neighbours"] is None
    for block in section_of(Finding.model_validate_json(found.model_dump_json())).blocks:
        if block.type == "figure":
            draw(block).to_dict()


@pytest.mark.parametrize("mode", ["serial", "dag"])
def test_section_and_detail_are_drawn_from_stored_data(classifier: Classifier, mode: Literal["serial", "dag"]) -> None:
    analysis = CriticalRoute(mode=mode)
    finding = Finding.model_validate_json(analysis.run(subject_of(classifier, pairs())).model_dump_json())
    json.dumps(plain(finding), allow_nan=False)
    blocks = [*section_of(finding).blocks]
    for layer in plain(finding)["layers"]:
        detail = detail_of(finding, (layer["name"],))
        assert len(detail) == 4
        blocks += detail
    figures = [block for block in blocks if block.type == "figure"]
    assert len(figures) == 5 + 3
    for figure in figures:
        assert figure.rows
        assert figure.reading.endswith(".")
        draw(figure).to_dict()
    assert detail_of(finding, ("no such layer",)) == ()


def test_an_audits_own_pairs(tmp_path: Path) -> None:
    """float32, an attack of ours, and the loss gradient of the true label."""
    single = Classifier(network().float(), input_shape=SHAPE, num_classes=3, normalization=NORMALIZATIONS["half"])
    seen: list[float] = []
    given = attacked(single, labelled(single, 24), tmp_path)
    subject = Subject(**{**vars(given), "on_progress": lambda share, what: seen.append(share)})
    finding = CriticalRoute().run(subject)
    assert plain(finding)["images"] == 24
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1)
    assert plain(finding)["agreement"]["parts"] == 10
    logits = single.logits(given.dataset.images(np.arange(24)))
    assert functional.cross_entropy(logits, torch.from_numpy(given.dataset.labels)).isfinite()


def test_networks_without_a_route_say_why() -> None:
    x = torch.rand(2, *SHAPE)
    finding = measured(CriticalRoute(), subject_of(small_classifier(), Given(x, x, 2)))
    assert "no two layers in a row" in finding.declined


def test_a_partial_route_is_flagged() -> None:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 4, 3), nn.LocalResponseNorm(2), nn.Conv2d(4, 5, 1), nn.ReLU(), nn.Conv2d(5, 6, 1)]
    partial = nn.Sequential(*body, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    classifier = Classifier(partial, input_shape=SHAPE, num_classes=3)
    x = torch.rand(3, *SHAPE)
    finding = CriticalRoute().run(subject_of(classifier, Given(x, x, 2)))
    assert [layer["name"] for layer in plain(finding)["layers"]] == ["2", "4"]
    assert plain(finding)["left_out"] == [
        "The edge 0 -> 2 is left out because LocalResponseNorm is between them, and its derivative is not one factor for each "
        "position."
    ]
    assert "route is partial" in [flag.name for flag in finding.flags]
