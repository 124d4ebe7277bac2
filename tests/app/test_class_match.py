"""The match of classes on the page and on the command line: shown before the audit, edited, and kept in what is queued."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from streamlit.proto.WidgetStates_pb2 import WidgetState, WidgetStates
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import ElementTree

from auditor.auditing.spec import AuditSpec
from tests.app.test_cli import Auditor, auditor
from tests.app.test_pages import opened, texts, world
from tests.narrow import known, typed
from tests.worker.world import World, run_here
from worker.jobs.audit import AuditJob
from worker.jobs.vet import VetJob
from worker.loading import load_dataset

__all__ = ["auditor", "world"]  # fixtures

pytestmark = pytest.mark.usefixtures("shared_server")

QUICK_SPEC = {"samples": None, "attacks": [{"kind": "fgsm"}]}
QUICK = ["--samples", "30", "--attack", "fgsm", "--analysis", "neuron_sensitivity", "--epsilon", "0.05"]


def edit(page: AppTest, monkeypatch: pytest.MonkeyPatch, cells: dict[int, str]) -> AppTest:
    """Run the page with other classes of the model in these rows of the table, as a browser would send them."""
    (table,) = page.data_editor
    states = ElementTree.get_widget_states
    rows = {str(row): {"model": value} for row, value in cells.items()}
    sent = json.dumps({"edited_rows": rows, "added_rows": [], "deleted_rows": []})

    def with_edits(tree: ElementTree) -> WidgetStates:
        found = states(tree)
        found.widgets.append(WidgetState(id=table.proto.id, string_value=sent))
        return found

    monkeypatch.setattr(ElementTree, "get_widget_states", with_edits)
    return page.run()


def rows_of(page: AppTest) -> list[dict[str, Any]]:
    (table,) = page.data_editor
    found: list[dict[str, Any]] = table.value.to_dict("records")
    return found


def real_counts(world: World) -> list[int]:
    """Images of each class: the manifest of the test's world says 12 of each."""
    counts: list[int] = load_dataset(world.client.library.dataset("random"), world.client.blobs).class_counts.tolist()
    return counts


def queued(world: World, kind: str) -> Any:
    (job,) = world.client.jobs.find(kind=kind)
    return world.client.jobs.request(job.id)


def test_the_page_shows_the_match_and_queues_the_edited_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    page = opened("new_audit", model=world.model_id, dataset=world.dataset_id)
    assert rows_of(page) == [{"data": f"{n}: kind {n}", "images": 12, "model": str(n)} for n in range(5)]
    assert "Matched by number." in texts(page)
    edit(page, monkeypatch, {0: "1", 4: "left out"})
    assert not page.exception
    shown = texts(page)
    assert "Matched by hand, 2 of 5 classes edited, 12 images left out." in shown
    assert "2 classes of the data count as class 1 of the model: 'kind 0', 'kind 1'." in shown
    page.button(key="audit-queue").click().run()
    spec = typed(queued(world, "audit"), AuditJob).audit
    assert spec.match == {"kind 0": 1, "kind 1": 1, "kind 2": 2, "kind 3": 3, "kind 4": None}


def test_a_match_that_is_not_edited_is_not_queued(world: World) -> None:
    page = opened("new_audit", model=world.model_id, dataset=world.dataset_id)
    page.button(key="audit-queue").click().run()
    assert typed(queued(world, "audit"), AuditJob).audit.match == {}


def rename(world: World, **manifest: Any) -> None:
    with world.client.backend.database.write() as session:
        row = world.client.library.dataset("random")
        row.manifest = row.manifest | manifest
        session.merge(row)


