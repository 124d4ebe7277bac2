"""The Defend page without a browser: it fits and evaluates what it shows, and shows the results."""

from __future__ import annotations

import re
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Element

from app.defenses import QUORUM
from auditor.attacking.attack import ATTACKS
from auditor.attacking.threat import ThreatModel
from auditor.defending.defense import DEFENSES
from auditor.defending.effort import EFFORTS
from auditor.defending.fit import FitSpec
from auditor.defending.nip.adaptive import paper_attacks
from auditor.defending.nip.published import levels
from auditor.defending.playground import PlaySpec
from auditor.defending.spec import TableSpec
from auditor.kit.errors import EvaluationError
from tests.app.test_harden_page import link
from tests.app.test_pages import opened, texts
from tests.narrow import typed
from tests.worker.test_defend import kept, study_spec
from tests.worker.world import World, make_world, run_here
from worker.settings import Settings

PLAY = PlaySpec(threat=ThreatModel(epsilon=0.05), attack=ATTACKS.build("pgd", {"steps": 3}))


@pytest.fixture
def world(settings: Settings) -> World:
    st.cache_resource.clear()
    st.cache_data.clear()
    return make_world(settings)


def evaluated(world: World, defense: str, **more: Any) -> str:
    return run_here(world.client, world.client.defenses.evaluate(defense, "random", study_spec(**more)))


def drawn(page: AppTest) -> str:
    """All that stands in tables."""
    return " ".join(table.value.to_string() for table in page.table).replace("\\", "")


def test_the_form_fits_exactly_what_it_shows(world: World) -> None:
    page = opened("defend", model=world.model_id, dataset=world.dataset_id)
    page.multiselect(key="defend-kinds").set_value(["jpeg", "nip"]).run()
    page.number_input(key="defend-jpeg-quality").set_value(60)
    page.number_input(key="defend-nip-front").set_value(2)
    page.selectbox(key="defend-nip-similarity").set_value("member")
    page.text_input(key="defend-fit-samples").set_value("40")
    page.number_input(key="defend-fit-seed").set_value(7)
    page.text_input(key="defend-name").set_value("mine").run()
    for kind in ("jpeg", "nip"):
        assert DEFENSES[kind].summary() in texts(page)
    page.button(key="defend-fit").click().run()
    assert not page.exception
    (job,) = world.client.jobs.find(kind="fit-defense")
    request: Any = world.client.jobs.request(job.id)
    wanted = [{"kind": "jpeg", "quality": 60}, {"kind": "nip", "front": 2, "similarity": "member", "quorum": QUORUM}]
    assert request.fit == FitSpec.load({"defenses": wanted, "samples": 40, "seed": 7})
    assert (request.model_id, request.dataset_id, request.name) == (world.model_id, world.dataset_id, "mine")
    assert page.query_params["job"] in (job.id, [job.id])
    assert "No worker is running" in texts(page)
    page.button(key=f"cancel-{job.id}").click().run()
    assert world.client.jobs.get(job.id).state == "cancelled"


def test_a_defense_that_learns_nothing_is_there_at_once(world: World) -> None:
    page = opened("defend", model=world.model_id)
    page.multiselect(key="defend-kinds").set_value(["bit-depth"]).run()
    assert "it needs no training images" in texts(page)
    page.button(key="defend-fit").click().run()
    assert not page.exception
    (view,) = world.client.defenses.find()
    assert page.query_params["defense"] in (view.row.id, [view.row.id])
    assert page.selectbox(key="defend-chosen").value == view.row.id
    assert view.dataset == ""


def test_every_defense_has_its_sentence_and_its_form(world: World) -> None:
    page = opened("defend", model=world.model_id, dataset=world.dataset_id)
    listed = texts(page)
    for member in DEFENSES:
        assert f"**{member.display_title()}**: {member.summary()}" in listed
    page.multiselect(key="defend-kinds").set_value(list(DEFENSES.members)[:8]).run()
    assert not page.error
    page.multiselect(key="defend-kinds").set_value(list(DEFENSES.members)[8:]).run()
    assert not page.error
    assert not page.exception


def test_a_wrong_value_is_named_and_nothing_is_queued(world: World) -> None:
    page = opened("defend", model=world.model_id, dataset=world.dataset_id)
    page.text_input(key="defend-fit-samples").set_value("many").run()
    assert "samples" in page.error[0].value
    page.multiselect(key="defend-kinds").set_value([]).run()
    assert page.error
    assert world.client.jobs.find() == []


