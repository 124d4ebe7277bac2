"""Models of their owner's code: it runs in the sandbox and nowhere else, every result says so, and what goes wrong is said."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
import torch
from safetensors.torch import save
from torch import Tensor, nn

from app.commands.declared import parse_code
from app.text import plain
from auditor.auditing.result import AuditResult
from auditor.hardening.spec import TrainingSpec
from auditor.kit.errors import AuditorError, IntakeError, MismatchError, ServiceError, SpecError
from auditor.kit.progress import no_progress
from auditor.models import own_code
from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import NORMALIZATIONS
from auditor.models.own_code import KIND, OwnCode
from tests.app.test_cli import Auditor, auditor, world
from tests.app.test_pages import opened
from tests.worker.test_supervisor import runners, wait_until
from tests.worker.world import World, quick_spec
from worker import owned
from worker.attempt import attempt
from worker.client import Client
from worker.job import JOBS, Context
from worker.loading import load_dataset
from worker.owned import run_job
from worker.sandbox import capabilities, confined
from worker.settings import Settings, load_settings
from worker.supervisor import supervise

__all__ = ["auditor", "world"]  # fixtures

pytestmark = pytest.mark.usefixtures("warm_sandbox", "shared_server")

REPORT = capabilities()
pytestmark = pytest.mark.skipif(
    not (REPORT.landlock and REPORT.seccomp and REPORT.rlimits), reason="this machine cannot confine an owner's code"
)

PLAIN = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scales = [value.item() for value in torch.linspace(0.5, 1.0, 3)]  # needs values while it is made
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.register_buffer("shift", torch.full((1,), 0.25), persistent=False)  # is in no file

    def forward(self, x):
        return torch.relu(self.conv(x) * self.scales[1] + self.shift)


class Net(nn.Module):
    def __init__(self, width=8, classes=5):
        super().__init__()
        self.block = Block(width)
        self.head = nn.Linear(width * 9, classes)

    def forward(self, x):
        return self.head(nn.functional.max_pool2d(self.block(x), 2).flatten(1))
"""


class Same(nn.Module):
    """What Net computes, written again: ReLU(0.75 conv(x) + 0.25), pooled, through a linear layer."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.state = state

    def forward(self, x: Tensor) -> Tensor:
        conv = nn.functional.conv2d(x, self.state["block.conv.weight"], self.state["block.conv.bias"], padding=1)
        pooled = nn.functional.max_pool2d((0.75 * conv + 0.25).clamp_min(0), 2).flatten(1)
        return pooled @ self.state["head.weight"].T + self.state["head.bias"]


def marking(marker: Path) -> str:
    """Code that leaves its mark when it is imported, prints, and tries to take the statement out of the results."""
    return f"""
import os
try:
    open({str(marker)!r}, "w").write(f"{{os.getpid()}} {{open('/proc/self/comm').read()}}")
except OSError:
    pass
print("the code ran")
try:
    from auditor.models.own_code import OwnCode
    OwnCode.flag = OwnCode.note = lambda self: None
except ImportError:
    pass
{PLAIN}"""


def state(width: int = 8) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(3)
    shapes = {
        "block.conv.weight": (width, 3, 3, 3), "block.conv.bias": (width,),
        "head.weight": (5, width * 9), "head.bias": (5,),
    }  # fmt: skip
    return {name: torch.randn(shape, generator=draws) / 3 for name, shape in shapes.items()}


@pytest.fixture
def allowed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("AUDITOR_ALLOW_CODE", "1")
    return load_settings()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The (harmless) code of a test runs in this process, so its messages can be seen quickly."""
    monkeypatch.setattr(own_code, "_permitted", True)
    yield
    sys.modules.pop(own_code.MODULE, None)


def code_of(source: str, network: str = "Net", **values: Any) -> OwnCode:
    return OwnCode.model_validate(
        {"kind": KIND, "file": "net.py", "source": source, "network": network, "height": 6, "width": 6, **values}
    )


def add_by_hand(world: World, source: str, name: str = "own") -> str:
    """Without intake, which would find out what is wrong with it."""
    code = code_of(source, num_classes=5)
    row = world.client.backend.registry.add_model(
        name, architecture=code.model_dump(mode="json"), normalization=NORMALIZATIONS["half"].model_dump(mode="json"),
        class_names=None, weights=world.client.blobs.put(save(state())), manifest={"parameters": 589, "notes": []},
    )  # fmt: skip
    return row.id


