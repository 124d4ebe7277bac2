"""A headline that is not established: so say the page, the report, the command line and the JSON, from one stored audit."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import streamlit as st
import torch
from safetensors.torch import save
from sqlalchemy import select

from app.cli import main
from app.commands.show import console, duration
from auditor.auditing.spec import AuditSpec
from auditor.hardening.spec import TrainingSpec
from auditor.kit.errors import SpecError
from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.models.dataset import write_dataset
from tests.app.test_pages import opened, texts
from tests.narrow import known, typed
from tests.nets import labelled
from tests.plugins import plugged
from tests.processes import die_with_tests
from tests.worker.world import World, make_world, quick_spec, run_here
from worker.jobs.audit import AuditJob
from worker.models import ResultRow
from worker.settings import Settings
from worker.views import START_SECONDS, CostEstimate

LAYERS = """nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 16), nn.Sigmoid(),
            nn.Linear(16, 5)"""

NOISE = '''
    """Random noise."""

    from typing import ClassVar, Literal

    from torch import Tensor

    from auditor.attacking.attack import Attack, Query, Rows


    class Strong(Attack):
        """Projected gradient descent, it says."""

        title: ClassVar[str] = "PGD"
        kind: Literal["strong"] = "strong"

        @property
        def iterations(self) -> int:
            return 10

        def step(self, rows: Rows, query: Query) -> Tensor:
            query.gradient()
            return rows.ball.sample(rows.x, rows.random("step"))
'''


def saturated_audit(settings: Settings) -> tuple[World, str]:
    """An audit, done as a worker does it, of a network with a saturated sigmoid before its logits."""
    world = make_world(settings)
    client = world.client
    architecture = ARCHITECTURES.build("sequential", {"num_classes": 5, "height": 6, "width": 6, "layers": LAYERS})
    torch.manual_seed(0)
    network = architecture.build()
    with torch.no_grad():
        linear = next(layer for layer in network.modules() if isinstance(layer, torch.nn.Linear))
        linear.weight *= 1e5
        known(linear.bias).mul_(1e5)
    classifier = Classifier(network, input_shape=(3, 6, 6), num_classes=5, normalization=NORMALIZATIONS["half"])
    client.backend.registry.add_model(
        "saturated",
        architecture=architecture.model_dump(mode="json"),
        normalization=NORMALIZATIONS["half"].model_dump(mode="json"),
        class_names=None,
        weights=client.blobs.put(save(network.state_dict())),
        manifest={"parameters": 1, "notes": []},
    )
    data = labelled(classifier, n=60)
    with client.blobs.staging() as folder:
        write_dataset(folder / "data", [data._images], data._images.shape, "U8", data.labels)
        content = client.blobs.take(folder / "data")
    manifest = {
        "samples": 60, "shape": [3, 6, 6], "num_classes": 5, "class_names": None, "class_counts": [12] * 5,
        "notes": [], "warnings": [],
    }  # fmt: skip
    client.backend.registry.add_dataset("its own", content=content, manifest=manifest)
    job = run_here(client, client.audits.queue("saturated", "its own", quick_spec()))
    return world, job


def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """What the command prints."""
    monkeypatch.setattr(console, "width", 300)
    monkeypatch.setattr(sys, "argv", ["auditor", *arguments])
    with suppress(SystemExit):
        main()
    return capsys.readouterr().out


def test_a_saturated_sigmoid_withholds_the_headline_in_every_form(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    st.cache_resource.clear()
    st.cache_data.clear()
    world, job = saturated_audit(settings)
    result = world.client.audits.result(job)
    severe = {check.kind for check in result.checks if check.status == "severe"}
    assert {"blind_gradients", "unavailable_gradients", "random_noise_weaker"} <= severe
    assert "no better than chance" not in {flag.name for flag in result.flags}
    rate = f"{100 * (result.robust_accuracy(result.spec.threats[0]).measured().value or 0):.1f} %"

    shown = printed(capsys, monkeypatch, "audit", "show", job[:8])
    assert "Robust accuracy is not established" in shown
    assert [line.split()[-2:] for line in shown.splitlines() if "worst case" in line] == [["not", "established"]]
    assert "SEVERE: " in shown
    assert "severe" in shown.splitlines()[-1]
    assert "not established" in printed(capsys, monkeypatch, "audit", "list")
    stored = json.loads(printed(capsys, monkeypatch, "audit", "show", job[:8], "--json"))
    assert stored["headlines"][0]["said"].startswith("not established: ")
    assert stored["headlines"][0]["robust_accuracy"] is None
    printed(capsys, monkeypatch, "report", job[:8], "-o", str(tmp_path / "report.html"))
    report = (tmp_path / "report.html").read_text()
    assert "Robust accuracy is not established" in report
    assert "Can these numbers be trusted?" in report

    page = opened("result", audit=job[:8])
    assert "Robust accuracy is not established" in texts(page)
    assert [metric.value for metric in page.metric][1] == "–"
    assert rate not in [metric.value for metric in page.metric][1:2]
    assert "Can these numbers be trusted?" in [header.value for header in page.header]
    assert "saturated on its own: robust accuracy not established" in texts(opened("start")).replace("*", "")


def test_a_list_says_of_how_many_and_against_what(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    st.cache_resource.clear()
    st.cache_data.clear()
    world = make_world(settings)
    goal = {"kind": "targeted", "rule": "class", "target_class": 2}
    spec = AuditSpec.load(quick_spec().model_dump(mode="json") | {"goal": goal})
    job = run_here(world.client, world.client.audits.queue("tiny", "random", spec))
    result = world.client.audits.result(job)
    rate = result.robust_accuracy(result.spec.threats[0])
    said = f"at most {rate} robust, n = {rate.n}, within L∞ ε = 0.05, targeted (kind 2)"
    assert said in " ".join(printed(capsys, monkeypatch, "audit", "list").split())
    assert said in texts(opened("start"))
    with world.client.backend.registry.database.write() as session:  # as summaries were stored before
        row = known(session.scalar(select(ResultRow).where(ResultRow.job_id == job)))
        row.summary = {key: value for key, value in row.summary.items() if key != "goal"}
    assert said.replace("kind 2", "class 2") in texts(opened("start"))


def test_an_epsilon_in_levels_is_refused_by_command_and_form(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    st.cache_resource.clear()
    st.cache_data.clear()
    world = make_world(settings)
    monkeypatch.setattr(sys, "argv", ["auditor", "audit", "run", "tiny", "random", "--epsilon", "8"])
    with suppress(SystemExit):
        main()
    told = capsys.readouterr()
    assert "Did you mean 8/255?" in told.err + told.out
    page = opened("new_audit", model=world.model_id, dataset=world.dataset_id)
    page.text_input(key="audit-epsilon").set_value("8").run()
    assert "Did you mean 8/255?" in texts(page)
    assert not world.client.jobs.find()
    for refused in (
        lambda: world.client.audits.queue("tiny", "random", AuditSpec.load({"threats": [{"epsilon": 8}]})),
        lambda: world.client.trainings.queue(
            "tiny", "random", TrainingSpec.load({"hardening": {"kind": "pat", "epsilon": 8}})
        ),
        lambda: world.client.trainings.estimate("tiny", "random", TrainingSpec.load({"validation_epsilon": 8})),
    ):
        with pytest.raises(SpecError, match="expected at most 1 in L∞"):
            refused()


def test_a_short_job_is_not_said_to_take_no_time() -> None:
    assert [duration(value) for value in (None, 0.0, 0.3, 1.4, 59.4)] == ["–", "0 s", "less than 1 s", "1 s", "59 s"]
    assert CostEstimate.at(1e-6, 100, 3000.0).seconds == pytest.approx(START_SECONDS + 0.003)
    assert CostEstimate.at(None, 100, 3000.0).seconds is None


def test_the_estimate_of_an_audit_counts_what_its_checks_ask(settings: Settings) -> None:
    """By hand: 32 images are asked about 5 times; 20 images get 5 times 10 steps of 3 passes, and one pass more."""
    world = make_world(settings)

    def passes(*kinds: str) -> float:
        checks = [{"kind": kind} for kind in kinds]
        spec = AuditSpec.load({"attacks": [{"kind": "pgd"}], "analyses": [], "curve": [], "checks": checks})
        return world.client.audits.estimate("tiny", "random", spec).passes

    assert passes("determinism") - passes() == 32 * 5
    assert passes("more_steps") - passes() == 20 * (3 * 5 * 10 + 1)


def test_a_fake_attack_of_a_new_file_is_caught(settings: Settings, tmp_path: Path) -> None:
    make_world(settings)
    environment = plugged(tmp_path, "auditor.attacking.attacks", "strong", NOISE)
    command = [
        sys.executable,
        "-m",
        "app.cli",
        "audit",
        "run",
        "tiny",
        "random",
        "--attack",
        "strong",
        "--samples",
        "60",
    ]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False, preexec_fn=die_with_tests
    )
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "Robust accuracy is not established" in said
    assert "does not do clearly better than random noise" in said


def test_the_form_offers_every_check_and_the_choice_is_kept(settings: Settings) -> None:
    from auditor.auditing.check import CHECKS

    st.cache_resource.clear()
    world = make_world(settings)
    page = opened("new_audit", model=world.model_id, dataset=world.dataset_id)
    box = page.multiselect(key="audit-check")
    assert box.options == [member.display_title() for member in CHECKS]
    assert box.value == list(CHECKS.members)
    box.set_value(["determinism", "more_steps"]).run()
    page.number_input(key="audit-check-more_steps-factor").set_value(3)
    page.number_input(key="audit-check_samples").set_value(30).run()
    page.button(key="audit-queue").click().run()
    (job,) = world.client.jobs.find(kind="audit")
    spec = typed(world.client.jobs.request(job.id), AuditJob).audit
    assert [check.describe() for check in spec.checks] == ["determinism:images=32", "more_steps:factor=3"]
    assert spec.check_samples == 30
