"""Exclusion: what of an upload is left out because the user says so: files by patterns of their paths, samples by number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from auditor.data.intake.files import Files
from auditor.kit.errors import IntakeError
from auditor.kit.wording import counted, listed, shown

_NUMBERS = re.compile(r"#(\d{1,9})(?:-#?(\d{1,9}))?")
"""A sample as errors call it, or a range of them."""

_NAMED = 20
"""Names in a note."""

FORM = "Write a pattern of paths such as *.gif or raw/*, or samples by number such as #12 or #12-20."


class Exclusion:
    """The patterns of one upload. ``apply`` is for its files, ``numbered`` for samples that have a number and no file."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._globs = [pattern for pattern in patterns if not _NUMBERS.fullmatch(pattern)]
        self._idle = set(self._globs)
        self._out: list[str] = []
        self._files = 0

    def apply(self, files: Files) -> Files:
        """The same files without those that a pattern matches, by the whole path or by its last part. Raises IntakeError."""
        if not self._globs:
            return files
        self._files += len(files.entries)
        out = [entry.path for entry in files.entries if self._matches(entry.path)]
        self._out += out
        files.exclude(out)
        if out and not files.entries:
            raise IntakeError(f"Nothing of {shown(files.name)} is left without what was to be left out.", FORM)
        return files

    def _matches(self, path: str) -> bool:
        found = {
            pattern
            for pattern in self._globs
            if any(fnmatchcase(it, pattern) for it in (path, path.rpartition("/")[2]))
        }
        self._idle -= found
        return bool(found)

    def notes(self, name: str) -> list[str]:
        """What was left out, as a sentence. Raises IntakeError for a pattern that matched nothing."""
        if self._idle:
            raise IntakeError(
                f"{shown(name)} has no file that matches {listed([shown(item) for item in sorted(self._idle)], 5)}.",
                FORM,
            )
        return [_note(self._out, self._files, "file")] if self._out else []


def numbered(patterns: Sequence[str], count: int, name: str) -> NDArray[np.bool_]:
    """Which of ``count`` samples are to be left out by number, bool (count,). Raises IntakeError for a number that none has."""
    out = np.zeros(count, bool)
    for pattern in patterns:
        found = _NUMBERS.fullmatch(pattern)
        if found is None:
            continue
        first, last = int(found[1]), int(found[2] or found[1])
        if not first <= last < count:
            raise IntakeError(
                f"{shown(name)} has no samples {shown(pattern)}: "
                + (
                    f"it has #0 to #{count - 1}."
                    if count
                    else "its samples are files, which are left out by their paths."
                ),
                FORM,
            )
        out[first : last + 1] = True
    return out


def numbered_note(out: NDArray[np.bool_]) -> list[str]:
    """What is said of samples left out by number."""
    numbers = [f"#{number}" for number in np.flatnonzero(out)]
    return [_note(numbers, len(out), "image")] if numbers else []


def _note(names: Sequence[str], of: int, noun: str) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    verb = "was" if len(names) == 1 else "were"
    said = ", ".join(name if name.startswith("#") else shown(name) for name in names[:_NAMED])
    return f"{len(names):,} of {counted(of, noun)} {verb} left out, as asked: {said}{more}."
