"""Workspaces: a folder per job that outlives its attempts, for checkpoints; an attempt never writes into another's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from worker.private import private_folder


class Workspaces:
    """Folders JOB/FENCE under one folder. An attempt has one of its own, so a lost one that still runs disturbs nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def take(self, job_id: str, fence: int) -> Path:
        """The folder of this attempt, with the files that the latest one before left; those before are deleted.

        Files are linked, not copied: whoever writes in a workspace writes beside and replaces.
        """
        mine = self.folder / job_id / str(fence)
        for folder in (self.folder, mine.parent, mine):
            private_folder(folder)
        earlier = sorted(number for number in (int(path.name) for path in mine.parent.iterdir()) if number < fence)
        for number in reversed(earlier):
            for file in (mine.parent / str(number)).iterdir():
                if not file.name.startswith(".") and not (mine / file.name).exists():
                    _link(file, mine / file.name)
        for number in earlier:
            shutil.rmtree(mine.parent / str(number), ignore_errors=True)
        return mine

    def drop(self, job_id: str) -> None:
        """The job has ended."""
        shutil.rmtree(self.folder / job_id, ignore_errors=True)

    def sweep(self, ended: Callable[[Sequence[str]], set[str]]) -> None:
        """Delete the folders of jobs that have ended, however they did. ``ended`` tells which of some jobs have."""
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        for job_id in ended(names) if names else ():
            self.drop(job_id)


def _link(file: Path, target: Path) -> None:
    with suppress(FileNotFoundError):  # an attempt that still runs just replaced it
        try:
            os.link(file, target)
        except OSError:  # a file system without links
            shutil.copyfile(file, target)
