"""``auditor harden``: what the page can do, in words."""

from __future__ import annotations

import json
import re

import pytest

from auditor.hardening.hardening import HARDENINGS
from auditor.hardening.result import TrainingResult
from auditor.hardening.spec import TrainingSpec
from tests.app.test_cli import Auditor, auditor, world
from tests.worker.test_harden import training
from tests.worker.world import World, run_here

__all__ = ["auditor", "world"]  # fixtures

pytestmark = pytest.mark.usefixtures("shared_server")

FEW = ("--set", "epochs=2", "--set", "batch_size=16", "--set", "validation_steps=2", "--set", "augmentation=none")


def test_from_the_model_to_its_child(world: World, auditor: Auditor) -> None:
    """Queued, run by a worker that is started for it, listed, shown, and too late to cancel."""
    ran = auditor("harden", "run", "tiny", "random", "--method", "pat:steps=2,epsilon=0.05", *FEW, "--name", "tough")
    assert re.search(r"Hardening \w{8} is queued: at most [\d,]+ passes per image", ran)
    assert "child: tough" in ran
    (job,) = world.client.jobs.find(kind="harden")
    result = world.client.trainings.result(job.id)
    method = HARDENINGS.parse("pat:steps=2,epsilon=0.05")
    few = {"epochs": 2, "batch_size": 16, "validation_steps": 2, "augmentation": "none"}
    assert result.spec == TrainingSpec.load(few | {"hardening": method})
    assert f"clean accuracy {result.start.clean} {result.best.clean}".split() == next(
        line.split() for line in ran.splitlines() if line.startswith("clean accuracy")
    ), "parent and child on the same images"
    listed = auditor("harden", "list")
    assert job.id[:8] in listed
    assert "tough" in listed
    assert "child: tough" in auditor("harden", "show", job.id[:8])
    assert TrainingResult.model_validate_json(auditor("harden", "show", job.id[:8], "--json")) == result
    assert "It had already ended: succeeded" in auditor("harden", "cancel", job.id[:8])


def test_a_queued_training_is_cancelled_without_a_child(world: World, auditor: Auditor) -> None:
    auditor("harden", "run", "tiny", "random", "--detach")
    (job,) = world.client.jobs.find(kind="harden")
    assert "It is stopping" in auditor("harden", "cancel", job.id[:8])
    assert "cancelled" in auditor("harden", "show", job.id[:8])
    assert "cancelled" in auditor("harden", "list")


def test_a_specification_in_a_file_is_run_as_it_is(world: World, auditor: Auditor, tmp_path: object) -> None:
    from pathlib import Path

    file = Path(str(tmp_path)) / "spec.json"
    file.write_text(training(epochs=1).model_dump_json())
    auditor("harden", "run", "tiny", "random", "--spec", str(file), "--detach")
    (job,) = world.client.jobs.find(kind="harden")
    run_here(world.client, job.id)
    assert world.client.trainings.result(job.id).spec == training(epochs=1)
    assert json.loads(file.read_text()) == training(epochs=1).model_dump(mode="json")


def test_the_help_names_every_method_and_every_setting(auditor: Auditor) -> None:
    text = auditor("harden", "run", "--help")
    for kind in HARDENINGS.members:
        assert re.search(rf"^  {kind}\s", text, re.M), kind
    for name in TrainingSpec.model_fields:
        option = {"hardening": r"--method\b", "match": r"--match\b"}.get(name, rf"{name}\s")
        assert re.search(rf"^  {option}", text, re.M), name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "nobody", "random"), "There is no model 'nobody'."),
        (("run", "tiny", "nobody"), "There is no data set 'nobody'."),
        (("run", "tiny", "random", "--method", "magic"), "There is no hardening 'magic'. Known: "),
        (("run", "tiny", "random", "--method", "pat:steps=0"), "steps: expected greater than or equal to 1, got '0'"),
        (("run", "tiny", "random", "--set", "epochs"), "training: expected name=value, got 'epochs'"),
        (("run", "tiny", "random", "--set", "epochs=none"), "epochs: expected a valid integer"),
        (("run", "tiny", "random", "--set", "speed=9"), "speed is not a parameter"),
        (("run", "tiny", "random", "--spec", "nowhere.json"), "nowhere.json cannot be read"),
        (("show", "nobody"), "There is no job 'nobody'."),
    ],
)
def test_a_wrong_call_gets_one_sentence(world: World, auditor: Auditor, arguments: tuple[str, ...], said: str) -> None:
    output = auditor("harden", *arguments, expect=1).strip()
    assert said in output
    assert len(output.splitlines()) == 1
    assert world.client.jobs.find(kind="harden") == []
