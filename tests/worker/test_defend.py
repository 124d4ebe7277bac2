"""Stored defenses and their evaluations as jobs: kept with their lineage, killed and gone on, refused in a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from auditor.defending.files import weights_hash
from auditor.defense import DEFENSES
from auditor.defense_fit import FitSpec
from auditor.defense_study import StudySpec
from tests.worker.world import World, make_world, run_here
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


def study_spec(**more: Any) -> StudySpec:
    """Few images and steps; no controls."""
    quick = {
        "steps": 2, "restarts": 1, "draws": 2, "nearest": 2, "queries": 5, "decision_steps": 20, "batch_size": 16,
        "threat": {"epsilon": 0.05}, "static": [{"kind": "pgd", "steps": 2}, {"kind": "fgsm"}], "seed": 1,
    }  # fmt: skip
    values = {"evaluation": quick | more.pop("evaluation", {}), "samples": 12, "controls": False, "sweep_samples": 6}
    return StudySpec.load(values | more)


def kept(world: World, spec: FitSpec | None = None, name: str = "") -> str:
    """Prepare a defense here; returns its id."""
    preparation = world.client.fit_defense("tiny", spec or fit_spec(), "random", name)
    if preparation.defense_id:
        return preparation.defense_id
    row = world.client.defense_made_by(run_here(world.client, preparation.job_id))
    assert row is not None
    return row.id


def test_a_prepared_defense_is_kept_with_its_lineage(world: World) -> None:
    client = world.client
    view = client.defense(kept(world))
    assert (view.row.name, view.model, view.dataset, view.evaluations) == ("NIP for tiny", "tiny", "random", 0)
    assert FitSpec.load(view.row.spec) == fit_spec()
    lineage = view.row.manifest["lineage"]
    classifier = load_classifier(client.model("tiny"), client.blobs)
    assert lineage["weights"] == weights_hash(classifier)
    assert lineage["dataset_sha256"] == client.dataset("random").content
    assert (lineage["count"], lineage["seed"]) == (30, 0)
    # What was stored is what a fit on these images, in the order of the seed, learns.
    data = load_dataset(client.dataset("random"), client.blobs)
    again = DEFENSES.build("nip", {name: value for name, value in NIP.items() if name != "kind"})
    state = again.fit(classifier, data, data.order(0)[:30], seed=0, batch_size=16)
    loaded = client.defended_model(view.row.id).defended
    assert loaded.state.tensors.keys() == state.tensors.keys()
    for key, value in state.tensors.items():
        assert np.array_equal(loaded.state.tensors[key].numpy(), value.numpy()), key


def test_an_evaluation_has_controls_tests_and_sweeps(world: World) -> None:
    sweeps = [{"parameter": "k", "values": [1, 2]}, {"parameter": "epsilon", "values": ["4/255"]}]
    job = world.client.evaluate_defense(kept(world), "random", study_spec(controls=True, sweeps=sweeps))
    run_here(world.client, job)
    study = world.client.defense_study(job)
    assert [item.title for item in study.controls] == [
        "Random direction (control)", "Gaussian noise (control)", "Random candidate (control)",
    ]  # fmt: skip
    assert [len(item.points) for item in study.sweeps] == [2, 1]
