"""Paths of an archive of images: which files may be images, and what data sets and file managers leave in it."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import NamedTuple

from auditor.data.intake.files import Entry, Files
from auditor.data.intake.images import Box
from auditor.data.intake.lists import LIST_SUFFIXES
from auditor.kit.wording import shown
from auditor.models.dataset import Group

_IGNORED_FOLDERS = frozenset({"__MACOSX"})
_IGNORED_FILES = frozenset({"thumbs.db", "desktop.ini", "icon\r"})
_DOCUMENTS = ("readme", "license", "licence", "copying", "citation")
_DOCUMENT_SUFFIXES = ("", ".txt", ".md", ".rst", ".html", ".pdf", ".cff")
"""Texts that data sets bring along beside their class folders."""

_BESIDE_SUFFIXES = frozenset(
    {
        *LIST_SUFFIXES,
        ".md",
        ".json",
        ".jsonl",
        ".xml",
        ".yaml",
        ".yml",
        ".toml",
        ".ini",
        ".log",
        ".pdf",
        ".html",
        ".py",
        ".sh",
    }
)
"""Lists, annotations and scripts: what no image is called, wherever it lies."""


class Candidate(NamedTuple):
    """A file that may be an image, and the parts of its path that are still to be understood."""

    parts: tuple[str, ...]
    entry: Entry


class Located(NamedTuple):
    """An image with its class by name, its part of the data set, and its corruption."""

    entry: Entry
    name: str
    folder: str
    part: int = 0
    group: Group | None = None
    box: Box | None = None


def candidates(source: Files) -> tuple[list[Candidate], set[tuple[str, ...]], list[str]]:
    """The files that may be images, the folders that are empty or hold some, and what is ignored, as it is shown."""
    files: list[Candidate] = []
    folders: set[tuple[str, ...]] = set()
    beside: set[tuple[str, ...]] = set()
    ignored: list[str] = []
    for folder in source.folders:
        parts = tuple(folder.rstrip("/").split("/"))
        if is_junk(parts):
            ignored.append(shown(folder))
        else:
            folders.add(parts)
    for entry in source.entries:
        parts = entry.parts
        if is_junk(parts):
            ignored.append(shown(entry.path))
        elif _is_document(parts) or PurePosixPath(parts[-1]).suffix.lower() in _BESIDE_SUFFIXES:
            ignored.append(shown(entry.path))
            beside.add(parts[:-1])
        else:
            files.append(Candidate(parts, entry))
    with_files = {path.parts[:length] for path in files for length in range(1, min(len(path.parts), 6))}
    # A folder of annotations alone is no class; an empty one is a class without images.
    return files, {folder for folder in folders if folder in with_files or folder not in beside}, ignored


def is_junk(parts: tuple[str, ...]) -> bool:
    """What file managers leave in archives: hidden files, __MACOSX, Thumbs.db, Icon and a carriage return."""
    return (
        any((part.startswith(".") and part != ".") or part in _IGNORED_FOLDERS for part in parts)
        or parts[-1].lower() in _IGNORED_FILES
    )


def _is_document(parts: tuple[str, ...]) -> bool:
    """A README or a licence beside the class folders, or beside their common top folder."""
    path = PurePosixPath(parts[-1].lower())
    return len(parts) <= 2 and path.stem in _DOCUMENTS and path.suffix in _DOCUMENT_SUFFIXES
