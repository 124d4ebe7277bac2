"""The sandbox that loads an uploaded file: a fresh process that can read it and answer, and nothing else.

The parent starts an interpreter with an empty environment, in a session of its own. There Landlock goes up first, so
that it holds for every thread; then the reader is imported; then limits and seccomp; then the file is touched. The
parent imports no torch, and takes what comes back for what it is: bytes from a process that a file may have taken over.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from auditor.kit import errors, plugins
from auditor.kit.disk import outage, outages_named
from auditor.kit.errors import AuditorError, IntakeError, ServiceError
from auditor.kit.progress import OnProgress, no_progress
from auditor.kit.scratch import scratch
from worker import seccomp, walls

WALLS = ("landlock", "seccomp", "limits")
START_SECONDS = 300.0
"""For the interpreter and the imports, before the file is touched: torch takes seconds, on a busy machine a minute."""
LARGEST_ANSWER = 64 << 20
"""Bytes: the manifest of a data set of a million images fits; more is not kept in the memory of the parent."""
LONGEST_MESSAGE, LONGEST_CHOICE, LONGEST_STEP, MOST_CHOICES = 4000, 200, 200, 100
_KEPT_STDERR = 8000
_PROGRESS = b'{"progress": '
_OUT_OF_MEMORY = b'{"memory": true}\n'  # made now: later there may be no memory for it
_BOOT = "import json, sys; s = json.load(sys.stdin); sys.path[:] = s['path']; import worker.sandbox as w; w._inside(s)"
_ERRORS = {name: value for name, value in vars(errors).items() if isinstance(value, type)}

log = logging.getLogger(__name__)


class Verb(NamedTuple):
    """What is done to the subject, for sentences, and what to do when it needs too much memory."""

    infinitive: str
    past: str
    gerund: str
    memory_hint: str = ""


READ = Verb("read", "read", "Reading")
RUN = Verb("run", "ran", "Running", "Set a smaller batch_size, or let the administrator raise AUDITOR_INTAKE_MEMORY.")


class SandboxReport(NamedTuple):
    """Which protections this machine has. ``landlock`` is the kernel's version of it, 0 for none."""

    landlock: int
    seccomp: bool
    rlimits: bool
    sentences: tuple[str, ...]


class Wall(NamedTuple):
    """One thing that a hostile file would try, and whether it was refused."""

    wall: str
    held: bool


def confined(
    function: str,
    *,
    arguments: dict[str, Any],
    readable: Sequence[Path] = (),
    writable: Sequence[Path] = (),
    memory: int,
    seconds: float,
    preload: Sequence[str] = (),
    subject: str = "the file",
    raised: Collection[str] = WALLS,
    folders: bool = False,
    threads: int = 1,
    verb: Verb = READ,
    on_progress: OnProgress = no_progress,
) -> Any:
    """Call ``"module:function"`` in the sandbox with JSON arguments by name, and return its JSON result.

    Below ``readable`` it may read, in the folders ``writable`` make, change and remove files, and with ``folders`` also
    folders. ``memory`` in bytes, above what the interpreter and the modules in ``preload`` take; ``seconds`` count from
    when these are loaded, for each of the ``threads`` that compute. ``subject`` and ``verb`` say it when it goes wrong.
    What the kernel lacks of ``raised`` is left out; see `capabilities`. ``on_progress`` gets what the function `tell`s;
    what it raises ends the function. The result is untrusted: validate it. AuditorErrors of the function are raised here; what
    the file is to blame for is an IntakeError; what keeps the sandbox from starting is a ServiceError.
    """
    specification = {
        "path": [str(Path(__file__).parents[1]), *(str(Path(entry).absolute()) for entry in sys.path)],
        "function": function,
        "arguments": arguments,
        "preload": list(preload),
        "readable": [str(Path(path).resolve(strict=True)) for path in readable],
        "writable": [str(Path(path).resolve(strict=True)) for path in writable],
        "memory": memory,
        "seconds": (int(seconds) + 1) * threads,
        "folders": folders,
        "parent": os.getpid(),
        "raised": [wall for wall in raised if wall in WALLS],
    }
    temporary = Path(tempfile.gettempdir())
    with (
        outages_named(temporary),
        scratch("home") as home,
        tempfile.TemporaryFile() as given,
    ):
        given.write(json.dumps({**specification, "home": str(home)}).encode())
        given.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-X", "faulthandler", "-c", _BOOT],
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(str(home), threads),
            cwd=home,
            start_new_session=True,
        )
        try:
            heard = _listen(process, seconds, on_progress)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # all that it may have started, where seccomp is missing
            process.wait()
    return _understood(heard, process.returncode, memory, seconds, subject, verb)


