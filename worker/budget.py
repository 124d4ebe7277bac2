"""The memory that reading uploaded files may take on this machine: one budget for all of our processes, shared by waiting."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from auditor.kit.errors import OutageError
from worker.private import FILE, private_folder
from worker.settings import Settings

POLL_SECONDS = 0.2
SAY_SECONDS = 1.0
"""A wait that is shorter than this is not worth a word."""

OnWait = Callable[[str], object]


def silent(_: str) -> None:
    """Nobody wants to know."""


def machine_memory() -> int:
    """Bytes of memory that this machine, or the container that we are in, has."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(file).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            found.append(int(text))
    return min(found)


def intake_budget(settings: Settings) -> int:
    """Bytes that all readings together may take."""
    return settings.intake_budget or machine_memory() // 2


def reading_memory(settings: Settings) -> int:
    """Bytes that one reading may take: its limit, or the whole budget where that is smaller."""
    return min(settings.intake_memory, intake_budget(settings))


@contextmanager
def reading_share(settings: Settings, on_wait: OnWait = silent) -> Iterator[int]:
    """Hold the share of one reading; yields its memory in bytes. Waits while others hold all of them, and says so.

    The shares are locks on files in the home, which the kernel takes back when a holder is killed. Raises OutageError after
    twice the time that a reading may take.
    """
    memory = reading_memory(settings)
    places = max(1, intake_budget(settings) // memory)
    folder = private_folder(settings.home / "intake")
    began, said = time.monotonic(), False
    while (lock := _free_place(folder, places)) is None:
        waited = time.monotonic() - began
        if waited > 2 * settings.intake_seconds:
            raise OutageError(
                f"Other files have been read for {waited:.0f} seconds, so there is no memory left to read this one.",
                "Try again later, or let the administrator raise AUDITOR_INTAKE_BUDGET.",
            )
        if waited > SAY_SECONDS and not said:
            said = True
            on_wait(
                f"Waiting: {places} other file{'s are' if places > 1 else ' is'} being read, and there is memory "
                f"for {places} at a time ({memory / (1 << 30):.3g} GB each)."
            )
        time.sleep(POLL_SECONDS)
    try:
        yield memory
    finally:
        os.close(lock)


def _free_place(folder: Path, places: int) -> int | None:
    """The lock of a place that nobody holds, as an open file; None when there is none."""
    for number in range(places):
        # The machine's kernel is in the name: a home that several machines share has places for each.
        file = os.open(folder / f"{_kernel()}-{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
        else:
            return file
    return None


def _kernel() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    except OSError:
        return os.uname().nodename