def test_a_finished_fit_leads_to_its_defense(world: World) -> None:
    defense = kept(world, name="found")
    (job,) = world.client.jobs.find(kind="fit-defense")
    page = opened("defend", job=job.id)
    assert page.selectbox(key="defend-chosen").value == defense
    shown = drawn(page)
    for text in ("found", "NIP", "tiny", "30 images of random"):
        assert text in shown
    assert link(opened("jobs"), "Open the defense") == {"job": job.id}


def test_a_failed_fit_says_why(world: World) -> None:
    queued = world.client.defenses.fit(
        "tiny", FitSpec.load({"defenses": [{"kind": "jpeg"}, {"kind": "nip"}]}), "random"
    )
    claim = world.client.ledger.claim(queued.job_id, "test", 60)
    assert claim is not None
    world.client.ledger.fail(claim, "It went <b>wrong</b>.", "Do [this](http://evil.example).")
    page = opened("defend", job=queued.job_id)
    assert r"\[this\]" in page.error[0].value, "what a job says is never markdown"


def test_a_defense_is_downloaded_and_deleted(world: World) -> None:
    first, second = kept(world, name="[one](http://evil.example)"), kept(world, name="two")
    page = opened("defend", defense=first)
    assert r"\[one\]" in " ".join(item.value for item in page.markdown)
    assert [typed(button, Element).label for button in page.get("download_button")] == ["Download (.zip)"]
    page.button(key="defend-delete").click().run()
    assert not page.exception
    assert [view.row.id for view in world.client.defenses.find()] == [second]
    assert page.selectbox(key="defend-chosen").value == second


def test_the_evaluation_form_queues_exactly_what_it_shows(world: World) -> None:
    defense = kept(world)
    page = opened("defend", defense=defense)
    assert "too high" in texts(page), "the only data set is the one that it learnt from"
    assert re.search(
        r"At most [\d,]{4,} forward passes of the model for each of [\d,]+ images",
        " ".join(item.value for item in page.caption),
    )
    page.text_input(key="evaluate-epsilon").set_value("4/255")
    page.checkbox(key="evaluate-published").set_value(True)
    page.text_area(key="evaluate-sweeps").set_value("k=1+2\nepsilon=2/255").run()
    page.number_input(key="evaluate-quick-steps").set_value(3)
    page.button(key="evaluate-queue").click().run()
    assert not page.exception
    assert not page.error
    (job,) = world.client.jobs.find(kind="evaluate-defense")
    request: Any = world.client.jobs.request(job.id)
    study, effort = request.study, EFFORTS["quick"]
    assert request.defense_id == defense
    assert study.evaluation.threat == ThreatModel.model_validate({"epsilon": "4/255"})
    assert study.evaluation.steps == 3
    assert study.evaluation.static == TableSpec().static
    assert {key: getattr(study.evaluation, key) for key in effort.values if key != "steps"} == {
        key: value for key, value in effort.values.items() if key != "steps"
    }
    assert (study.evaluation.influence, study.evaluation.published) == (paper_attacks(), levels())
    assert (study.samples, study.controls, study.unseen) == (effort.samples, True, True)
    assert [(sweep.parameter, len(sweep.values)) for sweep in study.sweeps] == [("k", 2), ("epsilon", 1)]
    page.text_area(key="evaluate-sweeps").set_value("nonsense=1").run()
    assert "nonsense" in page.error[0].value
    assert "evaluate-queue" not in [button.key for button in page.button], "there is nothing that could be queued"
    assert len(world.client.jobs.find(kind="evaluate-defense")) == 1


def test_efforts_are_all_valid_and_grow(world: World) -> None:
    page = opened("defend", defense=kept(world))
    steps = []
    for name, effort in EFFORTS.items():
        page.segmented_control(key="evaluate-effort").set_value(name).run()
        assert not page.error
        assert effort.summary in texts(page)
        assert page.number_input(key=f"evaluate-{name}-steps").value == effort.values["steps"]
        assert page.text_input(key=f"evaluate-{name}-samples").value == str(effort.samples)
        steps.append(effort.values["steps"])
    assert steps == sorted(steps)


