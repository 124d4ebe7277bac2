"""The critical route on the Neurons page: of the model, of a class, of an image, and of a second audit beside it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import streamlit as st
import torch
from safetensors.torch import save
from streamlit.testing.v1 import AppTest

from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import NORMALIZATIONS
from auditor.models.dataset import write_dataset
from auditor.neural.analysis import ANALYSES
from auditor.neural.routes.critical import Critical
from auditor.neural.routes.route_map import samples_in
from tests.app.test_pages import finished_audit, opened, texts
from tests.auditor.neural.analyses.given import plain
from tests.narrow import typed
from tests.nets import random_images
from tests.worker.world import World, make_world, quick_spec, run_here
from worker.settings import Settings


@pytest.fixture
def world(settings: Settings) -> World:
    st.cache_resource.clear()
    st.cache_data.clear()
    return make_world(settings)


DEEPER = "nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 10, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(360, 5)"


def route_of(world: World, audit: str) -> Critical:
    """What the critical route of an audit is."""
    return typed(world.client.audits.result(audit).findings[0].data, Critical)


def routed_audit(world: World, samples: int = 10, widths: tuple[float, ...] = (0.2,), dataset: str = "random") -> str:
    """An audit with critical routes of these widths, of a network of two convolutions."""
    architecture = ARCHITECTURES.build("sequential", {"num_classes": 5, "height": 6, "width": 6, "layers": DEEPER})
    torch.manual_seed(0)
    if "deeper" not in [row.name for row in world.client.library.models()]:
        world.client.backend.registry.add_model(
            "deeper",
            architecture=architecture.model_dump(mode="json"),
            normalization=NORMALIZATIONS["half"].model_dump(mode="json"),
            class_names=None,
            weights=world.client.blobs.put(save(architecture.build().state_dict())),
            manifest={"parameters": 2759, "notes": []},
        )
    analyses = tuple(ANALYSES.build("critical_route", {"width": width}) for width in widths)
    spec = quick_spec().model_copy(update={"analyses": analyses, "analysis_samples": samples})
    return run_here(world.client, world.client.audits.queue("deeper", dataset, spec))


def routes_in(page: AppTest) -> list[set[tuple[str, int, str]]]:
    """What the route maps of a page hold: layer, neuron, and on whose route it is."""
    charts = [json.loads(item.proto.spec) for item in page.get("vega_lite_chart")]
    held = [
        [row for layer in chart.get("layer", []) for row in layer.get("data", {}).get("values", [])] for chart in charts
    ]
    drawn = [{(row["layer"], row["neuron"], row["group"]) for row in rows if "group" in row} for rows in held]
    return [marks for marks in drawn if marks]


def expected_route(sides: list[tuple[str, dict[str, list[int]]]]) -> set[tuple[str, int, str]]:
    both, one = "both", {"clean": "clean only", "adversarial": "adversarial only"}
    return {
        (layer, neuron, both if all(neuron in route[each] for each in one) else one[side])
        for layer, route in sides
        for side in one
        for neuron in route[side]
    }


def test_the_critical_route_of_the_model_of_a_class_and_of_an_image(world: World) -> None:
    audit = routed_audit(world)
    (finding,) = world.client.audits.result(audit).findings
    layers = plain(finding)["layers"]
    page = opened("neurons", audit=audit)
    assert "Critical route" in [header.value for header in page.header]
    assert routes_in(page) == [expected_route([(layer["name"], layer["route"]) for layer in layers])]
    page.radio(key="route-of").set_value("Class").run()
    classes = [item["class"] for item in layers[0]["classes"]]
    page.selectbox(key="route-class").set_value(classes[1]).run()
    assert routes_in(page) == [expected_route([(layer["name"], layer["classes"][1]["route"]) for layer in layers])]
    page.radio(key="route-of").set_value("Image").run()
    third = plain(finding)["samples"][2]
    page.selectbox(key="route-image").set_value(third["id"]).run()
    sides = [
        (layer["name"], {side: layer["samples"][side][2] for side in ("clean", "adversarial")}) for layer in layers
    ]
    assert routes_in(page) == [expected_route(sides)]
    assert f"#{third['id']}: " in texts(page), "its pictures"
    assert "Twins are not kept." in texts(page)
    assert not page.exception
    assert not page.error


def test_a_second_audit_shows_the_route_of_the_same_sample_or_says_that_it_has_none(world: World) -> None:
    first, other, without = routed_audit(world, 10), routed_audit(world, 4), finished_audit(world)
    kept = [[item.id for item in samples_in(route_of(world, audit))] for audit in (first, other)]
    (shared, *_), (alone, *_) = set(kept[0]) & set(kept[1]), set(kept[0]) - set(kept[1])
    page = opened("neurons", audit=first, beside=other)
    assert len(routes_in(page)) == 2
    assert "with other settings" not in texts(page)
    page.radio(key="route-of").set_value("Image").run()
    page.selectbox(key="route-image").set_value(shared).run()
    assert len(routes_in(page)) == 2
    page.selectbox(key="route-image").set_value(alone).run()
    assert len(routes_in(page)) == 1
    assert f"did not keep the route of sample #{alone}" in texts(page)
    page = opened("neurons", audit=first, beside=without)
    assert len(routes_in(page)) == 1
    assert "The other audit did not measure the critical route." in texts(page)
    assert "Critical route" not in [header.value for header in opened("neurons", audit=without, beside=first).header]
    assert not page.exception


def test_the_same_id_in_other_data_is_another_image(world: World) -> None:
    images = random_images(60, seed=9)
    manifest = world.client.library.dataset("random").manifest
    with world.client.blobs.staging() as folder:
        labels = np.arange(60) % 5
        write_dataset(folder / "data", [images], images.shape, "U8", labels, class_names=manifest["class_names"])
        world.client.backend.registry.add_dataset(
            "other", content=world.client.blobs.take(folder / "data"), manifest=manifest
        )
    page = opened("neurons", audit=routed_audit(world), beside=routed_audit(world, dataset="other"))
    assert len(routes_in(page)) == 2
    page.radio(key="route-of").set_value("Image").run()
    assert len(routes_in(page)) == 1


def test_of_several_runs_one_is_chosen_and_compared_with_its_like(world: World) -> None:
    first, other = routed_audit(world, 4, (0.2, 0.5)), routed_audit(world, 4, (0.5,))
    findings = world.client.audits.result(first).findings
    page = opened("neurons", audit=first, beside=other)
    for key, settings_differ, finding in (
        ("critical_route", True, findings[0]),
        ("critical_route-2", False, findings[1]),
    ):
        page.selectbox(key="route-run").set_value(key).run()
        layers = plain(finding)["layers"]
        page.radio(key="route-of").set_value("Image").run()
        sides = [(one["name"], {side: one["samples"][side][0] for side in ("clean", "adversarial")}) for one in layers]
        assert routes_in(page)[0] == expected_route(sides)
        assert ("with other settings" in texts(page)) == settings_differ
        assert (routes_in(page)[1] == routes_in(page)[0]) != settings_differ, "the same network, the same run"


def test_another_audit_may_be_chosen_while_an_image_is_looked_at(world: World) -> None:
    """The choice of the first may be none of the second's: then its own first is shown, and nothing breaks."""
    first, other = routed_audit(world, 10), routed_audit(world, 3)
    samples = [samples_in(route_of(world, audit)) for audit in (first, other)]
    gone = next(one.id for one in samples[0] if one not in samples[1])
    page = opened("neurons", audit=first)
    page.radio(key="route-of").set_value("Image").run()
    page.selectbox(key="route-image").set_value(gone).run()
    page.selectbox(key="choose-audit").set_value(other).run()
    assert not page.exception
    assert page.selectbox(key="route-image").value in [one.id for one in samples[1]]
    assert len(routes_in(page)) == 1


def test_without_the_files_of_an_attack_the_route_is_still_drawn(world: World) -> None:
    audit = routed_audit(world)
    for sha256 in world.client.ledger.result_files(audit).values():
        world.client.blobs.path(sha256).unlink(missing_ok=True)
    page = opened("neurons", audit=audit)
    page.radio(key="route-of").set_value("Image").run()
    assert len(routes_in(page)) == 1
    assert len(page.error) == 1
    assert not page.exception
