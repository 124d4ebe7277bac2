"""The hardening job: a child with its lineage, resumed to the bit, cancelled with what it has; whatever is killed meanwhile."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from sqlalchemy import func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from auditor.hardening.hardening import HARDENINGS
from auditor.hardening.spec import TrainingSpec
from auditor.kit.errors import MismatchError, NotFoundError, SpecError
from auditor.kit.statistics.estimate import Rate
from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import NORMALIZATIONS
from tests.auditor.hardening.hardenings.given import method
from tests.worker.test_queue import finished, results, worker
from tests.worker.test_supervisor import in_home, run, runners, servers, wait_until
from tests.worker.world import World, make_world, quick_spec, run_here
from worker import ledger as ledger_module
from worker import lineage
from worker.keeper import Keeper
from worker.lineage import ChildModel, add_child
from worker.loading import load_classifier, load_dataset
from worker.models import ModelRow
from worker.settings import Settings, load_settings


@pytest.fixture
def world(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("AUDITOR_LEASE_SECONDS", "3")
    return make_world(load_settings())


def training(**more: Any) -> TrainingSpec:
    """Three short epochs."""
    method = {"kind": "pat", "steps": 2, "epsilon": 0.05}
    few = {"epochs": 3, "batch_size": 16, "validation_steps": 2, "augmentation": "none", "validation_share": 0.25}
    return TrainingSpec.load({"hardening": method} | few | more)


def harden(world: World, name: str = "", **more: Any) -> str:
    return world.client.trainings.queue("tiny", "random", training(**more), name)


def workspaces(world: World) -> list[Path]:
    folder = world.client.settings.workspaces
    return list(folder.iterdir()) if folder.is_dir() else []


def models(world: World) -> int:
    with world.client.backend.database.read() as session:
        return session.scalar(select(func.count()).select_from(ModelRow)) or 0


def weights(world: World, row: ModelRow) -> dict[str, Any]:
    return {name: value.numpy().tobytes() for name, value in load_file(world.client.blobs.path(row.weights)).items()}


def in_background(world: World, job: str) -> threading.Thread:
    thread = threading.Thread(target=run, args=(world, job))
    thread.start()
    return thread


def test_a_hardening_makes_a_child_that_does_what_its_training_measured(world: World) -> None:
    job = run_here(world.client, harden(world))
    result, child = world.client.trainings.result(job), world.client.trainings.child(job)
    assert child is not None
    parent = world.client.library.model("tiny")
    assert child.name == "tiny, PGD adversarial training (PAT)"
    assert (child.architecture, child.normalization) == (parent.architecture, parent.normalization)
    assert weights(world, child) != weights(world, parent)
    assert result.data_sha256 == world.client.library.dataset("random").content
    assert child.manifest["parameters"] == 589  # conv 3*8*9 + 8, linear 72*5 + 5
    assert child.manifest["notes"][0].startswith("Trained here from tiny on random with PGD adversarial training (PAT)")
    # The child itself, loaded as an audit loads it, has the validation accuracies that the result names.
    data = load_dataset(world.client.library.dataset("random"), world.client.blobs)
    held_back = sorted(data.order(result.spec.seed)[:15].tolist())  # a quarter of 60
    seen = [prediction == label for prediction, label in zip(
        load_classifier(child, world.client.blobs).logits(data.images(held_back)).argmax(1).tolist(),
        data.labels[held_back].tolist(), strict=True,
    )]  # fmt: skip
    assert result.best.clean == Rate.count(sum(seen), 15)
    view = world.client.jobs.get(job)
    assert (view.state, view.summary["method"][:4], view.summary["stopped"]) == ("succeeded", "pat:", "finished")
    assert (
        [point.step for _, point in world.client.trainings.points(job)][-1] == result.steps == 6
    )  # 45 images, batches of 16


def test_several_processes_train_in_a_job_and_none_is_left(world: World) -> None:
    job = harden(world, processes=2)
    assert run(world, job) == "done"
    result = world.client.trainings.result(job)
    assert (result.provenance.processes, result.stopped, result.steps) == (2, "finished", result.points[-1].step)
    assert world.client.trainings.child(job) is not None
    wait_until(lambda: not of_this_home(), 60)  # the server that they are forked from goes after its caller
    assert workspaces(world) == []


def of_this_home() -> list[int]:
    """Processes in this test's home: a runner, and what it started; not the server that it was forked from."""
    return [pid for pid in in_home(lambda *_: True) if pid not in servers()]


