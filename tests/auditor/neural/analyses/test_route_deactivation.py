"""Deactivation and weakening against networks whose weights were edited, in float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from torch import nn

from auditor.kit.statistics.estimate import Rate
from auditor.kit.statistics.paired import paired_difference
from auditor.neural.analyses.route_deactivation import RouteDeactivation
from auditor.neural.analysis import Finding, section_of
from auditor.neural.routes.routes import count_of
from auditor.neural.routes.selection import RouteFrequency, Selector, largest_filters, route_frequency
from auditor.show import charts
from auditor.show.blocks import Figure, Table
from tests.auditor.neural.analyses.given import Given, plain, subject_of
from tests.auditor.routed import CONVOLUTIONS, chain, classifier_of, images, same, subject
from tests.narrow import sequence, typed

ANALYSIS = RouteDeactivation(widths=2, largest=0.5, betas=2)


@pytest.fixture(scope="module")
def finding() -> Finding:
    return ANALYSIS.run(subject(classifier_of(chain())))


def silence(network: nn.Sequential, chosen: list[list[int]]) -> None:
    for layer, channels in zip(CONVOLUTIONS, chosen, strict=True):
        sequence(network)[int(layer)].weight[channels] = 0
        sequence(network)[int(layer)].bias[channels] = 0


def weaken(network: nn.Sequential, chosen: list[list[int]], beta: float) -> None:
    for place in (1, 2):
        for m in chosen[place]:
            for n in chosen[place - 1]:
                sequence(network)[int(CONVOLUTIONS[place])].weight[m, n] *= beta


def test_every_accuracy_equals_that_of_an_edited_network(finding: Finding) -> None:
    """The drawn controls image by image, each on a network of its own."""
    network = chain()
    looked_at = subject(classifier_of(network))
    found = route_frequency(looked_at, width=0.2, mode="serial")
    orders = {"route": found.order, "norm": largest_filters(looked_at.classifier, CONVOLUTIONS)}
    selector = Selector(orders, 0.3, looked_at.seed)
    pairs = typed(looked_at.pairs, Given)
    answers, hits = set(), {}
    for row in plain(finding)["rows"]:
        width = row["amount"] if row["what"] == "silence" else 0.3
        x = pairs.x if row["images"] == "clean" else pairs.x_adv
        found_hits = []
        for image in range(24):
            if row["choice"] in orders:
                chosen = [
                    orders[row["choice"]][place][: count_of(width, found.sizes[place])].tolist() for place in range(3)
                ]
            else:
                masks = selector.masks(row["choice"], range(3), width, np.array([image]), x.device)
                chosen = [mask[0].nonzero().flatten().tolist() for mask in masks]
            edited = copy.deepcopy(network)
            silence(edited, chosen) if row["what"] == "silence" else weaken(edited, chosen, row["amount"])
            found_hits.append(int(edited(x[image : image + 1]).argmax()) == int(pairs.labels[image]))
        key = (row["what"], row["amount"], row["images"])
        hits[key, row["choice"]] = np.array(found_hits)
        assert row["accuracy"] == Rate.of(hits[key, row["choice"]]).model_dump(), row
        if row["choice"] != "route":
            expected = paired_difference(hits[key, row["choice"]], hits[key, "route"]).model_dump()
            assert row["route_minus_this"] == expected
        answers.add(sum(found_hits))
    assert len(answers) > 4, "the interventions differ, so that a mix-up would show"
    assert len(plain(finding)["rows"]) == (2 + 2) * 4 * 2


def test_the_network_as_it_is(finding: Finding) -> None:
    assert plain(finding)["untouched"]["clean"]["hits"] == 21
    assert plain(finding)["edges"] == 2
    assert plain(finding)["untouched"]["adversarial"]["hits"] < 21


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_changes_nothing(finding: Finding, batch_size: int) -> None:
    same(plain(ANALYSIS.run(subject(classifier_of(chain()), batch_size=batch_size))), plain(finding))


def test_section_draws_what_was_stored(finding: Finding) -> None:
    section = section_of(Finding.model_validate_json(finding.model_dump_json()))
    figures = [block for block in section.blocks if isinstance(block, Figure)]
    assert [figure.title for figure in figures] == [
        "Channels switched off: clean images", "Channels switched off: adversarial images",
        "Connections weakened: clean images", "Connections weakened: adversarial images",
    ]  # fmt: skip
    for figure in figures:
        charts.draw(figure).to_dict()
    route = [row for row in figures[2].rows if row["series"] == "on the route"]
    assert [(row["x"]) for row in route] == [1, 0.5, 0]
    assert route[0]["value"] == plain(finding)["untouched"]["clean"]["value"]
    tables = [block for block in section.blocks if isinstance(block, Table)]
    assert [len(table.rows) for table in tables] == [4, 4]


def test_a_route_that_matters_no_more_than_a_control_is_flagged(finding: Finding) -> None:
    expected = set()
    for what in ("silence", "weaken"):
        for control in ("outside", "random", "norm"):
            high = [
                row["route_minus_this"]["high"]
                for row in plain(finding)["rows"]
                if (row["what"], row["choice"], row["images"]) == (what, control, "clean")
            ]
            if min(high) >= 0:
                expected.add(f"{what}: route no worse than {control}")
    assert {flag.name for flag in finding.flags} == expected
    assert expected


def test_one_layer_has_no_connections_to_weaken(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = RouteFrequency(("0",), (np.linspace(1, 0, 10),), 24)
    monkeypatch.setattr("auditor.neural.analyses.route_deactivation.route_frequency", lambda *_args, **_more: alone)
    found = ANALYSIS.run(subject(classifier_of(chain())))
    assert plain(found)["edges"] == 0
    assert {row["what"] for row in plain(found)["rows"]} == {"silence"}
    assert section_of(found).blocks


def test_layers_that_do_not_follow_channel_by_channel_are_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    skipping = RouteFrequency(("0", "7"), (np.linspace(1, 0, 10), np.linspace(1, 0, 10)), 24)  # 10 channels, 12 inputs
    monkeypatch.setattr("auditor.neural.analyses.route_deactivation.route_frequency", lambda *_args, **_more: skipping)
    found = ANALYSIS.run(subject(classifier_of(chain())))
    assert plain(found)["edges"] == 0
    assert "connections left out" in {flag.name for flag in found.flags}


def test_one_image_in_float32() -> None:
    x, x_adv = (item.float() for item in images(1))
    found = ANALYSIS.run(subject_of(classifier_of(chain()).float(), Given(x, x_adv, 1)))
    assert plain(found)["images"] == 1
    assert section_of(found).blocks
