"""Files that a command writes: whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from auditor.kit.disk import outage
from auditor.kit.errors import SpecError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file in the folder of ``path`` that takes its place at the end; after an error the old file stays.
    Raises SpecError.

    In the home the file is private, like all that lies there; elsewhere it has the mode that the user's umask gives.
    """
    from worker.private import private_file, private_folder
    from worker.settings import load_settings

    temporary = path.with_name(f".{path.name}.tmp")
    at_home = path.absolute().is_relative_to(load_settings().home)
    try:
        if at_home:
            private_folder(path.parent)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if at_home:
            private_file(temporary)
        temporary.replace(path)
    except OSError as error:
        if (fault := outage(error, path.parent)) is not None:
            raise fault from None
        raise SpecError(f"{path} cannot be written: {error.strerror}.") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file whole, or leave what was there. Raises SpecError."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def text_or_file(text: str, noun: str = "label map") -> str:
    """Pairs such as a=0,b=1 as they are written, or the content of the file that is named. ``noun``: what errors call them.
    Raises SpecError."""
    if not text or "=" in text or text.lstrip().startswith(("{", "[")):
        return text
    try:
        return Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not a text"
        raise SpecError(
            f"The {noun} {text} cannot be read: {why}.", "Write a=0,b=1 or name a JSON file of such pairs."
        ) from None