def test_a_second_child_of_the_same_name_gets_another(world: World) -> None:
    names = []
    for name in ("tougher", "tougher", "tiny"):
        child = world.client.trainings.child(run_here(world.client, harden(world, name, epochs=1)))
        assert child is not None
        names.append(child.name)
    assert names == ["tougher", "tougher (2)", "tiny (2)"]


LAYERS = """nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 10, 3, padding=1),
            nn.BatchNorm2d(10), nn.ReLU(), nn.Flatten(), nn.Linear(90, 12), nn.ReLU(), nn.Linear(12, 5)"""


@pytest.mark.parametrize("kind", HARDENINGS.members)
def test_the_child_of_every_method_is_a_model_that_can_be_audited(world: World, kind: str) -> None:
    client = world.client
    architecture = ARCHITECTURES.build("sequential", {"num_classes": 5, "height": 6, "width": 6, "layers": LAYERS})
    torch.manual_seed(0)
    client.backend.registry.add_model(
        "deep",
        architecture=architecture.model_dump(mode="json"),
        normalization=NORMALIZATIONS["half"].model_dump(mode="json"),
        class_names=None,
        weights=client.blobs.put(save(architecture.build().state_dict())),
        manifest={"parameters": 1, "notes": []},
    )
    job = run_here(client, client.trainings.queue("deep", "random", training(epochs=1, hardening=method(kind))))
    child = client.trainings.child(job)
    assert child is not None
    assert client.library.fitting(child.id)
    result = client.audits.result(run_here(client, client.audits.queue(child.id, "random", quick_spec())))
    assert result.provenance.model.sha256 == child.weights
    assert result.provenance.model.parameters == child.manifest["parameters"]
    assert [one.model.id for one in client.library.lineage("deep")][1:] == [child.id]


@pytest.mark.parametrize("name", ["a\x00b", "x" * 201, "a\u202eb"])
def test_a_name_that_cannot_be_shown_is_refused_at_once(world: World, name: str) -> None:
    with pytest.raises(SpecError, match="A name needs 1 to 200 printable characters"):
        harden(world, name)
    assert world.client.jobs.find() == []


def test_two_jobs_that_choose_the_same_name_in_the_same_moment_both_get_one(
    both: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(both)
    free, choices = lineage.free_name, []

    def too_early(session: Session, column: InstrumentedAttribute[str], wanted: str) -> str:
        """The first time, as it was before the other job took the name."""
        choices.append(free(session, column, wanted))
        return wanted if len(choices) == 1 else choices[-1]

    monkeypatch.setattr(lineage, "free_name", too_early)
    job = harden(world, "tiny", epochs=1)
    child = world.client.trainings.child(run_here(world.client, job))
    assert child is not None
    assert (child.name, len(choices), results(world)) == ("tiny (2)", 2, 1)


def test_the_child_and_the_end_of_its_job_are_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*arguments: Any) -> str:
        add_child(*arguments)
        raise RuntimeError("the power is gone")

    monkeypatch.setattr(ledger_module, "add_child", breaks)
    job = harden(world, epochs=1)
    with pytest.raises(RuntimeError, match="power"):
        run_here(world.client, job)
    assert (world.client.jobs.get(job).state, models(world), results(world)) == ("running", 1, 0)


def test_a_zombies_child_is_not_born(world: World) -> None:
    job, ledger = harden(world), world.client.ledger
    zombie = ledger.claim(job, "lost", 60)
    assert zombie is not None
    ledger.crashed(zombie, "lost")
    run_here(world.client, job)
    parent = world.client.library.model("tiny")
    child = ChildModel(parent.id, "twin", parent.architecture, parent.normalization, None, parent.weights, {})
    assert not ledger.succeed(zombie, "a" * 64, {}, child=child)
    assert models(world) == 2


def test_a_parent_stays_while_it_has_children_and_a_child_may_go(world: World) -> None:
    job = run_here(world.client, harden(world, epochs=1))
    child = world.client.trainings.child(job)
    assert child is not None
    with pytest.raises(MismatchError, match=rf"tiny is the parent of {child.name.split(',')[0]}.*Remove the models"):
        world.client.backend.registry.remove(world.client.library.model("tiny"))
    world.client.backend.registry.remove(child)
    assert world.client.trainings.child(job) is None
    assert world.client.trainings.result(job).best.epoch
    with pytest.raises(MismatchError, match="used by 1 job"):
        world.client.backend.registry.remove(world.client.library.model("tiny"))


# -- killed, cancelled, broken -----------------------------------------------------------------------------------------------


