"""Feature transplant against plain passes through a chain, channel by channel, in float64."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from auditor.kit.statistics.estimate import Rate
from auditor.neural.analyses.feature_transplant import FeatureTransplant, spread_places
from auditor.neural.analysis import Finding, section_of
from auditor.neural.ranking.agreement import descending
from auditor.neural.routes.routes import count_of
from auditor.neural.routes.selection import Selector, clean_energy, largest_filters, route_frequency
from auditor.neural.routes.transplant import TransplantCondition, Transplants
from auditor.show import charts
from auditor.show.blocks import Figure, Table
from tests.auditor.neural.analyses.given import Given, subject_of
from tests.auditor.routed import CONVOLUTIONS, chain, classifier_of, images, one_by_one, same, subject
from tests.narrow import known, typed

ANALYSIS = FeatureTransplant(widths=2, first=2)


@pytest.fixture(scope="module")
def finding() -> Finding:
    return ANALYSIS.run(subject(classifier_of(chain())))


@pytest.fixture(scope="module")
def data(finding: Finding) -> dict[str, Any]:
    return plain(finding)


def plain(finding: Finding) -> dict[str, Any]:
    return finding.data.model_dump(mode="json")


def test_which_transplants_are_made() -> None:
    made = ANALYSIS.conditions(3)
    assert ANALYSIS.shares == [0.3, 0.5, 1.0]
    assert {condition.layers for condition in made} == {(0,), (1,), (2,), (0, 1)}
    assert len(made) == len(set(made)) == 3 * 3 * 5 + 5
    assert spread_places(3, 13) == [0, 6, 12]
    assert spread_places(5, 2) == [0, 1]
    assert spread_places(1, 9) == [0]


def test_every_accuracy_equals_the_plain_pass_with_the_same_channels(data: dict[str, Any]) -> None:
    """Image by image, channel by channel; the channels of all ways to choose but the drawn ones are found anew."""
    network = chain()
    looked_at = subject(classifier_of(network))
    pairs = typed(looked_at.pairs, Given)
    found = route_frequency(looked_at, width=0.2, mode="serial")
    orders = {
        "route": found.order,
        "norm": largest_filters(looked_at.classifier, CONVOLUTIONS),
        "energy": [descending(item) for item in clean_energy(looked_at, CONVOLUTIONS)],
    }
    selector = Selector(orders, 0.3, looked_at.seed)
    clean = {layer: network[: int(layer) + 1](pairs.x) for layer in CONVOLUTIONS}
    answers = set()
    for row in data["rows"]:
        condition = TransplantCondition(row["choice"], tuple(row["layers"]), row["width"])

        def channels(place: int, image: int, condition: TransplantCondition = condition) -> list[int]:
            if condition.choice in orders:
                count = count_of(condition.width, found.sizes[place])
                return orders[condition.choice][place][:count].tolist()
            ids = np.array([image])
            (mask,) = selector.masks(condition.choice, (place,), condition.width, ids, pairs.x.device)
            return mask[0].nonzero().flatten().tolist()

        hits = []
        for image in range(24):

            def edit(
                place: int, image: int = image, channels: Callable[[int, int], list[int]] = channels
            ) -> Callable[[Tensor], Tensor]:
                def graft(output: Tensor) -> Tensor:
                    for channel in channels(place, image):
                        output[0, channel] = clean[CONVOLUTIONS[place]][image, channel]
                    return output

                return graft

            edits = {CONVOLUTIONS[place]: edit(place) for place in condition.layers}
            logits = one_by_one(network, pairs.x_adv[image : image + 1], edits)
            hits.append(int(logits.argmax()) == int(pairs.labels[image]))
        assert row["accuracy"] == Rate.of(np.array(hits)).model_dump(), condition
        answers.add(sum(hits))
    assert len(answers) > 4, "the transplants differ, so that a mix-up would show"


def test_transplanting_all_of_a_layer_of_a_chain_gives_the_clean_accuracy(data: dict[str, Any]) -> None:
    whole = [row for row in data["rows"] if row["width"] == 1 and row["choice"] == "route"]
    assert len(whole) == 3
    for row in whole:
        assert row["accuracy"] == data["clean"]
        assert row["restored"]["value"] == 1
        assert row["restored"]["n"] == data["broken"]
    assert data["clean"]["hits"] == 21  # three labels were made wrong
    assert data["adversarial"]["hits"] < 21


def test_no_control_outside_where_too_few_channels_are_left(data: dict[str, Any]) -> None:
    outside = {row["width"] for row in data["rows"] if row["choice"] == "outside"}
    assert outside == {0.3, 0.5}
    route = {
        (tuple(row["layers"]), row["width"]): row["accuracy"]["value"]
        for row in data["rows"]
        if row["choice"] == "route"
    }
    for row in data["rows"]:
        assert (row["route_minus_this"] is None) == (row["choice"] == "route")
        if row["route_minus_this"]:
            more = route[tuple(row["layers"]), row["width"]] - row["accuracy"]["value"]
            assert row["route_minus_this"]["value"] == pytest.approx(more)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_changes_nothing(finding: Finding, batch_size: int) -> None:
    same(plain(ANALYSIS.run(subject(classifier_of(chain()), batch_size=batch_size))), plain(finding))


def test_section_draws_what_was_stored(finding: Finding, data: dict[str, Any]) -> None:
    stored = Finding.model_validate_json(finding.model_dump_json())
    section = section_of(stored)
    figures = [block for block in section.blocks if isinstance(block, Figure)]
    assert [figure.title.split()[-1] for figure in figures] == list(CONVOLUTIONS)
    for figure in figures:
        charts.draw(figure).to_dict()
        route = [row for row in figure.rows if row["series"] == "on the route"]
        assert [row["x"] for row in route] == [0, 0.3, 0.5, 1]
        assert route[0]["value"] == data["adversarial"]["value"]
        assert route[-1]["value"] == data["clean"]["value"]
    table = typed(section.blocks[-2], Table)
    assert len(table.rows) == 10
    assert table.rows[0]["choice"] == "on the route"
    assert table.rows[0]["difference"] == "–"


def test_few_broken_images_and_a_route_that_is_no_better_are_flagged(finding: Finding) -> None:
    assert [flag.name for flag in finding.flags] == ["few broken images"]
    x, _ = images(8)
    classifier = classifier_of(chain())
    nothing = FeatureTransplant(widths=1, first=0).run(
        subject_of(classifier, Given(x, x, 8, np.zeros(8, bool), classifier.logits(x).argmax(1)))
    )
    none = typed(nothing.data, Transplants)
    assert none.broken == 0
    assert none.rows[0].restored.value is None
    assert section_of(nothing).blocks
    many = FeatureTransplant(widths=1, layers=1, first=1).run(subject(classifier_of(chain()), n=90, batch_size=90))
    numbers = typed(many.data, Transplants)
    assert numbers.broken >= 30
    equal = [
        row.choice
        for row in numbers.rows
        if row.width == 0.3 and row.restored_minus_this and known(row.restored_minus_this.low) <= 0
    ]
    expected = ["route no better than a control"] if equal else []
    expected += ["route no better than many sets of channels"] if numbers.ranks[0].rows[0].p > 0.05 else []
    assert [flag.name for flag in many.flags] == expected
    assert many.flags, "the network is random"


def test_one_image_in_float32() -> None:
    x, x_adv = (item.float() for item in images(1))
    classifier = classifier_of(chain()).float()
    found = FeatureTransplant(widths=1).run(
        subject_of(classifier, Given(x, x_adv, 1, labels=torch.zeros(1, dtype=torch.int64)))
    )
    assert typed(found.data, Transplants).images == 1
    assert section_of(found).blocks


def test_the_route_stands_where_a_plain_loop_over_all_sets_puts_it() -> None:
    """All 120 sets of three of ten channels of the first layer, on every broken image, by passes edited by hand."""
    network = chain()
    looked_at = subject(classifier_of(network), n=40, batch_size=11)
    found = FeatureTransplant(widths=1, layers=1, first=1, sets=120).run(looked_at)
    (item,) = plain(found)["ranks"]
    broken_images = typed(found.data, Transplants).broken
    assert (item["sets"], item["possible"], item["whole"], item["images"]) == (120, "120", True, broken_images)
    x, x_adv = images(40)
    clean = network[:1](x)
    labels = looked_at.classifier.logits(x).argmax(1)
    labels[:3] = (labels[:3] + 1) % 4
    right = [looked_at.classifier.logits(part).argmax(1) == labels for part in (x, x_adv)]
    broken = (right[0] & ~right[1]).nonzero().flatten().tolist()
    hits = {}
    for channels in combinations(range(10), 3):

        def graft(output: Tensor, channels: tuple[int, ...] = channels) -> Tensor:
            output[:, channels] = clean[broken][:, channels]
            return output

        answers = one_by_one(network, x_adv[broken], {"0": graft}).argmax(1)
        hits[channels] = int((answers == labels[broken]).sum())
    every = np.array(list(hits.values()))
    assert len(set(every.tolist())) > 3
    assert item["none"]["hits"] == (every == 0).sum()
    assert (item["median"], item["most"]) == (np.median(every), every.max())
    route = set(item["rows"][0]["channels"][0])
    for row in item["rows"]:
        (own,) = row["channels"]
        mine = hits[tuple(own)]
        others = np.array([value for channels, value in hits.items() if channels != tuple(own)])
        assert row["hits"] == mine
        assert (row["first"], row["last"]) == (1 + (others > mine).sum(), 1 + (others >= mine).sum())
        assert row["p"] == pytest.approx((every >= mine).mean())
        assert row["on_route"] == len(route & set(own))
    table = typed(section_of(Finding.model_validate_json(found.model_dump_json())).blocks[-1], Table)
    assert [row["rank"].endswith(" of 120") for row in table.rows] == [True] * 3
    assert table.rows[0]["on_route"] == "3 of 3"
    assert "All 120 sets were tried" in table.caption


def test_too_many_sets_are_sampled_and_the_sample_is_said() -> None:
    found = ANALYSIS.model_copy(update={"sets": 30, "ranked_images": 5}).run(subject(classifier_of(chain()), n=40))
    one, two = plain(found)["ranks"]
    assert (one["possible"], two["possible"]) == ("120", str(120 * 220))
    assert (one["sets"], one["whole"], one["images"]) == (30, False, 5)
    table = typed(section_of(found).blocks[-1], Table)
    assert "30 of the 120 possible sets, drawn at random" in table.caption
    assert "[" in table.rows[0]["as_many"], "a sampled share has an interval"
    assert FeatureTransplant(sets=0).find(subject(classifier_of(chain()))).ranks == ()


def test_a_difference_has_the_denominator_of_the_rate_beside_it(data: dict[str, Any]) -> None:
    """The rate of restored images is over those that the attack broke, and so is the difference next to it."""
    broken = data["broken"]
    assert 0 < broken < data["images"]
    by_choice = {(tuple(row["layers"]), row["width"], row["choice"]): row for row in data["rows"]}
    for (layers, width, choice), row in by_choice.items():
        if choice == "route":
            continue
        apart = by_choice[layers, width, "route"]["restored"]["value"] - row["restored"]["value"]
        assert row["restored_minus_this"]["n"] == broken
        assert row["restored_minus_this"]["value"] == pytest.approx(apart)


def test_a_finding_from_before_sets_were_ranked_shows_what_it_has(finding: Finding) -> None:
    stored = finding.model_dump(mode="json")
    data = {key: value for key, value in stored["data"].items() if key != "ranks"}
    data["rows"] = [{k: v for k, v in row.items() if k != "restored_minus_this"} for row in data["rows"]]
    settings = {key: value for key, value in stored["settings"].items() if key not in ("sets", "ranked_images")}
    older = Finding.model_validate(stored | {"data": data, "settings": settings})
    table = typed(section_of(older).blocks[-1], Table)
    assert table.columns[-1].title == "Route minus this, points (accuracy on all images)"
    assert table.rows[1]["difference"] != "–"