def test_labels_that_count_from_one_are_said_and_the_page_offers_to_subtract(world: World) -> None:
    rename(world, class_names=None, class_counts=[0, 12, 12, 12, 12, 12], num_classes=6)
    page = opened("new_audit", model=world.model_id, dataset=world.dataset_id)
    assert "has labels from 1 to 5, the model only 5 classes (0 to 4)" in texts(page)
    assert [row["model"] for row in rows_of(page)] == ["1", "2", "3", "4", "left out"]
    page.radio(key="audit-way").set_value("one").run()
    assert [row["model"] for row in rows_of(page)] == ["0", "1", "2", "3", "4"]
    assert not page.error
    page.button(key="audit-queue").click().run()
    assert typed(queued(world, "audit"), AuditJob).audit.match == {str(n): n - 1 for n in range(1, 6)}


def test_names_that_contradict_are_said_beside_the_table(world: World) -> None:
    with world.client.backend.database.write() as session:
        row = world.client.library.model("tiny")
        row.class_names = ["kind 1", "kind 0", "kind 2", "kind 3", "other"]
        session.merge(row)
    page = opened("new_audit", model=world.model_id, dataset=world.dataset_id)
    assert any("The model does not know 1 of the data set's 5 classes by name" in item.value for item in page.error)
    page.radio(key="audit-way").set_value("name").run()
    shown = [row["model"] for row in rows_of(page)]
    assert shown == ["1: kind 0", "0: kind 1", "2: kind 2", "3: kind 3", "left out"]
    assert "12 images of 1 class left out" in texts(page)
    assert not page.error


