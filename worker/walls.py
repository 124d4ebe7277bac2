"""How a process that reads an untrusted file is confined: Landlock, no privileges, limits. On Linux; elsewhere, what
exists.

Each function concerns the calling process, and none can be taken back.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import resource
import signal
import site
import struct
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every machine
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_KEPT_CAPABILITIES = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: root must still reach the files of other users that Landlock lets through."""

_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FIRST_ABI = (1 << 13) - 1
_SINCE = {2: _REFER, 3: _TRUNCATE, 5: _IOCTL_DEV}
_READ = _READ_FILE | _READ_DIR
# No links, pipes or devices, which whoever reads the folder afterwards would follow or open, and no folders, which may
# be nested deeper than he can remove them.
_WRITE = _READ | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE
_FOLDERS = _MAKE_DIR | _REMOVE_DIR  # auditor.kit.scratch removes them however deep they are
_OF_A_FILE = _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64", "/etc/ld.so.cache")
_MACHINE = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random", "/proc/cpuinfo", "/proc/meminfo")
_OPEN_FILES = 256


def landlock_abi() -> int:
    """The version of Landlock in the running kernel; 0 without one."""
    if sys.platform != "linux":
        return 0
    # Asked for its version, the call makes no ruleset.
    version = _syscall(_CREATE_RULESET, None, 0, 1)
    return max(version, 0)


def code_folders(modules: Iterable[str]) -> list[Path]:
    """Where the interpreter, installed libraries and the top packages of ``modules`` lie, and no folder above them.

    The folder of the project itself is not among them: it may hold the database, and secrets.
    """
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    paths += [*site.getsitepackages(), *_LIBRARIES, f"{sys.prefix}/lib", f"{sys.base_prefix}/lib"]
    paths += [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages", "lib-dynload")]
    for top in {name.partition(".")[0] for name in modules}:
        spec = importlib.util.find_spec(top)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)
        paths += spec.submodule_search_locations or [spec.origin or ""]
    return [path for path in map(Path, dict.fromkeys(paths)) if path.is_absolute() and path.exists()]


def drop_privileges(parent: int) -> None:
    """Die with the parent, never gain a privilege, and keep of root's nothing but the access to files."""
    if sys.platform != "linux":
        return
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    libc = ctypes.CDLL(None, use_errno=True)
    header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
    sets = ctypes.create_string_buffer(24)  # effective, permitted, inheritable: the lower and the upper half
    if libc.capget(header, sets) == 0:
        kept = [value & _KEPT_CAPABILITIES if i in (0, 1) else 0 for i, value in enumerate(struct.unpack("6I", sets))]
        _check(libc.capset(header, ctypes.create_string_buffer(struct.pack("6I", *kept))), "capabilities")
    with suppress(OSError):  # when the machine runs out of memory, this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000")


def restrict_files(readable: Sequence[Path], writable: Sequence[Path], *, folders: bool = False) -> None:
    """Landlock: read below ``readable``, write files in ``writable``, and make ``folders`` there; run no program; no TCP; signal
    nobody outside.

    Holds for the threads that are started after it: call it while there is one. Raises OSError.
    """
    abi = landlock_abi()
    handled = _FIRST_ABI
    for since, right in _SINCE.items():
        handled |= right if abi >= since else 0
    tcp = 0b11 if abi >= 4 else 0  # bind, connect
    scoped = 0b11 if abi >= 6 else 0  # abstract sockets, signals
    attributes = struct.pack("QQQ", handled, tcp, scoped)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    ruleset = _syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    _check(ruleset, "a Landlock ruleset")
    try:
        for path in (*map(Path, _MACHINE), Path("/sys/devices/system/cpu")):
            if path.exists():
                _allow(ruleset, path, _READ & handled)
        _allow(ruleset, Path("/dev/null"), (_READ_FILE | _WRITE_FILE) & handled)
        for path in readable:
            _allow(ruleset, path, _READ & handled)
        for path in writable:
            _allow(ruleset, path, (_WRITE | (_FOLDERS if folders else 0)) & handled)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _check(_syscall(_RESTRICT_SELF, ruleset, 0), "Landlock")
    finally:
        os.close(ruleset)


class AddressSpace:
    """How much address space the process uses; opened before the sandbox closes /proc."""

    def __init__(self) -> None:
        try:
            self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._statm = -1

    def used(self) -> int | None:
        """Bytes; None where the system does not say."""
        if self._statm < 0:
            return None
        return int(os.pread(self._statm, 100, 0).split()[0]) * resource.getpagesize()


def limit(address_space: AddressSpace, memory: int, seconds: int) -> None:
    """From now on: so many more bytes of memory and seconds of CPU, files of at most ``memory`` bytes, no core dump."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    # A second more than the wall clock that the parent watches: that one gives the better message.
    _lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + seconds + 2, grace=2)
    _lower(resource.RLIMIT_FSIZE, memory)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _lower(resource.RLIMIT_CORE, 0)
    if (mapped := address_space.used()) is not None:
        _lower(resource.RLIMIT_AS, mapped + memory)


def _lower(kind: int, value: int, grace: int = 0) -> None:
    _, old = resource.getrlimit(kind)
    hard = value + grace if old == resource.RLIM_INFINITY else min(value + grace, old)
    resource.setrlimit(kind, (min(value, hard), hard))


def _allow(ruleset: int, path: Path, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not path.is_dir():
            rights &= _OF_A_FILE
        _check(_syscall(_ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, descriptor), 0), f"a rule for {path}")
    finally:
        os.close(descriptor)


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    given = [ctypes.c_long(value) if isinstance(value, int) else ctypes.c_char_p(value) for value in arguments]
    return int(libc.syscall(ctypes.c_long(number), *given))


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = [ctypes.c_ulong(argument) for argument in (value, 0, 0, 0)]
    _check(libc.prctl(ctypes.c_int(option), *arguments), f"prctl {option}")


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what} was refused ({os.strerror(number)})")
