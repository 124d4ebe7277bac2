"""The Harden page without a browser: it queues what it shows, and shows what a training does and did."""

from __future__ import annotations

import json
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from auditor.hardening.hardening import HARDENINGS
from auditor.hardening.spec import TrainingSpec
from tests.app.test_pages import opened, texts
from tests.worker.test_harden import training
from tests.worker.world import World, make_world, run_here
from worker.settings import Settings


@pytest.fixture
def world(settings: Settings) -> World:
    st.cache_resource.clear()
    st.cache_data.clear()
    return make_world(settings)


def hardened(world: World, name: str = "tough", **more: Any) -> str:
    return run_here(world.client, world.client.trainings.queue("tiny", "random", training(**more), name))


def charts(page: AppTest) -> list[dict[str, Any]]:
    return [json.loads(item.proto.spec) for item in page.get("vega_lite_chart")]


def link(page: AppTest, label: str) -> dict[str, Any]:
    (found,) = [item.proto for item in page.get("page_link") if item.proto.label == label]
    return dict(item.split("=") for item in found.query_string.split("&"))


def test_the_form_queues_exactly_what_it_shows(world: World) -> None:
    page = opened("harden", model=world.model_id, dataset=world.dataset_id)
    page.radio(key="harden-method").set_value("trades").run()
    page.number_input(key="harden-trades-steps").set_value(7)
    page.number_input(key="harden-training-epochs").set_value(4)
    page.text_input(key="harden-training-patience").set_value("2")
    page.selectbox(key="harden-training-averaging").set_value("ema")
    page.text_input(key="harden-name").set_value("mine").run()
    spec = TrainingSpec.load(
        {"hardening": HARDENINGS.parse("trades:steps=7"), "epochs": 4, "patience": 2, "averaging": "ema"}
    )
    cost = world.client.trainings.estimate("tiny", "random", spec)
    assert f"At most {cost.passes / 60:,.0f} forward passes for each of 60 images" in texts(page)
    page.button(key="harden-queue").click().run()
    assert not page.exception
    (job,) = world.client.jobs.find(kind="harden")
    request: Any = world.client.jobs.request(job.id)
    assert (request.training, request.name) == (spec, "mine")
    assert (request.model_id, request.dataset_id) == (world.model_id, world.dataset_id)
    assert page.query_params["job"] in (job.id, [job.id])
    assert "No worker is running" in texts(page)


def test_every_method_has_its_sentence_and_its_form(world: World) -> None:
    page = opened("harden", model=world.model_id, dataset=world.dataset_id)
    box = page.radio(key="harden-method")
    assert box.options == [member.display_title() for member in HARDENINGS]
    captions = [text.replace("\\", "") for text in box.proto.captions]
    assert captions == [member.summary() for member in HARDENINGS]
    for kind in HARDENINGS.members:
        page.radio(key="harden-method").set_value(kind).run()
        assert not page.exception
        assert not page.error, kind


def test_a_wrong_value_is_named_and_nothing_is_queued(world: World) -> None:
    page = opened("harden", model=world.model_id, dataset=world.dataset_id)
    page.text_input(key="harden-training-budget").set_value("much").run()
    assert "budget: expected a valid number" in texts(page)
    assert world.client.jobs.find() == []


def test_a_running_training_shows_its_curves_and_can_be_cancelled(world: World) -> None:
    job, ledger = world.client.trainings.queue("tiny", "random", training(epochs=10)), world.client.ledger
    claim = ledger.claim(job, "test", 60)
    assert claim is not None
    finished = world.client.trainings.result(hardened(world))
    points = {number: point.model_dump(mode="json") for number, point in enumerate(finished.points)}
    assert ledger.progress(claim, 0.3, "epoch 3 of 10", points)
    page = opened("harden", job=job[:8])
    drawn = charts(page)
    assert [subheader.value for subheader in page.subheader][:3] == [
        "Validation accuracy", "Loss", "Sensitivity of layers",
    ]  # fmt: skip
    assert len(drawn) == 3
    for chart in drawn:
        scale = chart["layer"][0]["encoding"]["x"]["scale"]
        assert scale["domain"] == [0, 10], "the whole training, of which three epochs are done"
    assert [series(chart) for chart in drawn[:2]] == [
        ["clean", "under PGD, L∞ ε = 0.05"], ["loss", "clean", "adversarial"],
    ]  # fmt: skip
    assert ledger.reached(claim, 3), "a checkpoint: there is something to keep"
    page.button(key=f"cancel-{job}").click().run()
    assert world.client.jobs.get(job).notice == "Stopping; it keeps what it has."


