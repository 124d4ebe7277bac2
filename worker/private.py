"""Private files: what the product keeps is readable by the user who runs it and by nobody else, whatever the umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from worker.settings import Settings

FOLDER, FILE = 0o700, 0o600
OTHERS = 0o077


def private_umask() -> None:
    """For a process of ours that runs jobs or serves pages: whatever it or a library writes is private from the start."""
    os.umask(OTHERS)


def private_folder(folder: Path) -> Path:
    """Make a folder that only its owner may enter; one that exists is closed. Folders above it are left as they are."""
    folder.mkdir(parents=True, exist_ok=True, mode=FOLDER)
    _close(folder)
    return folder


def private_file(file: Path) -> Path:
    """Make sure that a file exists and that only its owner may read it."""
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE))
    _close(file)
    return file


def private_log(file: Path) -> BinaryIO:
    """A log, opened to be written on at its end, in a folder of its own."""
    private_folder(file.parent)
    return private_file(file).open("ab")


def mend(settings: Settings) -> None:
    """Close the home and all that lies in it: earlier versions left both open to the other users of the machine."""
    home = settings.home
    private_folder(home)
    for folder in (settings.blobs, settings.broker_folder, settings.workspaces, settings.logs):
        if folder.is_dir():
            _close(folder)
            _close_below(folder)
    for file in (*home.glob("*.db"), *home.glob("*.db-wal"), *home.glob("*.db-shm"), *home.glob(".*.lock")):
        _close(file)
    if settings.inbox.is_dir():
        _close(settings.inbox)  # what lies in it belongs to the operator, who may have linked it from elsewhere


def open_to_others(settings: Settings) -> list[Path]:
    """What other users may still enter or read, such as on a file system without modes."""
    below = [path for folder in (settings.blobs, settings.logs) if folder.is_dir() for path in folder.iterdir()]
    return [path for path in (settings.home, *settings.home.glob("*.db"), *below) if _mode(path) & OTHERS]


def _close_below(folder: Path) -> None:
    for entry in _entries(folder):
        if entry.is_symlink():
            continue
        _close(Path(entry.path))
        if entry.is_dir():
            _close_below(Path(entry.path))


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(folder) as entries:  # another process of ours may just have removed it
        yield from entries


def _close(path: Path) -> None:
    """Set the mode where it is another. What cannot be changed stays, for `auditor doctor` to report."""
    with suppress(OSError):
        status = path.stat()
        is_folder = stat.S_ISDIR(status.st_mode)
        if is_folder and _is_shared(path, status):
            return
        mode = FOLDER if is_folder else FILE
        if stat.S_IMODE(status.st_mode) != mode:
            path.chmod(mode)


def _is_shared(folder: Path, status: os.stat_result) -> bool:
    """A folder that is not ours alone, named as the home by mistake: /tmp, or the user's own home folder."""
    return bool(status.st_mode & stat.S_ISVTX) or folder in (Path.home(), Path(folder.anchor))


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0
