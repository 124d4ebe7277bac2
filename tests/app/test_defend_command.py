"""``auditor defend``: fitted, listed, shown, evaluated, exported, deleted; and one sentence when it cannot."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from app.processes import worker_if_none
from auditor.defending.defense import DEFENSES
from auditor.defending.evaluation import DefenseEvaluation
from auditor.defending.spec import TableSpec
from tests.app.test_cli import Auditor, auditor, world
from tests.worker.test_defend import kept, study_spec
from tests.worker.world import World, run_here
from worker.loading import load_dataset

__all__ = ["auditor", "world"]  # fixtures

pytestmark = pytest.mark.usefixtures("shared_server")

NIP = "nip:front=3,tail=3,quorum=0.5,inputs=20"
FEW = tuple(
    part
    for item in ("steps=2", "restarts=1", "draws=2", "nearest=2", "queries=5", "decision_steps=20", "batch_size=16")
    for part in ("--set", item)
)


def test_from_the_model_to_a_defended_one(world: World, auditor: Auditor, tmp_path: Path) -> None:
    """Fitted, evaluated, listed, shown, exported. Commands that start a worker: test_cli, test_harden_command."""
    with worker_if_none(world.client):  # the commands find it
        ran = auditor("defend", "fit", "tiny", "random", "--defense", NIP, "--samples", "30", "--name", "shield")
        assert "fitted on 30 images of random, seed 0" in ran
        ran = auditor(
            "defend", "evaluate", "shield", "random", "--samples", "10", "--epsilon", "0.05", "--static", "pgd:steps=2",
            "--sweep", "front=1+2", "--sweep-samples", "4", "--unseen", *FEW,
        )  # fmt: skip
    (one,) = world.client.defenses.evaluations()
    study = world.client.defenses.evaluation(one.job.id)
    assert f"lowest robust accuracy {study.table.headline.accuracy}" in ran
    assert "Random candidate (control)" in ran
    listed = auditor("defend", "list")
    assert one.job.id[:8] in listed
    assert re.search(r"shield\s+tiny\s+random\s+30\s+1\s", listed)
    everything = json.loads(auditor("defend", "list", "--json"))
    assert [item["name"] for item in everything["defenses"]] == ["shield"]
    assert [item["summary"]["samples"] for item in everything["evaluations"]] == [10]
    assert "nip: layer" in auditor("defend", "show", "shield")
    assert json.loads(auditor("defend", "show", "shield", "--json"))["lineage"]["count"] == 30
    assert f"lowest robust accuracy {study.table.headline.accuracy}" in auditor("defend", "show", one.job.id[:8])
    assert DefenseEvaluation.model_validate_json(auditor("defend", "show", one.job.id[:8], "--json")) == study
    assert "It had already ended: succeeded" in auditor("defend", "cancel", one.job.id[:8])
    assert "used by 1 evaluation(s) and cannot be deleted" in auditor("defend", "delete", "shield", expect=1)


def test_what_is_exported_is_the_defended_model(world: World, auditor: Auditor, tmp_path: Path) -> None:
    """Loaded in a process that has none of our packages on its path: the same logits."""
    key = kept(world)
    assert "Wrote" in auditor("defend", "export", key, str(tmp_path / "folder"))
    assert "Wrote" in auditor("defend", "export", key, str(tmp_path / "model.zip"))
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        inside = {name: archive.read(name) for name in archive.namelist()}
    folder = tmp_path / "folder"
    assert inside == {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    images = load_dataset(world.client.library.dataset("random"), world.client.blobs).images(range(6))
    torch.save(images, tmp_path / "images.pt")
    program = (
        "import torch, defended_model; from pathlib import Path; "
        f"model = defended_model.load({str(folder)!r}); "
        f"torch.save(model.logits(torch.load({str(tmp_path / 'images.pt')!r})), {str(tmp_path / 'logits.pt')!r})"
    )
    subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env={"PYTHONPATH": str(folder)}, check=True, timeout=120
    )
    wanted = world.client.defenses.load(key).defended.logits(images)
    assert torch.allclose(torch.load(tmp_path / "logits.pt"), wanted, atol=1e-5)
    assert "is there already" in auditor("defend", "export", key, str(folder), expect=1)


def test_a_defense_that_learns_nothing_is_there_at_once_and_may_go(world: World, auditor: Auditor) -> None:
    said = auditor("defend", "fit", "tiny", "--defense", "jpeg:quality=70", "--defense", "bit-depth")
    assert "JPEG" in said
    assert "not fitted" in said
    assert world.client.jobs.find() == []
    (view,) = world.client.defenses.find()
    assert [item["kind"] for item in view.row.spec["defenses"]] == ["jpeg", "bit-depth"]
    assert "Deleted" in auditor("defend", "delete", view.row.id[:8])
    assert world.client.defenses.find() == []


def test_specifications_in_files_are_run_as_they_are(world: World, auditor: Auditor, tmp_path: Path) -> None:
    fit, study = tmp_path / "fit.json", tmp_path / "study.json"
    fit.write_text(json.dumps({"defenses": [{"kind": "bit-depth", "bits": 4}]}))
    study.write_text(study_spec().model_dump_json())
    auditor("defend", "fit", "tiny", "--spec", str(fit), "--name", "coarse")
    told = auditor("defend", "evaluate", "coarse", "random", "--spec", str(study), "--detach")
    assert re.search(
        r"Evaluation \w{8} is queued: at most [\d,]+ passes of the model per image", " ".join(told.split())
    )
    (one,) = world.client.defenses.evaluations("coarse")
    run_here(world.client, one.job.id)
    assert world.client.defenses.evaluation(one.job.id).spec == study_spec()


def test_a_queued_fit_is_cancelled(world: World, auditor: Auditor) -> None:
    auditor("defend", "fit", "tiny", "random", "--defense", NIP, "--detach")
    (job,) = world.client.jobs.find(kind="fit-defense")
    assert "It is stopping" in auditor("defend", "cancel", job.id[:8])
    assert "cancelled" in auditor("defend", "show", job.id[:8])
    assert world.client.defenses.find() == []


def test_the_help_names_every_defense_and_every_setting(auditor: Auditor) -> None:
    text = auditor("defend", "fit", "--help")
    for kind in DEFENSES.members:
        assert re.search(rf"^  {kind}\s", text, re.M), kind
    text = auditor("defend", "evaluate", "--help")
    for name in TableSpec.model_fields:
        assert name in ("threat", "static", "influence", "published") or re.search(rf"^  {name}\s", text, re.M), name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fit", "nobody", "random", "--defense", NIP), "There is no model 'nobody'."),
        (("fit", "tiny", "nobody", "--defense", NIP), "There is no data set 'nobody'."),
        (("fit", "tiny", "--defense", NIP), "NIP learns from training images, and no data set is given."),
        (("fit", "tiny", "random"), "No defense is named. Name one with --defense; known: bit-depth"),
        (("fit", "tiny", "--defense", "magic"), "There is no defense 'magic'. Known: "),
        (("fit", "tiny", "--defense", "jpeg:quality=0"), "quality: expected greater than or equal to 1, got '0'"),
        (("fit", "tiny", "random", "--defense", NIP, "--samples", "none"), "samples: expected a valid integer"),
        (("fit", "tiny", "--spec", "nowhere.json"), "nowhere.json cannot be read"),
        (("evaluate", "nothing", "random"), "There is no defense 'nothing'. List them with `auditor defend list`."),
        (("evaluate", "coarse", "nobody"), "There is no data set 'nobody'."),
        (("evaluate", "coarse", "random", "--set", "steps"), "evaluation: expected name=value, got 'steps'"),
        (("evaluate", "coarse", "random", "--set", "threat=1"), "evaluation: threat cannot be set here."),
        (("evaluate", "coarse", "random", "--set", "steps=0"), "steps: expected greater than or equal to 1, got '0'"),
        (("evaluate", "coarse", "random", "--epsilon", "a/b"), "expected a number or a fraction such as 8/255"),
        (
            ("evaluate", "coarse", "random", "--sweep", "k=1+2"),
            "sweep: there is no parameter 'k' here. There are: epsilon, bits",
        ),
        (("evaluate", "coarse", "random", "--sweep", "bits"), "sweep: expected parameter=value+value"),
        (("evaluate", "coarse", "random", "--sweep", "bits=2+99"), "bits: expected less than or equal to 8, got '99'"),
        (("show", "nothing"), "There is no stored defense and no job 'nothing'."),
        (("export", "nothing", "folder"), "There is no defense 'nothing'."),
        (("delete", "nothing"), "There is no defense 'nothing'."),
    ],
)
def test_a_wrong_call_gets_one_sentence(world: World, auditor: Auditor, arguments: tuple[str, ...], said: str) -> None:
    auditor("defend", "fit", "tiny", "--defense", "bit-depth", "--name", "coarse")
    output = auditor("defend", *arguments, expect=1).strip()
    assert said in output
    assert len(output.splitlines()) == 1
    assert world.client.jobs.find() == []
