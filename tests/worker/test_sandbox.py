"""The walls around uploaded files: what is refused, what still works, and what the user is told."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from auditor.kit.errors import IntakeError, MismatchError, ServiceError
from worker import sandbox, seccomp, walls
from worker.probes import malicious_pickle
from worker.sandbox import WALLS, capabilities, confined, self_test

TARGETS = "tests.worker.sandbox_targets"
ROOT = Path(__file__).parents[2]
REPORT = capabilities()
needs_landlock = pytest.mark.skipif(not REPORT.landlock, reason="the kernel has no Landlock")
needs_seccomp = pytest.mark.skipif(not REPORT.seccomp, reason="no seccomp filter on this machine")
needs_limits = pytest.mark.skipif(not REPORT.rlimits, reason="this system keeps no limit on memory")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the walls are Linux's")


def call(function: str, *, memory: int = 1 << 30, seconds: float = 30, **options: Any) -> Any:
    return confined(f"{TARGETS}:{function}", memory=memory, seconds=seconds, **{"arguments": {}, **options})


def processes_of_group(group: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def children() -> set[int]:
    """Of this process, the dead ones that nobody waited for included."""
    own = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                own.add(int(path.parent.name))
        except OSError:
            continue
    return own


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process, no zombie and no folder."""
    place = tmp_path_factory.mktemp("homes")
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    before = children()
    yield
    assert children() <= before
    assert not list(place.glob("auditor-home-*"))


# What the test of itself says, which `auditor doctor` shows.


@needs_landlock
@needs_seccomp
@needs_limits
def test_every_wall_of_the_test_of_itself_holds() -> None:
    result = self_test()
    assert [wall for wall, held in result if not held] == []
    assert len(result) == 14


def test_the_malicious_pickle_of_that_test_is_malicious(tmp_path: Path) -> None:
    """Without walls it leaves its mark, loaded just so: else the wall above would prove nothing."""
    (tmp_path / "model.pt").write_bytes(malicious_pickle(tmp_path / "canary"))
    program = "import sys; from pathlib import Path; from worker.probes import _load; _load(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", program, tmp_path / "model.pt"], check=True, cwd=ROOT)
    assert (tmp_path / "canary").exists()


def test_a_sandbox_that_does_not_start_is_a_wall_that_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert self_test() == [("the sandbox starts", False)]


def test_the_capabilities_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walls, "landlock_abi", lambda: 3)
    assert capabilities().sentences[0] == ("Landlock 3, which does not yet watch TCP and signals and abstract sockets")
    monkeypatch.setattr(walls, "landlock_abi", lambda: 0)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    report = capabilities()
    assert (report.landlock, report.seccomp) == (0, False)
    assert report.sentences[0].startswith("The kernel has no Landlock")
    assert report.sentences[1] == "No seccomp: no seccomp filter was written for riscv64"


# Each wall alone.


