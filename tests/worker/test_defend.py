"""Stored defenses and their evaluations as jobs: kept with their lineage, killed and gone on, refused in a sentence."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from auditor.defending.defense import DEFENSES
from auditor.defending.evaluation import DefenseEvaluation, EvaluationSpec
from auditor.defending.files import weights_hash
from auditor.defending.fit import FitSpec
from auditor.kit.errors import MismatchError, NotFoundError, SpecError
from auditor.kit.statistics.estimate import Rate
from auditor.models.defended import DefendedClassifier
from tests.worker.rows import new_job
from tests.worker.test_queue import finished, results, worker
from tests.worker.test_supervisor import run, runners, wait_until
from tests.worker.world import World, make_world, run_here
from worker.defenses import NewDefense
from worker.loading import load_classifier, load_dataset
from worker.settings import Settings, load_settings


@pytest.fixture
def world(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("AUDITOR_LEASE_SECONDS", "3")
    return make_world(load_settings())


NIP = {"kind": "nip", "front": 3, "tail": 3, "quorum": 0.5, "inputs": 20}


def fit_spec(*defenses: Any, **more: Any) -> FitSpec:
    """Few images; NIP by default."""
    return FitSpec.load({"defenses": defenses or (NIP,), "samples": 30, "batch_size": 16} | more)


def study_spec(**more: Any) -> EvaluationSpec:
    """Few images and steps; no controls."""
    quick = {
        "steps": 2, "restarts": 1, "draws": 2, "nearest": 2, "queries": 5, "decision_steps": 20, "batch_size": 16,
        "threat": {"epsilon": 0.05}, "static": [{"kind": "pgd", "steps": 2}, {"kind": "fgsm"}], "seed": 1,
    }  # fmt: skip
    values = {"evaluation": quick | more.pop("evaluation", {}), "samples": 12, "controls": False, "sweep_samples": 6}
    return EvaluationSpec.load(values | more)


def kept(world: World, spec: FitSpec | None = None, name: str = "") -> str:
    """Fit a defense here; returns its id."""
    queued = world.client.defenses.fit("tiny", spec or fit_spec(), "random", name)
    if queued.defense_id:
        return queued.defense_id
    row = world.client.defenses.made_by(run_here(world.client, queued.job_id))
    assert row is not None
    return row.id


def test_a_fitted_defense_is_kept_with_its_lineage(world: World) -> None:
    client = world.client
    view = client.defenses.get(kept(world))
    assert (view.row.name, view.model, view.dataset, view.evaluations) == ("NIP for tiny", "tiny", "random", 0)
    assert FitSpec.load(view.row.spec) == fit_spec()
    lineage = view.row.manifest["lineage"]
    classifier = load_classifier(client.library.model("tiny"), client.blobs)
    assert lineage["weights"] == weights_hash(classifier)
    assert lineage["dataset_sha256"] == client.library.dataset("random").content
    assert (lineage["count"], lineage["seed"]) == (30, 0)
    # What was stored is what a fit on these images, in the order of the seed, learns.
    data = load_dataset(client.library.dataset("random"), client.blobs)
    again = DEFENSES.build("nip", {name: value for name, value in NIP.items() if name != "kind"})
    state = again.fit(classifier, data, data.order(0)[:30], seed=0, batch_size=16)
    loaded = client.defenses.load(view.row.id).defended
    assert loaded.state.tensors.keys() == state.tensors.keys()
    for key, value in state.tensors.items():
        assert np.array_equal(loaded.state.tensors[key].numpy(), value.numpy()), key


def test_defenses_that_learn_nothing_are_kept_at_once_and_need_no_data(world: World) -> None:
    spec = fit_spec({"kind": "jpeg"}, {"kind": "bit-depth"})
    queued = world.client.defenses.fit("tiny", spec, name="plain")
    assert (queued.job_id, world.client.jobs.find()) == ("", [])
    view = world.client.defenses.get("plain")
    assert (view.row.id, view.dataset, view.row.job_id) == (queued.defense_id, "", None)
    assert view.row.manifest["lineage"]["count"] == 0
    # Where data is given, it is not looked at, so that both are the same file.
    again = world.client.defenses.fit("tiny", spec, "random", "plain")
    other = world.client.defenses.get(again.defense_id)
    assert (other.row.name, other.row.content, other.dataset) == ("plain (2)", view.row.content, "")


def test_a_row_of_defenses_is_one_file_and_answers_as_it_did(world: World) -> None:
    client = world.client
    key = kept(world, fit_spec({"kind": "bit-depth", "bits": 3}, NIP))
    loaded = client.defenses.load(key)
    images = load_dataset(client.library.dataset("random"), client.blobs).images(range(8))
    behind = loaded.defended.inner
    assert isinstance(behind, DefendedClassifier)
    rounded = (images * 7).round() / 7  # 3 bits: 8 levels
    assert np.allclose(loaded.defended.logits(images).numpy(), behind.logits(rounded).numpy(), atol=1e-6)
    assert client.defenses.get(key).row.name == "Bit-depth reduction, then NIP for tiny"


def test_the_same_fit_gives_the_same_file(world: World) -> None:
    first, second = (world.client.defenses.get(kept(world)) for _ in range(2))
    assert first.row.content == second.row.content
    assert (first.row.name, second.row.name) == ("NIP for tiny", "NIP for tiny (2)")
    other = world.client.defenses.get(kept(world, fit_spec(seed=1)))
    assert other.row.content != first.row.content


def test_an_evaluation_has_controls_tests_and_sweeps(world: World) -> None:
    sweeps = [{"parameter": "k", "values": [1, 2]}, {"parameter": "epsilon", "values": ["4/255"]}]
    key = kept(world)
    job = world.client.defenses.evaluate(key, "random", study_spec(controls=True, sweeps=sweeps))
    run_here(world.client, job)
    study = world.client.defenses.evaluation(job)
    assert study == DefenseEvaluation.model_validate_json(study.model_dump_json())
    moves = ["Random direction of its size", "Random direction of 0.008", "Gaussian noise of its size"]
    titles = [f"{move} (control)" for move in (*moves, "Random candidate")]
    assert [item.title for item in study.controls] == titles
    assert [len(item.points) for item in study.sweeps] == [2, 1]
    assert study.fitted == fit_spec()
    assert study.dataset.sha256 == world.client.library.dataset("random").content
    assert study.weights == world.client.library.model("tiny").weights
    assert world.client.defenses.table(job) == study.table
    (one,) = world.client.defenses.evaluations(key)
    assert (one.job.id, one.defense_id, one.defense, one.dataset) == (job, key, "NIP for tiny", "random")
    summary = one.job.summary
    headline = study.table.headline
    assert Rate.model_validate(summary["headline"]) == headline.accuracy
    assert headline.accuracy.hits == min(row.accuracy.hits for row in study.table.robust if row.within)
    assert summary["headline_attack"] == headline.name
    assert summary["undefended"]["hits"] == min(row.accuracy.hits for row in study.table.undefended)
    assert [item["title"] for item in summary["controls"]] == titles
    assert world.client.defenses.evaluations(kept(world, name="other")) == []


def test_an_evaluation_on_fitted_images_says_so_and_unseen_ones_are_none(world: World) -> None:
    key = kept(world)
    flagged = {}
    for unseen in (False, True):
        job = world.client.defenses.evaluate(key, "random", study_spec(unseen=unseen))
        study = world.client.defenses.evaluation(run_here(world.client, job))
        fitted = set(load_dataset(world.client.library.dataset("random"), world.client.blobs).order(0)[:30].tolist())
        common = len(fitted & set(study.table.samples))
        flagged[unseen] = [flag for flag in study.flags if flag.name == "evaluated on fitted images"]
        assert (common == 0) is unseen
        assert [flag.evidence for flag in flagged[unseen]] == ([] if unseen else [f"{common} of 12 images"])
    world.client.defenses.fit("tiny", fit_spec({"kind": "bit-depth"}), name="plain")
    job = world.client.defenses.evaluate("plain", "random", study_spec())
    study = world.client.defenses.evaluation(run_here(world.client, job))
    assert not any(flag.name == "evaluated on fitted images" for flag in study.flags)


# -- killed, cancelled, refused ----------------------------------------------------------------------------------------------

SLOW = {"restarts": 40, "steps": 40, "draws": 20, "threat": {"epsilon": 1e-4}}
"""So small an epsilon fools nobody, so that every sample takes all its steps."""


def test_a_worker_killed_during_an_evaluation_and_it_goes_on_after_the_last_whole_table(world: World) -> None:
    sweep = {"parameter": "bits", "values": [1, 2, 3]}
    world.client.defenses.fit("tiny", fit_spec({"kind": "bit-depth"}), name="plain")
    spec = study_spec(sweeps=[sweep])
    whole = world.client.defenses.evaluate("plain", "random", spec)
    run_here(world.client, whole)
    torn = world.client.defenses.evaluate("plain", "random", spec)
    with worker(world) as process:
        wait_until(lambda: reached(world, torn) >= 1)
        process.kill()
        process.wait(10)
    wait_until(lambda: not runners())
    before = reached(world, torn)
    assert not world.client.jobs.get(torn).ended, "too short an evaluation to be killed"
    assert len(list(world.client.settings.workspaces.rglob("table-*.json"))) >= before
    with worker(world):
        wait_until(finished(world, [torn]), 240)
    view = world.client.jobs.get(torn)
    assert (view.state, view.attempts) == ("succeeded", 2)
    row = world.client.ledger.get(torn)
    assert row is not None
    assert row.resumed > 0, "the second attempt began where the first one was"
    first, second = (world.client.defenses.evaluation(job) for job in (whole, torn))
    assert numbers(first) == numbers(second)
    assert results(world) == 2


def numbers(study: DefenseEvaluation) -> list[Any]:
    """All but the times."""
    tables = [study.table, *(point.table for sweep in study.sweeps for point in sweep.points)]
    return [[(row.name, row.held) for row in table.robust] + [row.success for row in table.static] for table in tables]


def reached(world: World, job: str) -> int:
    row = world.client.ledger.get(job)
    assert row is not None
    return row.reached


def test_a_cancelled_evaluation_leaves_nothing(world: World) -> None:
    world.client.defenses.fit("tiny", fit_spec({"kind": "bit-depth"}), name="plain")
    job = world.client.defenses.evaluate("plain", "random", study_spec(samples=60, evaluation=SLOW))
    thread = threading.Thread(target=run, args=(world, job))
    thread.start()
    wait_until(lambda: world.client.jobs.get(job).share > 0)
    assert world.client.jobs.cancel(job)
    thread.join(30)
    assert world.client.jobs.get(job).state == "cancelled"
    assert (runners(), results(world)) == ([], 0)
    (one,) = world.client.defenses.evaluations("plain")
    assert one.job.state == "cancelled"


def test_a_fit_and_its_end_are_one_and_a_zombies_defense_is_none(both: Settings) -> None:
    world = make_world(both)
    queued = world.client.defenses.fit("tiny", fit_spec(), "random")
    ledger = world.client.ledger
    zombie = ledger.claim(queued.job_id, "lost", 60)
    assert zombie is not None
    ledger.crashed(zombie, "lost")
    run_here(world.client, queued.job_id)
    (view,) = world.client.defenses.find()
    new = NewDefense("twin", view.row.model_id, view.row.dataset_id, view.row.spec, view.row.content, view.row.manifest)
    assert not ledger.succeed(zombie, "a" * 64, {}, defense=new)
    assert len(world.client.defenses.find()) == 1


def test_what_may_be_deleted_and_what_stays(both: Settings) -> None:
    world = make_world(both)
    client, key = world.client, kept(world)
    job = client.defenses.evaluate(key, "random", study_spec())
    with pytest.raises(MismatchError, match=r"NIP for tiny is used by 1 evaluation\(s\) and cannot be deleted"):
        client.defenses.delete(key)
    with pytest.raises(MismatchError, match=r"tiny has the defenses NIP for tiny and cannot be removed"):
        client.backend.registry.remove(client.library.model("tiny"))
    assert client.defenses.get(key).row.content in client.backend.registry.referenced_blobs()
    other = client.defenses.get(kept(world, fit_spec({"kind": "bit-depth"}), "plain"))
    client.defenses.rename("plain", "coarse")
    with pytest.raises(SpecError, match="The name 'NIP for tiny' is taken"):
        client.defenses.rename("coarse", "NIP for tiny")
    client.defenses.delete("coarse")
    assert other.row.content not in client.backend.registry.referenced_blobs()
    with pytest.raises(NotFoundError, match="There is no defense 'coarse'"):
        client.defenses.get("coarse")
    spec = client.jobs.request(job).model_dump(mode="json")
    with pytest.raises(NotFoundError, match="The defense was deleted meanwhile"):
        new_job(client.ledger, kind="evaluate-defense", spec=spec, defense_id=other.row.id)
    assert len(client.jobs.find(kind="evaluate-defense")) == 1


@pytest.mark.parametrize("how", ["shape", "classes"])
def test_data_that_does_not_fit_is_refused_at_once(world: World, how: str) -> None:
    key = kept(world)
    before = len(world.client.jobs.find())
    with world.client.backend.database.write() as session:
        dataset = world.client.library.dataset("random")
        dataset.manifest = dataset.manifest | (
            {"shape": [1, 28, 28]}
            if how == "shape"
            else {"num_classes": 9, "class_names": None, "class_counts": [12] * 9}
        )
        session.merge(dataset)
    said = "takes images of 3x6x6" if how == "shape" else "labels from 0 to 8, the model only 5 classes"
    with pytest.raises(MismatchError, match=said):
        world.client.defenses.fit("tiny", fit_spec(), "random")
    with pytest.raises(MismatchError, match=said):
        world.client.defenses.evaluate(key, "random", study_spec())
    assert len(world.client.jobs.find()) == before


def test_bad_requests_are_refused_at_once(world: World) -> None:
    client = world.client
    with pytest.raises(SpecError, match="NIP learns from training images, and no data set is given"):
        client.defenses.fit("tiny", fit_spec())
    with pytest.raises(SpecError, match="A name needs 1 to 200 printable characters"):
        client.defenses.fit("tiny", fit_spec(), "random", "a\x00b")
    with pytest.raises(SpecError, match="defenses"):
        FitSpec.load({"defenses": []})
    key = kept(world)
    for sweep, said in (
        ({"parameter": "bits", "values": [1]}, "there is no parameter 'bits' here\\. .*There are: epsilon, eta"),
        ({"parameter": "front", "values": [-1]}, "front: expected greater than or equal to 0"),
        ({"parameter": "epsilon", "values": [0]}, "epsilon: expected greater than 0"),
    ):
        with pytest.raises(SpecError, match=said):
            client.defenses.evaluate(key, "random", study_spec(sweeps=[sweep]))
    assert client.defenses.evaluations() == []


def test_a_fit_that_cannot_be_done_fails_in_a_sentence(world: World) -> None:
    """72 neurons, all of them front or tail: none remains for the template."""
    spec = fit_spec(NIP | {"front": 40, "tail": 40})
    queued = world.client.defenses.fit("tiny", spec, "random")
    assert run(world, queued.job_id) == "done"
    view = world.client.jobs.get(queued.job_id)
    assert view.state == "failed"
    assert "neurons" in view.error
    assert world.client.defenses.made_by(view.id) is None


def test_an_evaluation_without_result_says_so(world: World) -> None:
    job = world.client.defenses.evaluate(kept(world), "random", study_spec())
    with pytest.raises(NotFoundError, match=r"evaluation of a defense .* has no result: it is queued"):
        world.client.defenses.evaluation(job)