def test_a_vetting_takes_the_match_of_its_table(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    page = opened("models", model=world.model_id)
    assert not page.data_editor
    page.selectbox(key="vet-on").set_value(world.dataset_id).run()
    edit(page, monkeypatch, {2: "left out"})
    page.button(key="vet-now").click().run()
    assert not page.exception
    request = typed(queued(world, "vet"), VetJob)
    assert request.match["kind 2"] is None
    (job,) = world.client.jobs.find(kind="vet")
    run_here(world.client, job.id)
    card = world.client.audits.card(job.id)
    of_it = real_counts(world)[2]
    assert (card.samples, known(card.classes).how) == (60 - of_it, "hand")
    assert f"{of_it} images of 1 class left out" in texts(opened("models", model=world.model_id))


@pytest.mark.parametrize(
    ("view", "button", "kind"), [("harden", "harden-queue", "harden"), ("defend", "defend-fit", "fit-defense")]
)
def test_what_learns_from_data_takes_the_match_of_its_table(
    world: World, monkeypatch: pytest.MonkeyPatch, view: str, button: str, kind: str
) -> None:
    page = opened(view, model=world.model_id, dataset=world.dataset_id)
    edit(page, monkeypatch, {4: "left out"})
    assert not page.exception
    page.button(key=button).click().run()
    asked: Any = queued(world, kind)
    spec = asked.training if kind == "harden" else asked.fit
    assert spec.match == {f"kind {label}": label if label < 4 else None for label in range(5)}


def test_a_match_that_cannot_be_is_unfolded(world: World) -> None:
    tables = {}
    for name, counts in (("plain", [12] * 5), ("beyond", [0, *[12] * 5])):
        rename(world, class_names=None, num_classes=len(counts), class_counts=counts)
        page = opened("harden", model=world.model_id, dataset=world.dataset_id)
        tables[name] = next(item for item in page.expander if item.label == "Classes of the data and of the model")
    assert [table.proto.expanded for table in tables.values()] == [False, True]


def test_the_commands_of_what_learns_take_the_match(world: World, auditor: Auditor) -> None:
    match, learning = ["--match", "kind 4="], ["--set", "epochs=1", "--set", "batch_size=8", "--method", "fine_tune"]
    for command in (["harden", "run", "tiny", "random"], ["defend", "fit", "tiny", "random", "--defense", "nip"]):
        assert "1 of 5 classes edited, 12 images left out" in auditor(*command, *match, "--show-match")
    assert world.client.jobs.find() == []
    auditor("harden", "run", "tiny", "random", *match, *learning, "--detach")
    (job,) = world.client.jobs.find(kind="harden")
    run_here(world.client, job.id)
    left = f"matched by hand, 1 of 5 classes edited, {real_counts(world)[4]} images left out"
    assert f"classes of the data {left}" in auditor("harden", "show", job.id)
    assert f"Classes of the data: {left}." in texts(opened("harden", job=job.id))
    assert "Use --match" in auditor("harden", "run", "tiny", "random", "--set", "match=a", expect=1)

    nip = ["--defense", "nip:quorum=0.5,inputs=20,front=1,tail=1"]
    auditor("defend", "fit", "tiny", "random", *nip, "--name", "kept", *match, "--detach")
    (job,) = world.client.jobs.find(kind="fit-defense")
    run_here(world.client, job.id)
    assert f"classes of the data {left}" in auditor("defend", "show", "kept")
    assert "12 images left out" in auditor("defend", "evaluate", "kept", "random", *match, "--show-match")
    assert "none is named" in auditor("defend", "fit", "tiny", "--defense", "jpeg", *match, expect=1)


def test_the_command_line_shows_the_match_and_queues_it(world: World, auditor: Auditor, tmp_path: Path) -> None:
    shown = auditor("audit", "run", "tiny", "random", "--show-match")
    assert "3: kind 3" in shown
    assert "matched by number" in shown
    assert world.client.jobs.find() == []
    match = "kind 0=1,kind-4=,3=2"
    shown = auditor("models", "vet", "tiny", "random", "--match", match, "--show-match")
    assert "matched by hand, 3 of 5 classes edited, 12 images left out" in shown
    fewer = AuditSpec.load(QUICK_SPEC | {"match": {"kind 4": None}})
    estimate = world.client.audits.estimate
    assert [estimate("tiny", "random", each).samples for each in (fewer, AuditSpec.load(QUICK_SPEC))] == [48, 60]
    assert "by hand" in next(line for line in shown.splitlines() if line.startswith("0: kind 0"))
    auditor("audit", "run", "tiny", "random", *QUICK, "--match", match, "--detach")
    (job,) = world.client.jobs.find(kind="audit")
    assert typed(queued(world, "audit"), AuditJob).audit.match == {"kind 0": 1, "kind-4": None, "3": 2}
    run_here(world.client, job.id)
    printed = auditor("audit", "show", job.id)
    left = f"{real_counts(world)[4]} images left out"
    assert f"classes of the data matched by hand, 3 of 5 classes edited, {left}" in printed
    result = world.client.audits.result(job.id)
    assert set(result.samples.labels) <= {1, 2}
    # The match of the specification is used again, and that of the option where there is one.
    (tmp_path / "spec.json").write_text(result.spec.model_dump_json())
    (tmp_path / "match.json").write_text(json.dumps({"kind 1": None}))
    spec = ["--spec", str(tmp_path / "spec.json"), "--show-match"]
    assert "3 of 5 classes edited" in auditor("audit", "run", "tiny", "random", *spec)
    again = auditor("audit", "run", "tiny", "random", *spec, "--match", str(tmp_path / "match.json"))
    assert "matched by hand, 1 of 5 classes edited, 12 images left out" in again


@pytest.mark.parametrize(
    ("match", "words"),
    [
        ("knd 0=1", "has no class 'knd 0'"),
        ("kind 0=9", "the model has no class '9'"),
        ("kind 0", "The match kind 0 cannot be read"),
        ("=1", "The match has '=1'; expected CLASS=NEW"),
    ],
)
def test_a_wrong_match_is_said_and_nothing_is_queued(world: World, auditor: Auditor, match: str, words: str) -> None:
    assert words in auditor("audit", "run", "tiny", "random", "--match", match, "--detach", expect=1)
    assert world.client.jobs.find() == []


def test_a_match_without_a_data_set_is_refused(world: World, auditor: Auditor) -> None:
    assert "none is named" in auditor("models", "vet", "tiny", "--match", "a=1", expect=1)