def test_four_kills_at_random_and_the_weights_are_those_of_an_uninterrupted_run(world: World) -> None:
    """More kills than attempts are allowed: each came further than the one before."""
    seed = int(time.time())
    print(f"kills at random, seed {seed}")
    at = sorted(random.Random(seed).sample(range(4, 150), 4))
    long = {"epochs": 100, "sensitivity_samples": 0}  # of two steps each
    whole = harden(world, "whole", **long)
    assert run(world, whole) == "done"
    with worker(world):
        torn, before = harden(world, "torn", **long), 0
        for step in at:
            wait_until(lambda: _reached(world, torn) >= max(step, before + 1) and runners(), 90)  # noqa: B023 (waits here)
            for pid in runners():
                os.kill(pid, signal.SIGKILL)
            assert not world.client.jobs.get(torn).ended, "too short a training to be killed so often"
            before = _reached(world, torn)
        wait_until(finished(world, [torn]), 240)
    view = world.client.jobs.get(torn)
    assert (view.state, view.attempts) == ("succeeded", 5)
    first, second = world.client.trainings.child(whole), world.client.trainings.child(torn)
    assert first is not None
    assert second is not None
    assert weights(world, first) == weights(world, second)
    one, other = (world.client.trainings.result(job) for job in (whole, torn))
    assert one.points == other.points
    assert (one.best, one.training, one.validation) == (other.best, other.training, other.validation)
    assert (results(world), models(world), workspaces(world)) == (2, 3, [])


def _reached(world: World, job: str) -> int:
    row = world.client.ledger.get(job)
    assert row is not None
    return row.reached


def test_a_cancelled_training_keeps_its_best_weights_as_a_child(world: World) -> None:
    job = harden(world, "cut short", epochs=5000)
    thread = in_background(world, job)
    wait_until(lambda: _reached(world, job) > 20)
    live = [number for number, _ in world.client.trainings.points(job)]
    assert live == list(range(len(live)))
    asked = time.monotonic()
    assert world.client.jobs.cancel(job)
    thread.join(30)
    assert time.monotonic() - asked < 10
    view, child, result = (
        world.client.jobs.get(job),
        world.client.trainings.child(job),
        world.client.trainings.result(job),
    )
    assert (view.state, view.error, result.stopped) == ("cancelled", "", "cancelled")
    assert child is not None
    assert child.name == "cut short"
    assert "cancelled after" in child.manifest["notes"][1]
    assert 0 < result.best.epoch <= result.epochs < 5000
    assert (runners(), workspaces(world)) == ([], [])


def test_a_training_cancelled_before_its_first_epoch_leaves_no_child(world: World) -> None:
    job = harden(world, hardening={"kind": "pat", "steps": 1000}, epochs=5000)
    thread = in_background(world, job)
    wait_until(lambda: world.client.jobs.get(job).step not in ("", "starting"))
    world.client.jobs.cancel(job)
    thread.join(30)
    assert world.client.jobs.get(job).state == "cancelled"
    assert world.client.trainings.child(job) is None
    assert (models(world), runners(), workspaces(world)) == (1, [], [])


def test_a_training_cancelled_between_its_attempts_is_saved_by_the_next(world: World) -> None:
    job = harden(world, epochs=5000)
    thread = in_background(world, job)
    wait_until(lambda: _reached(world, job) > 5)
    for pid in runners():
        os.kill(pid, signal.SIGKILL)
    thread.join(30)
    assert world.client.jobs.get(job).state == "queued"
    world.client.jobs.cancel(job)
    assert "Cancel again to drop it" in world.client.jobs.get(job).notice
    assert run(world, job) == "done"
    assert world.client.jobs.get(job).state == "cancelled"
    assert world.client.trainings.child(job) is not None
    assert workspaces(world) == []


def test_a_training_that_runs_out_of_time_keeps_what_it_has_and_says_so(world: World) -> None:
    spec = training(epochs=5000)
    request = {"kind": "harden", "model_id": world.model_id, "dataset_id": world.dataset_id, "name": "late"}
    job = world.client.ledger.insert(
        kind="harden", title="t", queue="cpu", model_id=world.model_id, dataset_id=world.dataset_id, max_attempts=3,
        spec=request | {"training": spec.model_dump(mode="json")}, time_limit=30.0, grace=15.0,
    )  # fmt: skip
    assert run(world, job) == "done"
    view = world.client.jobs.get(job)
    assert (view.state, view.error) == ("cancelled", "The training came to its time limit; it kept its best weights.")
    assert world.client.trainings.child(job) is not None


