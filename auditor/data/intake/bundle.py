"""Bundle: several files, or a folder, as one upload: a zip archive that stores them as they are."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from auditor.kit.errors import IntakeError
from auditor.kit.limits import MIB, Limits
from auditor.kit.wording import counted, shown, size_text


class Part(NamedTuple):
    """A file of a bundle: what it is called there, and its content."""

    name: str
    content: BinaryIO | Path


def parts_of(paths: Sequence[Path]) -> list[Part]:
    """Files by their names, and the files of folders by their paths, each folder by its own name.

    Raises IntakeError for two files of one name, for what is no file, and for links, which could lead anywhere.
    """
    found: dict[str, Path] = {}
    for path in paths:
        inner = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in inner:
            if file.is_dir():
                continue
            name = f"{path.resolve().name}/{file.relative_to(path).as_posix()}" if path.is_dir() else file.name
            if file.is_symlink() or not file.is_file():
                raise IntakeError(f"{file} is a link, or not a file that can be read.", "Give the file itself.")
            if name in found:
                raise IntakeError(
                    f"Two of the files are called {shown(name)}; expected names of their own.", "Rename one."
                )
            found[name] = file
    return [Part(name, file) for name, file in found.items()]


def bundle_name(names: Sequence[str]) -> str:
    """What a bundle is called: by its first file, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {counted(len(names) - 1, 'other file')}"


@contextmanager
def bundled(parts: Sequence[Part], limits: Limits | None = None) -> Iterator[BinaryIO]:
    """The files as one zip archive, uncompressed, in a temporary file. Raises IntakeError over the limit of an upload."""
    limits = limits or Limits()
    written = 0
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for part in parts:
                stream = part.content.open("rb") if isinstance(part.content, Path) else part.content
                with stream, archive.open(zipfile.ZipInfo(part.name), "w", force_zip64=True) as member:
                    while piece := stream.read(MIB):
                        written += len(piece)
                        if written > limits.upload_bytes:
                            raise IntakeError(
                                f"The files have more than {size_text(limits.upload_bytes)} together, which is the limit.",
                                "Give fewer files.",
                            )
                        member.write(piece)
        file.seek(0)
        yield file
