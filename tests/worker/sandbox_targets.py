"""What the sandbox's tests run inside it."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from auditor.kit.errors import AuditorError, IntakeError, MismatchError


class UnknownError(AuditorError):
    """Not one of auditor.kit.errors."""


def echo(**arguments: Any) -> Any:
    print("this is not the answer", flush=True)
    os.write(2, b"nor is this\n")
    return arguments


def readable_ones(paths: list[str]) -> list[str]:
    return [path for path in paths if _outcome(Path(path).read_bytes) == "ok"]


def surroundings() -> dict[str, Any]:
    """What the process sees of where it runs."""
    return {
        "environment": dict(os.environ),
        "home": [path.name for path in Path.home().iterdir()],
        "session": os.getsid(0) == os.getpid(),
        "cwd": str(Path.cwd()),
        "limits": [resource.getrlimit(kind)[1] for kind in (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE)],
        "descriptors": [number for number in range(100) if _is_open(number)],
    }


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def fail(kind: str) -> None:
    match kind:
        case "mismatch":
            raise MismatchError("Expected ten classes, got two.", "Choose another data set.")
        case "unknown":
            raise UnknownError("A message.", "A hint.")
        case "choices":
            raise IntakeError("Two sets.", "Choose one.", choices=("student", "teacher"))
        case "long":
            raise IntakeError("x" * 1_000_000)
        case "value":
            raise ValueError("a secret detail")
        case "exit":
            sys.exit(0)
        case "memory":
            raise MemoryError
        case "torch memory":
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"
            )


def misbehave(kind: str) -> Any:
    """Ends in ways that no answer survives."""
    match kind:
        case "abort":
            os.abort()
        case "segmentation fault":
            ctypes.string_at(0)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "rust":
            os.write(2, b"memory allocation of 99 bytes failed\n")
            os.abort()
        case "sleep":
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            time.sleep(600)
        case "silence":
            os.closerange(0, 100)
            time.sleep(600)
        case "unprintable":
            return object()
    return None


def forge(text: str, repeat: int = 1) -> None:
    """Write ``text`` as the answer, as a file that took over the process could."""
    for number in range(3, 100):
        try:
            for _ in range(repeat):
                os.write(number, text.encode())
        except OSError:
            continue
    os._exit(0)


def burn() -> None:
    """Use the CPU in threads that the main thread waits for."""
    threads = [threading.Thread(target=lambda: sum(range(10**12))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def leave_a_child(pid_file: str) -> int:
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    Path(pid_file).write_text(str(pid))
    return pid


def write_and_sleep(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def outcomes(secret: str, outside: str, inside: str, parent: int, port: int, abstract: str) -> dict[str, str]:
    """Each thing that a file might try: "ok", or the name of the error."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(number: int, *arguments: int) -> None:
        if libc.syscall(number, *(ctypes.c_long(argument) for argument in arguments)) < 0:
            raise OSError(ctypes.get_errno(), "")

    def connect(family: int, address: Any) -> None:
        with socket.socket(family, socket.SOCK_STREAM) as client:
            client.connect(address)

    def thread() -> None:
        done: list[int] = []
        worker = threading.Thread(target=done.append, args=(1,))
        worker.start()
        worker.join()
        assert done

    def fork() -> None:
        if os.fork() == 0:
            os._exit(0)
        os.wait()

    def large_file() -> None:
        with Path(inside, "large").open("wb") as file:
            file.truncate(2 << 30)

    def many_files() -> None:
        files: list[int] = []
        try:
            files.extend(os.open(inside, os.O_RDONLY) for _ in range(500))
        finally:
            for file in files:
                os.close(file)

    def socket_pair() -> None:
        for end in socket.socketpair():
            end.close()

    def raise_limit() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard + 1))
        except ValueError as error:
            raise PermissionError(errno.EPERM, "") from error

    probes: dict[str, Callable[[], object]] = {
        "read secret": lambda: Path(secret).read_bytes(),
        "read passwd": lambda: Path("/etc/passwd").read_bytes(),
        "read parent environment": lambda: Path(f"/proc/{parent}/environ").read_bytes(),
        "list outside": lambda: list(Path(outside).iterdir()),
        "write outside": lambda: Path(outside, "new").write_bytes(b"x"),
        "truncate outside": lambda: os.truncate(secret, 3),
        "remove outside": lambda: Path(outside, "victim").unlink(),
        "rename outside": lambda: Path(outside, "moved").rename(Path(outside, "away")),
        "link outside": lambda: os.link(secret, Path(inside, "hard")),
        "chmod outside": lambda: Path(outside).chmod(0o700),
        "utime outside": lambda: os.utime(outside),
        "xattr outside": lambda: os.setxattr(secret, "user.x", b"x"),
        "symlink inside": lambda: Path(inside, "soft").symlink_to(secret),
        "folder inside": lambda: Path(inside, "folder").mkdir(),
        "pipe inside": lambda: os.mkfifo(Path(inside, "pipe")),
        "write inside": lambda: Path(inside, "new").write_bytes(b"x"),
        "read inside": lambda: Path(inside, "new").read_bytes(),
        "replace inside": lambda: Path(inside, "new").replace(Path(inside, "old")),
        "remove inside": lambda: Path(inside, "old").unlink(),
        "write null": lambda: Path("/dev/null").write_bytes(b"x"),
        "read random": lambda: os.urandom(8),
        "socket": lambda: socket.socket().close(),
        "socket pair": socket_pair,
        "connect": lambda: connect(socket.AF_INET, ("127.0.0.1", port)),
        "connect abstract": lambda: connect(socket.AF_UNIX, f"\0{abstract}"),
        "run": lambda: subprocess.run(["/bin/true"], check=True),
        "fork": fork,
        "thread": thread,
        "signal parent": lambda: os.kill(parent, 0),
        "signal group": lambda: os.kill(-os.getpgid(parent), 0),
        "signal self": lambda: os.kill(os.getpid(), 0),
        "session": os.setsid,
        "prlimit": raise_limit,
        "ptrace": lambda: call(101 if os.uname().machine == "x86_64" else 117, 16, parent),
        "io_uring": lambda: call(425, 1, 0),
        "pidfd": lambda: call(434, parent, 0),
        "unshare": lambda: call(272 if os.uname().machine == "x86_64" else 97, 0),
        "memory": lambda: mmap.mmap(-1, 3 << 30).close(),
        "large file": large_file,
        "many files": many_files,
    }
    return {name: _outcome(probe) for name, probe in probes.items()}