@pytest.fixture
def tried(tmp_path: Path) -> Iterator[Callable[..., dict[str, str]]]:
    """Runs all that a file might try, behind the named walls."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    secret = outside / "secret"
    secret.write_text("secret")
    (outside / "victim").write_text("")
    (outside / "moved").write_text("")
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        name = f"auditor-test-{os.getpid()}"
        unix.bind(f"\0{name}")
        unix.listen()

        def run(*raised: str) -> dict[str, str]:
            arguments = {
                "secret": str(secret),
                "outside": str(outside),
                "inside": str(inside),
                "parent": os.getpid(),
                "port": tcp.getsockname()[1],
                "abstract": name,
            }
            result: dict[str, str] = call("outcomes", arguments=arguments, writable=[inside], raised=raised)
            return result

        yield run


FILES = {
    *("read secret", "read passwd", "read parent environment", "list outside", "write outside", "truncate outside"),
    *("remove outside", "rename outside", "symlink inside", "folder inside", "pipe inside", "run"),
}
HONEST = {"write inside", "read inside", "replace inside", "remove inside", "write null", "read random", "thread"}


def test_without_walls_all_of_it_works(tried: Callable[..., dict[str, str]]) -> None:
    """Else a refusal below could come from a mistake in the probe."""
    result = tried()
    odd = {"io_uring", "ptrace", "prlimit", "read parent environment"}  # these a machine may refuse in any case
    # The process leads its session already, and its limits are the parent's.
    assert {name for name, outcome in result.items() if outcome != "ok"} <= odd | {"session", "xattr outside"}


@needs_landlock
def test_landlock_alone(tried: Callable[..., dict[str, str]]) -> None:
    result = tried("landlock")
    assert {name: result[name] for name in FILES} == dict.fromkeys(FILES, "EACCES")
    assert result["link outside"] in ("EXDEV", "EACCES")
    assert {name: result[name] for name in HONEST} == dict.fromkeys(HONEST, "ok")
    assert result["connect"] == ("EACCES" if REPORT.landlock >= 4 else "ok")
    assert result["connect abstract"] == ("EPERM" if REPORT.landlock >= 6 else "ok")
    assert result["signal parent"] == ("EPERM" if REPORT.landlock >= 6 else "ok")
    assert result["signal self"] == "ok"
    assert result["fork"] == "ok"  # seccomp's


@needs_seccomp
def test_seccomp_alone(tried: Callable[..., dict[str, str]]) -> None:
    result = tried("seccomp")
    refused = {
        *("socket", "socket pair", "connect", "connect abstract", "run", "fork", "signal parent", "signal group"),
        *("session", "prlimit", "ptrace", "io_uring", "pidfd", "unshare", "chmod outside", "utime outside"),
        *("xattr outside", "truncate outside", "pipe inside"),
    }
    assert {name: result[name] for name in refused} == dict.fromkeys(refused, "EPERM")
    allowed = {*HONEST, "signal self", "read secret", "memory"}
    assert {name: result[name] for name in allowed} == dict.fromkeys(allowed, "ok")


@needs_limits
def test_limits_alone(tried: Callable[..., dict[str, str]]) -> None:
    result = tried("limits")
    expected = {"memory": "ENOMEM", "large file": "EFBIG", "many files": "EMFILE"}
    assert {name: result[name] for name in expected} == expected
    assert {name: result[name] for name in HONEST} == dict.fromkeys(HONEST, "ok")


@needs_landlock
@needs_seccomp
@needs_limits
def test_all_walls_together_refuse_all_but_what_is_honest(tried: Callable[..., dict[str, str]]) -> None:
    result = tried(*WALLS)
    assert {name for name, outcome in result.items() if outcome == "ok"} == {*HONEST, "signal self"}


@needs_landlock
def test_the_packages_can_be_read_and_what_lies_beside_them_not() -> None:
    """A database and secrets may lie in the project's folder."""
    files = [ROOT / "pyproject.toml", ROOT / "README.md", ROOT / "auditor" / "kit" / "errors.py", Path("/etc/hosts")]
    assert call("readable_ones", arguments={"paths": [str(path) for path in files]}) == [str(files[2])]


@needs_seccomp
def test_the_filter_covers_both_machines() -> None:
    for machine in seccomp._MACHINES.values():
        program = seccomp._program(machine, 1)
        assert len(program) % 8 == 0
        assert len(program) // 8 < 4096  # the kernel takes no longer one
        numbers = [call[machine.column] for call in seccomp._denied()]
        assert len({number for number in numbers if number >= 0}) == sum(number >= 0 for number in numbers)


# What comes back.


def test_the_result_comes_back_and_prints_do_not_matter() -> None:
    arguments = {"text": "é\n\0", "list": [1, None, {"a": 1.5}], "large": "x" * 3_000_000}
    assert call("echo", arguments=arguments) == arguments


def test_known_errors_are_raised_as_they_are() -> None:
    with pytest.raises(MismatchError) as raised:
        call("fail", arguments={"kind": "mismatch"})
    assert (raised.value.message, raised.value.hint) == ("Expected ten classes, got two.", "Choose another data set.")


def test_an_unknown_kind_of_our_errors_is_the_files_fault() -> None:
    with pytest.raises(IntakeError, match="A message") as raised:
        call("fail", arguments={"kind": "unknown"})
    assert (type(raised.value), raised.value.hint) == (IntakeError, "A hint.")


def test_the_choices_of_a_refusal_come_back() -> None:
    with pytest.raises(IntakeError, match="Two sets") as raised:
        call("fail", arguments={"kind": "choices"})
    assert raised.value.choices == ("student", "teacher")


SENTENCES = {
    ("fail", "value"): "The model could not be read: the process that read it failed unexpectedly.",
    ("fail", "exit"): "The model could not be read: the process that read it failed unexpectedly.",
    ("fail", "memory"): "The model needs more than 1 GB of memory to read.",
    ("fail", "torch memory"): "The model needs more than 1 GB of memory to read.",
    ("misbehave", "rust"): "The model needs more than 1 GB of memory to read.",
    ("misbehave", "abort"): "The model could not be read: the process that read it crashed (signal 6).",
    ("misbehave", "segmentation fault"): "The model could not be read: the process that read it crashed (signal 11).",
    ("misbehave", "killed"): "The model could not be read: the process that read it crashed "
    "(signal 9, as the system does when memory runs out).",
    ("misbehave", "exit"): "The model could not be read: the process that read it returned an invalid answer.",
    ("misbehave", "unprintable"): "The model could not be read: the process that read it failed unexpectedly.",
}