# From the command line to the report, by a real worker.


def test_added_vetted_audited_and_reported_and_the_code_runs_nowhere_but_in_the_sandbox(
    world: World, auditor: Auditor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker, file = tmp_path / "marker", tmp_path / "net.py"
    file.write_text(marking(marker))
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    torch.save(state(12), tmp_path / "weights.pt")
    add = ("models", "add", str(tmp_path / "weights.pt"), "--code", f"{file}:Net(width=12)", "--input", "3x6x6")

    refused = " ".join(auditor(*add, expect=1).split())
    assert "A model that runs its owner's code needs the administrator's leave, and has none here." in refused
    assert "Set AUDITOR_ALLOW_CODE=1 where it is added and for every worker" in refused
    monkeypatch.setenv("AUDITOR_ALLOW_CODE", "1")
    added = auditor(*add, "--name", "own", "--normalization", "half")
    statement = f"net.py (SHA-256 {sha256}), Net(width=12)"
    assert f"This model runs its owner's code, in the sandbox alone: {statement}." in added
    assert "own-code" in auditor("models", "list")
    row = world.client.library.model("own")
    assert row.architecture["num_classes"] == 5, "counted in the sandbox"

    vetted = " ".join(auditor("models", "vet", "own", "random").split())
    assert "WARNING: The model runs its owner's code. It ran in the sandbox" in vetted
    assert f"Evidence: {statement}." in vetted

    (tmp_path / "spec.json").write_text(quick_spec().model_dump_json())
    auditor("audit", "run", "own", "random", "--spec", str(tmp_path / "spec.json"))
    (job,) = world.client.jobs.find(kind="audit", model_id=row.id)
    result = world.client.audits.result(job.id)
    assert result.flags[0].evidence == statement
    facts = result.provenance.model
    assert facts.architecture is not None
    assert (facts.architecture["sha256"], facts.architecture["file"]) == (sha256, "net.py")
    assert "source" not in facts.architecture
    assert world.client.audits.report(job.id).count(sha256) >= 2, "the flag and the facts"
    data = world.client.audits.data(job.id)
    expected = Same(state(12))((data.images(result.samples.ids) - 0.5) / 0.5).argmax(1)
    assert result.samples.predictions == expected.tolist()
    kept = world.client.audits.examples(job.id, 0)
    assert kept.image(int(kept.positions[0])) is not None, "its images came out of the sandbox"

    archive = io.BytesIO()
    world.client.library.export_model("own", tmp_path / "model.zip")
    archive.write((tmp_path / "model.zip").read_bytes())
    with zipfile.ZipFile(archive) as exported:
        assert hashlib.sha256(exported.read("net.py")).hexdigest() == sha256
        assert json.loads(exported.read("model.json"))["architecture"]["network"] == "Net(width=12)"
    assert "an export to .zip has it" in auditor("models", "export", "own", str(tmp_path / "own.safetensors"))
    elsewhere = f"@{tmp_path / 'own.json'}"
    refused = auditor("models", "add", str(tmp_path / "own.safetensors"), "--architecture", elsewhere, expect=1)
    assert "--code 'net.py:Net(width=12)'" in refused

    assert not marker.exists(), "nothing outside of the sandbox has run it"
    subprocess.run([sys.executable, str(file)], check=True, capture_output=True, cwd=Path(__file__).parents[2])
    assert marker.exists(), "it does leave its mark where it runs freely"


def test_the_page_lists_and_opens_it_and_offers_no_way_to_add_code(
    world: World, allowed: Settings, tmp_path: Path
) -> None:
    model_id = add_by_hand(world, marking(tmp_path / "marker"))
    st.cache_resource.clear()
    st.cache_data.clear()
    at = opened("models", model=model_id)
    assert plain(code_of(marking(tmp_path / "marker")).note()) in [item.value for item in at.warning]
    widgets = [item.label for item in (*at.text_input, *at.selectbox, *at.text_area, *at.button)]
    assert not [label for label in widgets if "code" in label.lower()]
    assert "Own code" not in str(at.selectbox(key="model-architecture").options)
    assert not (tmp_path / "marker").exists()


# Who may, and what for.


def test_a_worker_without_leave_refuses_the_job_and_says_what_to_set(world: World, tmp_path: Path) -> None:
    model_id = add_by_hand(world, marking(tmp_path / "marker"))
    job_id = world.client.audits.vet(model_id)
    claim = world.client.ledger.claim(job_id, "test", 60)
    assert claim is not None
    attempt(job_id, claim.fence)
    job = world.client.jobs.get(job_id)
    assert (job.state, "AUDITOR_ALLOW_CODE=1" in job.hint) == ("failed", True)
    assert not (tmp_path / "marker").exists()


def test_what_is_not_done_with_own_code_is_refused(world: World, allowed: Settings, tmp_path: Path) -> None:
    from auditor.defending.fit import FitSpec

    model_id = add_by_hand(world, marking(tmp_path / "marker"))
    client = world.client
    training = TrainingSpec.load({"hardening": {"kind": "pat"}})
    with pytest.raises(SpecError, match=r"net\.py is its owner's code, which can be vetted and audited") as refused:
        client.trainings.queue(model_id, world.dataset_id, training)
    assert "install it as a package that brings an architecture (docs/extending.md)" in refused.value.hint.lower()
    with pytest.raises(SpecError, match=r"net\.py is its owner's code, which runs in the sandbox alone"):
        client.defenses.fit(model_id, FitSpec.load({"defenses": [{"kind": "jpeg"}]}))
    with pytest.raises(MismatchError, match="has no GPU"):
        client.audits.queue(model_id, world.dataset_id, quick_spec().model_copy(update={"device": "cuda"}))
    assert client.jobs.find(model_id=model_id) == []
    assert not (tmp_path / "marker").exists()
    client.backend.registry.remove(client.library.model(model_id))
    assert all(row.architecture["kind"] != KIND for row in client.library.models()), "its code goes with it"


def test_outside_of_the_sandbox_and_without_all_walls_nothing_is_built(
    allowed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = code_of(PLAIN)
    with pytest.raises(SpecError, match="runs in the sandbox alone"):
        code.build()
    with pytest.raises(ServiceError, match="here is no landlock and no limits and no seccomp"):
        owned._permitted(code.model_dump())
    monkeypatch.setattr(owned, "capabilities", lambda: REPORT._replace(landlock=0))
    with pytest.raises(ServiceError, match="cannot confine an owner's code"):
        owned.check_allowed(allowed)
    assert KIND not in ARCHITECTURES, "no file, form or option names it"


def test_where_a_wall_is_missing_the_sandbox_itself_refuses(tmp_path: Path) -> None:
    values = {
        "code": code_of(PLAIN).model_dump(),
        "file": "x",
        "filename": "x",
        "choice": "",
        "mapping": 1,
        "output": "",
    }
    where: dict[str, Any] = {"preload": ["migrations"], "memory": 2 << 30, "seconds": 60}
    with pytest.raises(ServiceError, match="here is no seccomp"):
        confined(
            "worker.owned:read_own_model_inside", arguments={**values, "destination": str(tmp_path / "x")},
            raised=["landlock", "limits"], **where,
        )  # fmt: skip


# What goes wrong in the sandbox.


def run(world: World, settings: Settings, model_id: str, folder: Path, seconds: float = 300) -> AuditResult:
    """An audit as a runner would do it, in this process but for the sandbox."""
    folder.mkdir()
    values = {"model_id": model_id, "dataset_id": world.dataset_id, "audit": quick_spec()}
    context = Context(world.client.backend.registry, world.client.blobs, no_progress, folder, folder)
    return AuditResult.load(run_job(JOBS.build("audit", values), context, settings, seconds=seconds).content)


def test_code_that_fails_or_takes_too_long_ends_its_job_with_a_sentence(
    world: World, allowed: Settings, tmp_path: Path
) -> None:
    slow = add_by_hand(world, "import time\ntime.sleep(30)\n" + PLAIN, "slow")
    with pytest.raises(IntakeError, match=r"^Running the model slow took longer than 1 s\.$"):
        run(world, allowed, slow, tmp_path / "slow", seconds=1)
    broken = PLAIN.replace("return self.head(", "raise KeyError('scale')\n        return self.head(")
    failing = add_by_hand(world, broken, "failing")
    line = 1 + broken.splitlines().index("        raise KeyError('scale')")
    with pytest.raises(AuditorError, match=rf"^net\.py failed in line {line}: KeyError: 'scale'\. Correct the file"):
        run(world, allowed, failing, tmp_path / "failing")


@pytest.mark.thorough
def test_code_that_never_answers_is_stopped_at_the_stall_limit_and_leaves_no_process(
    world: World, allowed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDITOR_STALL_SECONDS", "8")
    client, slept = Client(load_settings()), "import time\n        time.sleep(600)\n        return self.head("
    job = client.audits.vet(add_by_hand(world, PLAIN.replace("return self.head(", slept), "silent"))
    seen: set[int] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            for runner in runners():
                with suppress(OSError):
                    tasks = Path(f"/proc/{runner}/task").glob("*/children")
                    seen.update(int(child) for task in tasks for child in task.read_text().split())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        ended = supervise(job, "test", client.settings, client.ledger, threading.Event())
    finally:
        over.set()
        watching.join()
    assert ended == "stalled, now queued"
    assert seen, "the sandbox was there"
    wait_until(lambda: runners() == [] and not [pid for pid in seen if running(pid)])


def running(pid: int) -> bool:
    """Whether the process is there, and not only waits to be fetched."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_intake_that_takes_too_long_is_ended(
    world: World, allowed: Settings, auditor: Auditor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDITOR_INTAKE_SECONDS", "1")
    (tmp_path / "net.py").write_text("import time\ntime.sleep(30)\n" + PLAIN)
    torch.save(state(), tmp_path / "w.pt")
    said = auditor("models", "add", str(tmp_path / "w.pt"), "--code", f"{tmp_path / 'net.py'}:Net", expect=1)
    assert "Reading w.pt with net.py took longer than 1 s." in said
    assert [row.name for row in world.client.library.models()] == ["tiny"]


def test_weights_of_other_options_are_refused_and_the_remedy_adds_them(
    world: World, allowed: Settings, auditor: Auditor, tmp_path: Path
) -> None:
    (tmp_path / "net.py").write_text(PLAIN)
    torch.save(state(64), tmp_path / "w.pt")
    add = ("models", "add", str(tmp_path / "w.pt"), "--input", "3x6x6", "--code")
    said = " ".join(auditor(*add, f"{tmp_path / 'net.py'}:Net", expect=1).split())
    assert "block.conv.weight' is 64x3x3x3, expected 8x3x3x3" in said
    assert "such as --code 'net.py:Net(width=64)'" in said
    assert "Added model w" in auditor(*add, f"{tmp_path / 'net.py'}:Net(width=64)")


# What a file may be like: messages of the code's own errors, made in this process.

LINEAR = "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return {}\n"
FAULTS = {
    "import helpers_of_mine\n" + PLAIN: ("Net", "net.py imports helpers_of_mine, which the sandbox does not have"),
    "from .blocks import Block\n" + PLAIN: ("Net", "net.py imports .blocks from its folder (line 1), which is not kept with it"),
    "def broken(:\n": ("Net", "net.py is no Python: invalid syntax (line 1)."),
    "x = 1\nraise ValueError('no weights here')\n": ("Net", "net.py failed in line 2: ValueError: no weights here."),
    "import sys\nsys.exit(3)\n": ("Net", "net.py failed in line 2: SystemExit: 3."),
    PLAIN + "\n": ("Nett", "net.py has no class Nett. It has Block, Net: name one of these."),
    PLAIN + "\n\n": ("Block", "Block() of net.py cannot be called so: Block.__init__() missing 1 required positional"),
    PLAIN + "\n\n\n": ("Net(depth=3)", "Net(depth=3) of net.py cannot be called so: Net.__init__() got an unexpected"),
    "def Net():\n    return 3\n": ("Net", "Net() of net.py is int, expected a torch.nn.Module."),
    LINEAR.format("(x, x)"): ("Net", "returns tuple for 2 images of 3x6x6, expected logits: a tensor of 2 x classes."),
    LINEAR.format("x"): ("Net", "returns 2x3x6x6 for 2 images of 3x6x6, expected logits"),
    LINEAR.format("x.no_such"): ("Net", "net.py failed in line 4: AttributeError: 'Tensor' object has no attribute"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "fault"), FAULTS.items(), ids=range(len(FAULTS)))
def test_a_fault_of_the_file_is_named_with_its_line(here: None, source: str, fault: tuple[str, str]) -> None:
    network, said = fault
    with pytest.raises(AuditorError) as raised:
        code_of(source, network).counted()
    assert said in str(raised.value)
    assert raised.value.hint


def test_the_remedies_of_those_faults_work(here: None) -> None:
    assert code_of(PLAIN).counted().num_classes == 5
    assert code_of(PLAIN, "Net(width=64, classes=7)").counted().num_classes == 7
    with pytest.raises(IntakeError, match="returns 7 logits, and 10 classes were declared") as raised:
        code_of(PLAIN, "Net(classes=7)", num_classes=10).counted()
    assert "`--num-classes 7`" in raised.value.hint
    assert code_of(PLAIN, "Net(classes=7)", num_classes=7).counted().num_classes == 7
    with pytest.raises(AuditorError, match="mat1 and mat2") as raised_:
        code_of(PLAIN, height=32, width=32).counted()
    assert "another shape than 3x32x32, give that with --input" in raised_.value.hint


SEVERAL = PLAIN.replace("return self.head(", "features = self.block(x)\n        logits = self.head(").replace(
    ".flatten(1))\n", ".flatten(1))\n        return {'features': features, 'twice': 2 * logits, 'negative': -logits}\n"
)
"""With three outputs, none of them called logits."""


def test_an_output_of_several_is_named_and_another_is_refused(here: None) -> None:
    with pytest.raises(IntakeError, match="returns dict for 2 images of 3x6x6, expected logits") as raised:
        code_of(SEVERAL).counted()
    assert "name the output that holds them with `--output`: it has features, twice, negative." in raised.value.hint
    for output in ("negative", "twice", "1"):
        assert code_of(SEVERAL).counted(output).num_classes == 5
    with pytest.raises(IntakeError, match="returns 2x8x6x6 for 2 images"):
        code_of(SEVERAL).counted("features")
    with pytest.raises(IntakeError, match="returns no output 'twise'") as raised:
        code_of(SEVERAL).counted("twise")
    assert "Did you mean twice?" in raised.value.hint
    assert code_of(SEVERAL.replace("'twice'", "'logits'")).counted().num_classes == 5, "called so"
    assert code_of(PLAIN, "Net(classes=1)").counted().num_classes == 2, "one logit is two classes"


@pytest.mark.thorough
def test_the_output_that_is_named_is_the_one_that_is_measured(
    world: World, allowed: Settings, auditor: Auditor, tmp_path: Path
) -> None:
    (tmp_path / "net.py").write_text(SEVERAL)
    torch.save(state(), tmp_path / "w.pt")
    add = ("models", "add", str(tmp_path / "w.pt"), "--input", "3x6x6", "--code", f"{tmp_path / 'net.py'}:Net")
    assert "with `--output`: it has features, twice, negative." in " ".join(auditor(*add, expect=1).split())
    auditor(*add, "--output", "negative", "--normalization", "half")
    result = run(world, allowed, world.client.library.model("w").id, tmp_path / "audit")
    images = load_dataset(world.client.library.dataset(world.dataset_id), world.client.blobs).images(result.samples.ids)
    assert result.samples.predictions == (-Same(state())((images - 0.5) / 0.5)).argmax(1).tolist()


def test_what_follows_the_file_is_a_class_with_values_and_nothing_of_it_runs(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(PLAIN)
    code = parse_code(f"{file}:Net(width=64, name='a.py:b', sizes=[1, -2.5], on=True)", "1x28x28", 7)
    assert (code.file, code.network) == ("net.py", "Net(width=64, name='a.py:b', sizes=[1, -2.5], on=True)")
    assert (code.input_shape, code.num_classes) == ((1, 28, 28), 7)
    assert code.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    for wrong in ("Net(64)", "Net(width=open('x'))", "Net(**{})", "a.Net()", "Net(", "", "(Net)()()"):
        with pytest.raises(SpecError, match="expected a class and its options by name, such as Net or Net"):
            parse_code(f"{file}:{wrong}")
    with pytest.raises(SpecError, match="expected a Python file and a class in it"):
        parse_code(str(file))
    with pytest.raises(SpecError, match="cannot be read"):
        parse_code(f"{tmp_path / 'none.py'}:Net")
    file.write_bytes(b"# \xff\n")
    with pytest.raises(SpecError, match="is not text in UTF-8"):
        parse_code(f"{file}:Net")