def capabilities() -> SandboxReport:
    """Which protections this machine has; the sentences are for a person."""
    abi, no_seccomp = walls.landlock_abi(), seccomp.available()
    sentences = []
    if abi == 0:
        sentences.append(
            "The kernel has no Landlock (Linux 5.13 or later): the sandbox cannot restrict access to files"
        )
    else:
        lacks = [what for since, what in ((4, "TCP"), (6, "signals and abstract sockets")) if abi < since]
        without = f", which does not yet watch {' and '.join(lacks)}" if lacks else ""
        sentences.append(f"Landlock {abi}{without}")
    sentences.append(f"No seccomp: {no_seccomp}" if no_seccomp else "seccomp")
    rlimits = sys.platform == "linux"  # elsewhere a limit on memory is accepted and not kept
    sentences.append("limits on memory, time and file size" if rlimits else "No limit on memory on this system")
    return SandboxReport(abi, no_seccomp is None, rlimits, tuple(sentences))


def self_test() -> list[Wall]:
    """Try in a real child what a hostile file would try. Takes as long as the import of torch."""
    from worker.probes import malicious_pickle

    with scratch("test") as folder:
        outside, inside = folder / "outside", folder / "inside"
        outside.mkdir()
        inside.mkdir()
        canary = outside / "canary"
        (inside / "model.pt").write_bytes(malicious_pickle(canary))
        arguments = {"outside": str(outside), "inside": str(inside), "parent": os.getpid()}
        try:
            held = confined(
                "worker.probes:attempt_escapes",
                arguments=arguments,
                writable=[inside],
                memory=1 << 30,
                seconds=60,
                preload=["torch"],
            )
        except AuditorError as error:
            log.error("The sandbox's test of itself failed: %s", error)
            return [Wall("the sandbox starts", False)]
        result = [Wall(wall, refused) for wall, refused in held.items()]
        return [*result, Wall("a malicious pickle does nothing", not os.path.lexists(canary))]


def tell(share: float, step: str) -> None:
    """In the sandbox: say how far the function has come."""
    if _line >= 0:
        os.write(_line, _PROGRESS + json.dumps([share, step[:LONGEST_STEP]]).encode() + b"}\n")


def walls_here() -> frozenset[str]:
    """The walls around this process; none outside of the sandbox."""
    return _walls


_line = -1
_walls = frozenset[str]()