def test_an_evaluation_shows_its_table_and_its_report(world: World) -> None:
    defense = kept(world)
    job = evaluated(world, defense, sweeps=[{"parameter": "k", "values": [1, 2]}])
    study = world.client.defenses.evaluation(job)
    page = opened("defend", defense=defense, evaluation=job[:8])
    lowest = study.table.headline
    assert page.metric[0].value == f"{100 * (lowest.accuracy.value or 0):.1f} %"
    headers = [header.value for header in page.header]
    assert headers[:3] == ["What the defense is worth", "Everything in one table", "Static against adaptive"]
    assert "What the parameters change" in headers
    for row in study.table.robust:
        assert row.name in drawn(page)
    labels = [typed(button, Element).label for button in page.get("download_button")]
    assert "Download the report" in labels
    assert "Data (.csv)" in labels
    assert str(lowest.accuracy) in world.client.defenses.report(job)
    assert link(opened("jobs"), "Open the evaluation") == {"defense": defense, "evaluation": job}
    assert "It cannot be deleted: evaluations refer to it." in texts(page)


def test_an_evaluation_that_runs_or_failed_says_so(world: World) -> None:
    defense = kept(world)
    job, ledger = world.client.defenses.evaluate(defense, "random", study_spec()), world.client.ledger
    claim = ledger.claim(job, "test", 60)
    assert claim is not None
    assert ledger.progress(claim, 0.3, "apgd-ce")
    page = opened("defend", defense=defense, evaluation=job)
    assert "30 %" in " ".join(str(item.proto.text) for item in page.get("progress")).replace("\\", "")
    page.button(key=f"cancel-{job}").click().run()
    ledger.fail(claim, "It went <b>wrong</b>.", "")
    assert "went" in opened("defend", defense=defense, evaluation=job).error[0].value


def test_the_playground_queues_and_shows_one_image(world: World) -> None:
    defense = kept(world)
    page = opened("defend", defense=defense, show="Playground")
    page.button(key="play-pick-3").click().run()
    page.text_input(key="play-epsilon").set_value("0.05").run()
    page.number_input(key="play-pgd-steps").set_value(3).run()
    page.button(key="play-run").click().run()
    assert not page.exception
    (job,) = world.client.jobs.find(kind="play")
    request: Any = world.client.jobs.request(job.id)
    assert (request.defense_id, request.sample, request.play) == (defense, 3, PLAY)
    assert page.get("progress")
    run_here(world.client, job.id)
    page.run()
    played = world.client.defenses.played(job.id)
    shown = drawn(page)
    for stage in played.stages:
        assert stage.name in shown
    assert "What was changed, × 10" in texts(page)
    assert "Influence of front and tail neurons" in [item.value.replace("\\", "") for item in page.subheader]
    page.segmented_control(key="play-reading").set_value("clean").run()
    assert not page.exception
    assert link(opened("jobs"), "Open the playground") == {"defense": defense, "show": "Playground", "play": job.id}


def test_results_of_the_playground_are_listed_and_open_again(world: World) -> None:
    defense = kept(world)
    first, second = (
        run_here(world.client, world.client.defenses.play(defense, "random", sample, PLAY)) for sample in (1, 2)
    )
    page = opened("defend", defense=defense, show="Playground")
    box = page.selectbox(key=f"play-job-{defense}")
    assert [option.split(" of ")[0] for option in box.options] == ["image 2", "image 1"]
    assert "What was changed" not in texts(page)
    box.set_value(first).run()
    assert not page.exception
    assert "What was changed" in texts(page)
    assert page.query_params["play"] in (first, [first])
    page = opened("defend", defense=defense, show="Playground", play=second[:8])
    assert page.selectbox(key=f"play-job-{defense}").value == second
    stages = world.client.defenses.played(second).stages
    assert all(stage.name in drawn(page) for stage in stages)
    assert "no run nobody" in texts(opened("defend", defense=defense, show="Playground", play="nobody"))


def test_the_same_play_is_not_run_twice_and_does_not_hold_the_defense(world: World) -> None:
    defense = kept(world)
    job = world.client.defenses.play(defense, "random", 1, PLAY)
    assert world.client.defenses.play(defense, "random", 1, PLAY) == job
    assert world.client.defenses.play(defense, "random", 2, PLAY) != job
    with pytest.raises(EvaluationError, match="from 0 to 59, got 60"):
        world.client.defenses.play(defense, "random", 60, PLAY)
    assert world.client.library.preview("random", 8, 58) == world.client.library.preview("random", 60)[58:]
    run_here(world.client, job)
    world.client.defenses.delete(defense)
    assert world.client.defenses.played(job).sample == 1
    assert not opened("jobs").exception


def test_an_epsilon_that_is_none_is_named(world: World) -> None:
    page = opened("defend", defense=kept(world), show="Playground")
    page.text_input(key="play-epsilon").set_value("much").run()
    assert "epsilon" in page.error[0].value
    assert world.client.jobs.find(kind="play") == []