@pytest.mark.parametrize(("function", "kind"), SENTENCES, ids=lambda value: str(value))
def test_what_goes_wrong_is_said_in_one_sentence(function: str, kind: str) -> None:
    with pytest.raises(IntakeError) as raised:
        call(function, arguments={"kind": kind}, subject="the model")
    assert raised.value.message == SENTENCES[function, kind]
    assert bool(raised.value.hint) == ("failed unexpectedly" in raised.value.message)


def test_details_go_to_the_log_and_not_to_the_user(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(IntakeError) as raised:
        call("fail", arguments={"kind": "value"})
    assert "secret" not in str(raised.value)
    assert "ValueError: a secret detail" in caplog.text


def test_a_message_of_any_length_is_cut() -> None:
    with pytest.raises(IntakeError) as raised:
        call("fail", arguments={"kind": "long"})
    assert len(raised.value.message) == sandbox.LONGEST_MESSAGE


@pytest.mark.parametrize(
    "text", ["{}\n", "nonsense\n", "[" * 100_000 + "\n", '{"error": [1, 2, 3]}\n', "\n", '{"result"']
)
def test_a_forged_answer_is_not_understood(text: str) -> None:
    with pytest.raises(IntakeError, match="invalid answer"):
        call("forge", arguments={"text": text})


def test_a_forged_error_is_one_of_ours() -> None:
    with pytest.raises(IntakeError, match="Forged"):
        call("forge", arguments={"text": '{"error": ["ValidationError", "Forged.", ""]}\n'})


@pytest.mark.parametrize("choices", ['"a"', "5", '[1, "a", null, ["b"]]', json.dumps(["x" * 1000] * 1000)])
def test_forged_choices_are_short_texts(choices: str) -> None:
    with pytest.raises(IntakeError, match="Forged") as raised:
        call("forge", arguments={"text": f'{{"error": ["IntakeError", "Forged.", ""], "choices": {choices}}}\n'})
    assert len(raised.value.choices) <= sandbox.MOST_CHOICES
    assert all(isinstance(item, str) and len(item) <= sandbox.LONGEST_CHOICE for item in raised.value.choices)
    assert raised.value.choices[:1] in ((), ("a",), ("x" * 200,))


def test_an_endless_answer_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "LARGEST_ANSWER", 1 << 20)
    with pytest.raises(IntakeError, match="invalid answer"):
        call("forge", arguments={"text": "x" * 4096, "repeat": 1 << 30})


def test_a_reader_that_is_not_there_is_not_the_files_fault() -> None:
    for function in ("nowhere:read", f"{TARGETS}:nowhere"):
        with pytest.raises(ServiceError, match=r"sandbox for uploaded files did not start: .*nowhere"):
            confined(function, arguments={}, memory=1 << 30, seconds=10)
    with pytest.raises(FileNotFoundError):
        call("echo", readable=[Path("/nowhere")])


# Time, and what is left behind.


@pytest.mark.parametrize("kind", ["sleep", "silence"])
def test_too_long_is_said_and_ended(kind: str) -> None:
    start = time.monotonic()
    with pytest.raises(IntakeError, match=r"^Reading the file took longer than 0\.7 s\.$"):
        call("misbehave", arguments={"kind": kind}, seconds=0.7)
    assert time.monotonic() - start < 15


@needs_limits
def test_the_limit_on_the_cpu_ends_what_the_clock_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    real = sandbox._listen
    monkeypatch.setattr(sandbox, "_listen", lambda process, seconds, heard: real(process, 60, heard))
    start = time.monotonic()
    with pytest.raises(IntakeError, match="took longer than 0 s"):
        call("burn", seconds=0)
    assert time.monotonic() - start < 30


def test_children_that_escape_where_seccomp_is_missing_are_killed(tmp_path: Path) -> None:
    pid = call("leave_a_child", arguments={"pid_file": str(tmp_path / "pid")}, writable=[tmp_path], raised=["landlock"])
    assert _gone(pid)


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from worker.sandbox import confined
folder = Path(sys.argv[1])
arguments = {{"path": str(folder / "pid")}}
confined("{TARGETS}:write_and_sleep", arguments=arguments, writable=[folder], memory=1 << 30, seconds=600)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        pid = int((tmp_path / "pid").read_text())
        assert not _gone(pid, 0.2)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert _gone(pid)