def _environment(home: str, threads: int) -> dict[str, str]:
    """Nothing of the parent's but where to find shared libraries."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    computing = dict.fromkeys(names, str(threads))
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
    folders = dict.fromkeys(("HOME", "TMPDIR", "TORCHINDUCTOR_CACHE_DIR"), home)
    return {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "CUDA_VISIBLE_DEVICES": "", **folders, **computing, **kept}


class _Heard(NamedTuple):
    started: bool
    answer: bytes
    stderr: str
    late: bool


def _listen(process: subprocess.Popen[bytes], seconds: float, on_progress: OnProgress) -> _Heard:
    """Read both pipes until the answer is whole, the process is gone, or the time is over; keep no more than fits."""
    assert process.stdout is not None
    assert process.stderr is not None
    said, complaints, started = bytearray(), b"", False
    deadline = time.monotonic() + START_SECONDS
    with selectors.DefaultSelector() as selector, process.stdout, process.stderr:
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stderr, selectors.EVENT_READ)
        while selector.get_map() and len(said) <= LARGEST_ANSWER and not (started and said.endswith(b"\n")):
            ready = selector.select(max(deadline - time.monotonic(), 0))
            if not ready:
                return _Heard(started, b"", _text(complaints), late=True)
            for key, _ in ready:
                piece = os.read(key.fd, 1 << 16)
                if not piece:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stderr:
                    complaints = (complaints + piece)[-_KEPT_STDERR:]
                else:
                    said += piece
            if not started and said.startswith(b"\n"):  # the walls are up: an empty line, and its time begins
                started = True
                del said[:1]
                deadline = time.monotonic() + seconds
            _hear(said, on_progress)
        # An answer ends it; without one, how it died is the answer.
        try:
            process.wait(1.0 if said else max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            return _Heard(started, bytes(said), _text(complaints), late=not said)
    return _Heard(started, bytes(said), _text(complaints), late=False)


def _hear(said: bytearray, on_progress: OnProgress) -> None:
    """Take whole lines of progress off the front of what was said."""
    while said.startswith(_PROGRESS) and (end := said.find(b"\n")) >= 0:
        line: Any = None
        with suppress(ValueError, RecursionError):
            line = json.loads(said[:end])
        del said[: end + 1]
        match line:
            case {"progress": [float() | int() as share, str(step)]} if 0 <= share <= 1:
                on_progress(share, step[:LONGEST_STEP])


def _understood(heard: _Heard, code: int, memory: int, seconds: float, subject: str, verb: Verb) -> Any:
    """The result in the answer; raises what there is instead of one."""
    capital = subject[:1].upper() + subject[1:]
    if not heard.started:
        log.error("The sandbox did not start (exit %s, late: %s): %s", code, heard.late, heard.stderr)
        last = heard.stderr.strip().rpartition("\n")[2] or f"exit code {code}"
        raise ServiceError(f"The sandbox for uploaded files did not start: {last[:200]}.", "Run `auditor doctor`.")
    answer: Any = None
    if heard.answer.endswith(b"\n") and len(heard.answer) <= LARGEST_ANSWER:
        with suppress(ValueError, RecursionError):
            answer = json.loads(heard.answer)
    match answer:
        case {"result": result}:
            return result
        case {"error": [str(name), str(message), str(hint)], **rest}:
            kind = _ERRORS.get(name, IntakeError)
            kind = kind if issubclass(kind, AuditorError) else IntakeError
            error = kind(message[:LONGEST_MESSAGE], hint[:LONGEST_MESSAGE])
            if isinstance(error, IntakeError) and isinstance(choices := rest.get("choices"), list):
                error.choices = tuple(item[:LONGEST_CHOICE] for item in choices[:MOST_CHOICES] if isinstance(item, str))
            raise error
    log.warning("%s %s failed (exit %s): %s", verb.gerund, subject, code, heard.stderr)
    limit = f"{memory / (1 << 30):.3g} GB"
    failed = f"{capital} could not be {verb.infinitive}: the process that {verb.past} it"
    too_large = IntakeError(f"{capital} needs more than {limit} of memory to {verb.infinitive}.", verb.memory_hint)
    match answer:
        # A Rust reader that finds no memory says so, and aborts.
        case {"memory": True}:
            raise too_large
        case {"unexpected": True}:
            raise IntakeError(
                f"{failed} failed unexpectedly.",
                "The log of the dashboard has the details.",
            )
    if heard.late or code == -signal.SIGXCPU:
        raise IntakeError(f"{verb.gerund} {subject} took longer than {seconds:g} s.")
    if code < 0 and not heard.answer:
        if "memory allocation of" in heard.stderr:
            raise too_large
        cause = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
        raise IntakeError(f"{failed} crashed (signal {-code}{cause}).")
    raise IntakeError(f"{failed} returned an invalid answer.")


def _text(complaints: bytes) -> str:
    return complaints.decode(errors="replace")


def _inside(specification: dict[str, Any]) -> NoReturn:
    """The child: confine itself, import, call, answer with one line."""
    global _line, _walls
    answer = _line = os.dup(1)
    os.dup2(2, 1)  # whatever prints must not look like the answer
    raised = specification["raised"]
    address_space = walls.AddressSpace()
    walls.drop_privileges(specification["parent"])
    module, _, name = specification["function"].partition(":")
    modules = [*specification["preload"], module]
    if "landlock" in raised and walls.landlock_abi():
        # The home is empty, and thrown away: torch wants to make temporary files as soon as it is imported.
        readable = [Path(path) for path in specification["readable"]]
        writable = [Path(path) for path in (*specification["writable"], specification["home"])]
        code = walls.code_folders(["auditor", "worker", *modules])
        code += plugins.plugin_folders([point for group in plugins.GROUPS for point in plugins.entry_points(group)])
        walls.restrict_files([*code, *readable], writable, folders=specification["folders"])
        _walls |= {"landlock"}
    for needed in modules:
        importlib.import_module(needed)
    function = getattr(sys.modules[module], name)
    if "limits" in raised:
        walls.limit(address_space, specification["memory"], specification["seconds"])
        _walls |= {"limits"}
    if "seccomp" in raised and seccomp.available() is None:
        seccomp.restrict()
        _walls |= {"seccomp"}
    os.write(answer, b"\n")
    written = [*specification["writable"], specification["home"]]
    line = _answer(function, specification["arguments"], Path(written[0]))
    while line:
        line = line[os.write(answer, line) :]
    os._exit(0)  # nothing that the file left behind gets another turn


def _answer(function: Any, arguments: dict[str, Any], folder: Path) -> bytes:
    """One line with the result, or the error; ``folder``: where it writes."""
    try:
        return json.dumps({"result": function(**arguments)}).encode() + b"\n"
    except AuditorError as error:
        choices = {"choices": error.choices} if isinstance(error, IntakeError) and error.choices else {}
        return json.dumps({"error": [type(error).__name__, error.message, error.hint], **choices}).encode() + b"\n"
    except BaseException as error:  # also SystemExit
        if _is_memory(error):
            return _OUT_OF_MEMORY
        if (fault := outage(error, folder)) is not None:
            return json.dumps({"error": [type(fault).__name__, fault.message, fault.hint]}).encode() + b"\n"
        traceback.print_exc()
        return b'{"unexpected": true}\n'


def _is_memory(error: BaseException) -> bool:
    """Also torch's RuntimeErrors: from its allocator, and from mmap."""
    if isinstance(error, MemoryError):
        return True
    signs = ("can't allocate memory", "Cannot allocate memory", "bad_alloc", "not enough memory")
    return isinstance(error, RuntimeError | OSError) and any(sign in str(error) for sign in signs)
