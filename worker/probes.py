"""What a hostile file would try: run inside the sandbox by its test of itself."""

from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path

SYSTEM_FILE = "/etc/passwd"


def attempt_escapes(outside: str, inside: str, parent: int) -> dict[str, bool]:
    """Try everything; True where it was refused."""
    probes: dict[str, Callable[[], object]] = {
        "reading a system file": lambda: Path(SYSTEM_FILE).read_bytes(),
        "listing a folder outside": lambda: os.listdir(outside),  # noqa: PTH208
        "reading the parent's environment": lambda: Path(f"/proc/{parent}/environ").read_bytes(),
        "writing outside": lambda: Path(outside, "written").write_bytes(b"x"),
        "making a link that is followed later": lambda: os.symlink(outside, Path(inside, "link")),  # noqa: PTH211
        "changing modes outside": lambda: os.chmod(outside, 0o700),  # noqa: PTH101
        "opening a socket": lambda: socket.socket().close(),
        "starting a program": lambda: os.execv("/bin/true", ["true"]),  # noqa: S606
        "starting a process": _fork,
        "killing the parent": lambda: os.kill(parent, 0),  # asks for the permission only
        "raising a limit": _raise_limit,
        "taking 8 GiB of memory": lambda: mmap.mmap(-1, 8 << 30).close(),
    }
    held = {wall: _refused(probe) for wall, probe in probes.items()}
    _load(Path(inside, "model.pt"))
    held["an honest checkpoint loads"] = _works(Path(inside))
    return held


def malicious_pickle(canary: Path) -> bytes:
    """A checkpoint that, loaded without a sandbox, makes the file ``canary``: by a shell, by itself, or by the
    network."""
    code = f"""
import os, subprocess
for attempt in (
    lambda: os.system("touch '{canary}'"),
    lambda: subprocess.run(["touch", {str(canary)!r}]),
    lambda: open({str(canary)!r}, "w").close(),
    lambda: os.mkdir({str(canary)!r}),
    lambda: os.symlink("/", {str(canary)!r}),
):
    try:
        attempt()
    except Exception:
        pass
"""
    return pickle.dumps(_Payload(code))


class _Payload:
    def __init__(self, code: str) -> None:
        self._code = code

    def __reduce__(self) -> tuple[object, ...]:
        return exec, (self._code,)


def _refused(probe: Callable[[], object]) -> bool:
    try:
        probe()
    except OSError:
        return True
    return False


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)
    os.wait()


def _raise_limit() -> None:
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except ValueError as error:  # what Python makes of the refusal
        raise OSError(str(error)) from error


def _load(path: Path) -> None:
    """Load it as one never may: everything in it runs."""
    import torch

    try:
        torch.load(path, weights_only=False)
    except Exception:
        ctypes.set_errno(0)  # what it made of the refusals does not matter; the parent looks for the canary


def _works(folder: Path) -> bool:
    """The sandbox is useless if nothing honest gets through: save, map, and read a checkpoint."""
    import torch

    path = folder / "honest.pt"
    torch.save({"weight": torch.arange(1000.0)}, path)
    weight = torch.load(path, weights_only=True, mmap=True)["weight"]
    return float(weight.sum()) == 499_500.0  # 999 * 1000 / 2
