"""The command line: everything the page can do, in one sentence when it cannot."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from app.cli import main
from app.commands.audits import named_corruptions
from app.commands.show import console
from auditor.auditing.corruption import CORRUPTIONS
from auditor.auditing.spec import AuditSpec
from tests import hostile
from tests.processes import die_with_tests
from tests.worker.world import World, make_world, run_here
from worker.client import Client
from worker.settings import Settings

Auditor = Callable[..., str]


@pytest.fixture
def auditor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Auditor:
    """Run the command in this process; returns all it printed."""
    monkeypatch.setattr(console, "width", 200)

    def call(*arguments: str, expect: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["auditor", *arguments])
        try:
            main()
            code: object = 0
        except SystemExit as ended:
            code = ended.code or 0
        output = "".join(capsys.readouterr())
        assert code == expect, output
        assert "Traceback" not in output
        return output

    return call


def as_a_user(*arguments: str) -> str:
    """Run the installed command in a process of its own."""
    command = [str(Path(sys.executable).with_name("auditor")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, preexec_fn=die_with_tests)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def world(settings: Settings) -> World:
    return make_world(settings)


def test_help_names_every_command() -> None:
    text = as_a_user("--help")
    for command in ("demo", "up", "worker", "dashboard", "models", "datasets", "audit", "compare", "report", "doctor"):
        assert re.search(rf"^\s+{command}\s", text, re.M), command


def test_an_audit_from_the_files_to_the_report(settings: Settings, auditor: Auditor, tmp_path: Path) -> None:
    """Add, list, run (with a worker that is started for it), show, compare, report."""
    weights, data = tmp_path / "net.pt", tmp_path / "data.npz"
    weights.write_bytes(hostile.saved({"state_dict": {f"module.{k}": v for k, v in hostile.tiny_state().items()}}))
    data.write_bytes(hostile.arrays(images=hostile.images(40), labels=[i % 10 for i in range(40)]))
    assert "Added model net" in auditor(
        "models", "add", str(weights), "--architecture", hostile.ARCHITECTURE, "--name", "net"
    )
    assert "40 images of 3x32x32, 10 classes" in auditor("datasets", "add", str(data), "--name", "noise")
    assert "resnet18-cifar" in auditor("models", "list")
    assert "3x32x32" in auditor("datasets", "list")
    ran = auditor(
        "audit",
        "run",
        "net",
        "noise",
        "--samples",
        "20",
        "--attack",
        "pgd:steps=3",
        "--epsilon",
        "2/255",
        "--epsilon",
        "0.1",
        "--corruption",
        "contrast",
    )
    assert "clean accuracy" in ran
    assert "steps=3" in ran
    assert re.search(r"Contrast +[\d.]+ % \[", ran)
    (job,) = Client(settings).jobs.find(kind="audit")
    result = Client(settings).audits.result(job.id)
    assert [threat.epsilon for threat in result.spec.threats] == [2 / 255, 0.1]
    assert job.id[:8] in auditor("audit", "list")
    assert json.loads(auditor("audit", "show", job.id[:8], "--json"))["version"] == 1
    assert "It had already ended: succeeded" in auditor("audit", "cancel", job.id[:8])
    compared = auditor("compare", job.id[:8], job.id[:8])
    assert "clean accuracy" in compared
    assert "accuracy, Contrast, severity 5" in compared
    page = tmp_path / "out" / "report.html"
    assert "Wrote" in auditor("report", job.id[:8], "-o", str(page))
    assert page.read_text().startswith("<!doctype html>")
    assert list(page.parent.iterdir()) == [page]
    images = tmp_path / "out" / "images.npz"
    record = result.records[0]
    assert f"{len(record.positions):,} images" in auditor(
        "audit", "export", job.id[:8], "--attack", "pgd", "-o", str(images)
    )
    with np.load(images, allow_pickle=False) as exported:
        assert exported["fooled"].tolist() == record.fooled
        assert np.abs(exported["x_adv"] - exported["x"]).max() <= 2 / 255 + 1e-6
    refused = auditor("audit", "export", job.id[:8], "--attack", "fgsm", "-o", str(tmp_path / "none.npz"), expect=1)
    assert "the audit has no attack 'fgsm'" in refused
    assert "1: pgd:" in refused
    assert not (tmp_path / "none.npz").exists()
    # The specification that the report prints runs again, and gives the same verdicts.
    spec = tmp_path / "spec.json"
    spec.write_text(result.spec.model_dump_json())
    auditor("audit", "run", "net", "noise", "--spec", str(spec), "--detach")
    client = Client(settings)
    again = client.audits.result(run_here(client, client.jobs.find(kind="audit")[0].id))
    assert [record.fooled for record in again.records] == [record.fooled for record in result.records]


def test_the_schema_is_the_specs(auditor: Auditor) -> None:
    assert json.loads(auditor("audit", "schema")) == AuditSpec.model_json_schema()


@pytest.mark.parametrize("channels", [1, 3])
def test_all_corruptions_are_those_that_take_the_data(channels: int) -> None:
    class OneDataset:
        def dataset(self, key: str) -> SimpleNamespace:
            return SimpleNamespace(manifest={"shape": [channels, 32, 32]})

    client = cast(Client, SimpleNamespace(library=OneDataset()))  # all of it that is asked for
    chosen = named_corruptions(client, "data", ["all"])
    assert [item.kind for item in chosen] == [m.kind_name() for m in CORRUPTIONS if channels in m.channels]
    assert ("saturate" in {item.kind for item in chosen}) == (channels == 3)
    assert named_corruptions(client, "data", []) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("audit", "run", "nobody", "random"), "There is no model 'nobody'. List them with `auditor models list`."),
        (("audit", "run", "tiny", "nobody"), "There is no data set 'nobody'. List them with `auditor datasets list`."),
        (("audit", "run", "tiny", "random", "--attack", "nonsense"), "There is no attack 'nonsense'. Known: "),
        (("audit", "run", "tiny", "random", "--attack", "pgd:steps=0"), "steps: expected greater than or equal to 1, got '0'"),
        (("audit", "run", "tiny", "random", "--corruption", "rain"), "There is no corruption 'rain'. Known: "),
        (("audit", "run", "tiny", "random", "--corruption", "fog:severity=9"), "severity: expected less than or equal to 5"),
        (("audit", "run", "tiny", "random", "--epsilon", "x"), "epsilon: expected a valid number"),
        (("audit", "run", "tiny", "random", "--norm", "l7"), "norm: expected"),
        (("audit", "run", "tiny", "random", "--spec", "nowhere.json"), "nowhere.json cannot be read"),
        (("audit", "show", "nobody"), "There is no job 'nobody'."),
        (("report", "nobody"), "There is no job 'nobody'."),
        (("models", "add", "nowhere.pt", "--architecture", "lenet5"), "nowhere.pt cannot be read"),
        (("models", "add", "x.pt", "--architecture", "nonsense"), "There is no architecture 'nonsense'"),
        (("models", "add", "x.pt", "--architecture", "lenet5", "--normalization", "y"), "normalization: expected one of"),
        (("datasets", "add", "x.zip", "--resize", "224x224"), "x.zip cannot be read"),
        (("datasets", "add", "x.zip", "--resize", "224"), "Expected HEIGHTxWIDTH such as 224x224, got '224'"),
        (("dashboard", "--host", "0.0.0.0"), "AUDITOR_TOKEN"),
    ],
)  # fmt: skip
def test_a_wrong_call_gets_one_sentence(
    world: World, auditor: Auditor, arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    if "x.pt" in arguments:
        arguments = tuple(str(tmp_path / item) if item == "x.pt" else item for item in arguments)
        (tmp_path / "x.pt").write_bytes(b"x")
    output = auditor(*arguments, expect=1).strip()
    assert said in output
    assert len(output.splitlines()) == 1


@pytest.mark.usefixtures("warm_sandbox")
@pytest.mark.parametrize("name", hostile.MODELS)
def test_a_wrong_model_is_refused_in_a_sentence(
    settings: Settings, auditor: Auditor, tmp_path: Path, name: str
) -> None:
    filename, make, said = hostile.MODELS[name]
    (tmp_path / filename).write_bytes(make())
    output = auditor("models", "add", str(tmp_path / filename), "--architecture", hostile.ARCHITECTURE, expect=1)
    check_refusal(settings, output, said)


@pytest.mark.usefixtures("warm_sandbox")
@pytest.mark.parametrize("name", hostile.DATASETS)
def test_a_wrong_data_set_is_refused_in_a_sentence(
    settings: Settings, auditor: Auditor, tmp_path: Path, name: str
) -> None:
    filename, make, said = hostile.DATASETS[name]
    (tmp_path / filename).write_bytes(make())
    check_refusal(settings, auditor("datasets", "add", str(tmp_path / filename), expect=1), said)


def check_refusal(settings: Settings, output: str, said: str) -> None:
    assert re.search(said, output), output
    assert len(output.strip().splitlines()) == 1
    assert not [path for path in settings.blobs.glob("??/*") if path.is_file()]
    assert list((settings.blobs / "staging").iterdir()) == []


def test_the_doctor_says_what_works(settings: Settings, auditor: Auditor) -> None:
    output = auditor("doctor")
    for what in ("Python", "home", "database", "broker", "workers", "GPU", "sandbox", "browser"):
        assert re.search(rf"^{what}\s", output, re.M), what
    assert "FAILS" not in output


def test_the_doctor_finds_what_fails(settings: Settings, auditor: Auditor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITOR_DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:1/none")
    output = auditor("doctor", expect=1)
    assert re.search(r"^database\s+FAILS", output, re.M)
    assert "hunter2" not in output