def test_a_nan_loss_fails_the_job_and_keeps_the_last_good_weights(world: World) -> None:
    job = harden(world, epochs=2000, learning_rate=100.0, schedule="one_cycle", weight_decay=1.0, select="last")
    assert run(world, job) == "done"
    view, child = world.client.jobs.get(job), world.client.trainings.child(job)
    assert view.state == "failed"
    assert "The loss became" in view.error or "NaN or infinite logits" in view.error
    assert world.client.trainings.result(job).stopped == "diverged"
    assert child is not None
    assert "best weights so far are kept" in view.hint
    assert "its loss became NaN or infinite" in child.manifest["notes"][1]
    # Finite they are; so large that an image which nobody validated may still overflow.
    network = load_classifier(child, world.client.blobs).network
    assert all(value.isfinite().all() for value in network.state_dict().values())


def test_the_keeper_sweeps_the_workspaces_of_jobs_that_have_ended(world: World) -> None:
    alive, ended = harden(world), harden(world)
    for name in (alive, ended, "never was"):
        (world.client.settings.workspaces / name / "1").mkdir(parents=True)
    world.client.jobs.cancel(ended)
    Keeper(world.client.settings, world.client.ledger, lambda job, queue: True).keep()
    assert [path.name for path in workspaces(world)] == [alive]


# -- what becomes of the child -----------------------------------------------------------------------------------------------


def test_the_tree_of_a_model_and_the_audit_of_parent_and_child(world: World) -> None:
    client = world.client
    first = client.trainings.child(run_here(client, harden(world, "first", epochs=1)))
    assert first is not None
    second = client.trainings.child(
        run_here(client, client.trainings.queue("first", "random", training(epochs=1), "second"))
    )
    other = client.trainings.child(run_here(client, harden(world, "other", epochs=1)))
    assert second is not None
    assert other is not None
    tree = [("tiny", 0), ("first", 1), ("second", 2), ("other", 1)]
    assert [(one.model.name, one.depth) for one in client.library.lineage("second")] == tree
    assert [(one.model.name, one.depth) for one in client.library.lineage("tiny")] == tree
    assert [one.method for one in client.library.lineage("tiny")] == ["", *["PGD adversarial training (PAT)"] * 3]

    parent_audit, child_audit = client.audits.queue_both("second", "random", quick_spec())
    jobs = [client.jobs.get(job) for job in (parent_audit, child_audit)]
    assert [job.model_id for job in jobs] == [first.id, second.id]
    assert client.audits.queue_both("second", "random", quick_spec()) == (parent_audit, child_audit), (
        "what is there is taken"
    )
    for job in (parent_audit, child_audit):
        run_here(client, job)
    one, two = client.audits.result(parent_audit), client.audits.result(child_audit)
    assert one.samples.ids == two.samples.ids
    relative = next(item for item in client.library.lineage("tiny") if item.model.name == "second")
    assert Rate.model_validate(relative.audit["clean"]) == two.clean_accuracy
    with pytest.raises(NotFoundError, match="tiny was added, not trained here"):
        client.audits.queue_both("tiny", "random", quick_spec())


def test_an_audit_on_the_images_of_the_training_says_so(world: World) -> None:
    client = world.client
    run_here(client, harden(world, "first", epochs=1))
    run_here(client, client.trainings.queue("first", "random", training(epochs=1), "second"))
    sha256 = client.library.dataset("random").content
    flagged = {}
    for name in ("tiny", "first", "second"):
        result = client.audits.result(run_here(client, client.audits.queue(name, "random", quick_spec())))
        flagged[name] = [flag.message for flag in result.flags if flag.name == "audited on training images"]
        assert result.provenance.model.trained_on == (() if name == "tiny" else (sha256,))
    assert flagged["tiny"] == []
    for name in ("first", "second"):
        assert flagged[name] == [
            "The model, or one that it was trained from, was trained on this very data set, random."
        ]


def test_the_cost_is_an_upper_bound_of_what_was_counted(world: World) -> None:
    spec = training()
    cost = world.client.trainings.estimate("tiny", "random", spec)
    result = world.client.trainings.result(run_here(world.client, world.client.trainings.queue("tiny", "random", spec)))
    counted = result.training.cost + result.validation.cost
    assert counted <= cost.passes <= 1.5 * counted
    # 2 steps of 16 images in each of 3 epochs; PAT: 2 steps of attack, clean and adversarial image, 3 passes each.
    assert result.training.cost == 3 * 2 * 16 * (2 * 3 + 2 * 3)


def test_model_and_data_that_do_not_fit_are_refused_at_once(world: World) -> None:
    with world.client.backend.database.write() as session:
        dataset = world.client.library.dataset("random")
        dataset.manifest = dataset.manifest | {"shape": [1, 28, 28]}
        session.merge(dataset)
    with pytest.raises(MismatchError, match="takes images of 3x6x6"):
        harden(world)
    assert world.client.jobs.find() == []