def _gone(pid: int, seconds: float = 5.0) -> bool:
    """Also a zombie is gone: its new parent has yet to look."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def test_nothing_of_the_parent_is_in_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITOR_DATABASE_URL", "postgresql://user:hunter2@host/db")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("PYTHONPATH", "/hunter2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        seen = call("surroundings")
    finally:
        os.close(reader)
        os.close(writer)
    names = {"PATH", "LC_ALL", "HOME", "TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"}
    names |= {"MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
    assert set(seen["environment"]) - {"LD_LIBRARY_PATH", "LC_CTYPE"} == names
    assert "hunter2" not in str(seen)
    assert seen["environment"]["CUDA_VISIBLE_DEVICES"] == ""
    assert seen["environment"]["OMP_NUM_THREADS"] == "1"
    assert seen["home"] == []
    assert seen["cwd"] == seen["environment"]["HOME"]
    assert seen["session"] is True
    assert seen["limits"] == [0, 256]
    # Standard input, output and error, the answer, and the size of the process in /proc.
    assert len(seen["descriptors"]) == 5


def test_several_at_once_do_not_mix() -> None:
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(call, "echo", arguments={"number": number}) for number in range(8)]
        assert [future.result() for future in futures] == [{"number": number} for number in range(8)]


def test_the_parent_imports_no_torch() -> None:
    program = """
import sys
from pathlib import Path
from worker.probes import malicious_pickle
from worker.sandbox import capabilities
malicious_pickle(Path("canary"))
capabilities()
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


# Honest files.


def test_honest_readers_work(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5)
    )
    upload, folder = tmp_path / "upload", tmp_path / "out"
    upload.mkdir()
    folder.mkdir()
    torch.save(network.state_dict(), upload / "model.pt")
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    Image.fromarray(pixels).save(upload / "image.png")
    result = call(
        "load_everything",
        arguments={"source": str(upload / "model.pt"), "image": str(upload / "image.png"), "folder": str(folder)},
        readable=[upload / "model.pt", upload / "image.png"],
        writable=[folder],
        seconds=120,
        preload=["torch", "safetensors.torch", "PIL.Image"],
    )
    assert result["threads"] == 1
    assert result["cuda"] is False
    assert result["same"] is True
    assert result["pixels"] == pixels.tolist()
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(result["logits"]), network(torch.zeros(2, 3, 8, 8)))
    assert ("can't allocate memory" in result["too much"]) is REPORT.rlimits
    assert sorted(path.name for path in folder.iterdir()) == ["again.pt", "again.safetensors", "pixels.npz"]
    saved = torch.load(folder / "again.pt", weights_only=True)
    assert all(torch.equal(saved[name], tensor) for name, tensor in network.state_dict().items())


@needs_limits
def test_torch_in_want_of_memory_says_so() -> None:
    """Imported inside, as a reader may do: the walls let that pass, but it counts."""
    with pytest.raises(IntakeError, match=r"^The file needs more than 4 GB of memory to read\.$"):
        call("take_too_much", memory=4 << 30, seconds=120)


def test_progress_is_heard_and_forged_lines_are_not() -> None:
    heard: list[tuple[float, str]] = []
    result = call(
        "report_and_go_on", arguments={"count": 4, "nested": 2000}, threads=3, folders=True,
        on_progress=lambda *told: heard.append(told),
    )  # fmt: skip
    assert heard == [(0.25, "step 0"), (0.5, "step 1"), (0.75, "step 2"), (1.0, "step 3")]
    assert result["threads"] == "3"
    assert set(result["walls"]) <= set(WALLS)


@needs_landlock
@needs_seccomp
def test_without_leave_no_folder_is_made_and_no_walls_are_named_that_are_not_there() -> None:
    with pytest.raises(IntakeError, match="failed unexpectedly"):
        call("report_and_go_on", arguments={"count": 0, "nested": 1})
    assert call("report_and_go_on", arguments={"count": 0, "nested": 0}, raised=["seccomp"])["walls"] == ["seccomp"]
    assert sandbox.walls_here() == frozenset(), "this process has none"


def test_who_hears_of_the_progress_may_end_it() -> None:
    def stop(share: float, step: str) -> None:
        raise KeyError(step)

    with pytest.raises(KeyError, match="step 0"):
        call("report_and_go_on", arguments={"count": 1, "nested": 0}, on_progress=stop)