def series(chart: dict[str, Any]) -> list[str]:
    """What the lines of a chart are called."""
    scales = (layer.get("encoding", {}).get("color", {}).get("scale", {}) for layer in chart.get("layer", []))
    return next((list(scale["domain"]) for scale in scales if "domain" in scale), [])


def test_a_finished_training_shows_its_numbers_and_its_child(world: World) -> None:
    job = hardened(world)
    result, child = world.client.trainings.result(job), world.client.trainings.child(job)
    assert child is not None
    assert result.best.clean is not None
    page = opened("harden", job=job)
    assert page.metric[0].value == f"{100 * (result.best.clean.value or 0):.1f} %"
    assert f"n = {result.validation_samples}" in texts(page)
    assert "tough" in [item.value for item in page.subheader]
    assert link(page, "Open the model's card") == {"model": child.id}
    assert "└─ **tough**" in texts(page)


def test_parent_and_child_are_audited_and_compared_with_one_click_each(world: World) -> None:
    job = hardened(world)
    page = opened("harden", job=job)
    assert "The child was trained on these images" not in texts(page)
    page.selectbox(key="harden-audit-data").set_value(world.dataset_id).run()
    assert "The child was trained on these images" in texts(page), "there is no other data set here"
    page.number_input(key="harden-audit-samples").set_value(20).run()
    page.button(key="harden-audit").click().run()
    assert not page.exception
    audits = {audit.model_id: audit.id for audit in world.client.jobs.find(kind="audit")}
    child = world.client.trainings.child(job)
    assert child is not None
    assert set(audits) == {world.model_id, child.id}
    spec: Any = world.client.jobs.request(audits[child.id])
    assert (spec.audit.samples, spec.audit.threats) == (20, (training().threat,))
    for audit in audits.values():
        run_here(world.client, audit)
    page = opened("harden", job=job)
    pair = link(page, "Compare parent and child")
    assert pair == {"a": audits[world.model_id], "b": audits[child.id]}
    compared = opened("compare", **pair)
    assert "What differs" in [header.value for header in compared.header]
    # Sensitivity per layer before and after, over each other.
    assert "Neuron sensitivity by layer" in [header.value for header in compared.header]
    assert [series(chart) for chart in charts(compared)] == [["tiny", "tough"]] * 3, "accuracy, and two of sensitivity"


def test_a_cancelled_or_failed_training_says_so(world: World) -> None:
    job = world.client.trainings.queue("tiny", "random", training())
    world.client.jobs.cancel(job)
    assert "The training produced no model." in texts(opened("harden", job=job))
    failed = world.client.trainings.queue("tiny", "random", training())
    claim = world.client.ledger.claim(failed, "test", 60)
    assert claim is not None
    world.client.ledger.fail(claim, "It went <b>wrong</b>.", "Do [this](http://evil.example).")
    page = opened("harden", job=failed)
    assert r"\[this\]" in page.error[0].value, "what a job says is never markdown"


def test_a_child_that_was_removed_spoils_nothing(world: World) -> None:
    job = hardened(world, "[gone](http://evil.example)")
    child = world.client.trainings.child(job)
    assert child is not None
    assert r"\[gone\]" in " ".join(item.value for item in opened("harden", job=job).markdown)
    world.client.backend.registry.remove(child)
    page = opened("harden", job=job)
    assert not page.exception
    assert "Its model was removed." in texts(page)