def _outcome(probe: Callable[[], object]) -> str:
    try:
        probe()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except subprocess.CalledProcessError as error:
        return type(error).__name__
    return "ok"


def load_everything(source: str, image: str, folder: str) -> dict[str, Any]:
    """What honest readers do: torch, safetensors, numpy, Pillow."""
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import load_file, save_file

    weights = torch.load(source, weights_only=True, mmap=True)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5)
    )
    network.load_state_dict(weights)
    logits = network(torch.zeros(2, 3, 8, 8))
    logits.sum().backward()
    save_file(weights, Path(folder, "again.safetensors"))
    again = load_file(Path(folder, "again.safetensors"))
    torch.save(weights, Path(folder, "again.pt"))
    with Image.open(image) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    np.savez_compressed(Path(folder, "pixels.npz"), pixels=pixels)
    return {
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.is_available(),
        "logits": logits.tolist(),
        "same": all(torch.equal(again[name], weights[name]) for name in weights),
        "pixels": pixels.tolist(),
        "too much": _torch_memory(),
    }


def _torch_memory() -> str:
    import torch

    try:
        torch.zeros(3 << 30, dtype=torch.uint8)
    except RuntimeError as error:
        return str(error)
    return "ok"


def take_too_much() -> None:
    import torch

    torch.zeros(8 << 30, dtype=torch.uint8)


def built_architectures(kinds: list[str]) -> dict[str, int]:
    """Weights of these architectures, built where uploads are read."""
    from auditor.models.architecture import ARCHITECTURES

    return {kind: sum(value.numel() for value in ARCHITECTURES.build(kind, {}).build().parameters()) for kind in kinds}


def report_and_go_on(count: int, nested: int) -> dict[str, Any]:
    """Tells of its progress between forged lines, and makes folders in folders where it may write."""
    from worker import sandbox

    for number in range(count):
        sandbox.tell((number + 1) / count, f"step {number}")
        os.write(sandbox._line, b'{"progress": [2, "too far"]}\n{"progress": ["x", 1]}\n{"progress": [NaN, "none"]}\n')
    for _ in range(nested):
        Path("in").mkdir()
        os.chdir("in")
    return {"walls": sorted(sandbox.walls_here()), "threads": os.environ["OMP_NUM_THREADS"]}
