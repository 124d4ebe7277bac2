"""How untrusted names and numbers are shown in a sentence: printable, short, quoted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import PurePosixPath

_SHOWN_LENGTH = 80
"""Characters of an untrusted name in an error: enough to recognize it, not enough to flood the page."""


AGAIN = "Upload it again. If it is refused again, write a new file."
"""What to do about a damaged file, whatever damaged it."""


def printable(name: str, length: int = _SHOWN_LENGTH) -> str:
    """The name with everything unprintable (controls, NUL, bidi marks, surrogates) escaped, cut in the middle."""
    name = name if len(name) <= 4 * length else name[: 2 * length] + name[-2 * length :]
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)
    return text if len(text) <= length else f"{text[: length - 20]}...{text[-17:]}"


def shown(name: str) -> str:
    """An untrusted name in a sentence, in quotes."""
    return f"'{printable(name)}'"


def source_name(filename: str) -> str:
    """What the uploader called the file: its last part, printable. It is shown, and never used as a path."""
    return printable(PurePosixPath(filename.replace("\\", "/")).name, 200) or "upload"


def size_text(size: float) -> str:
    """A size in bytes for people: ``512 bytes``, ``1.5 GiB``."""
    if size < 1024:
        return f"{int(size)} bytes"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.3g} {unit}" if size < 1000 else f"{size:.0f} {unit}"
    return f"{size / 1024:.3g} PiB"


def shape_text(shape: Iterable[int]) -> str:
    """A shape for people: ``16x3x3x3``; a number without dimensions is ``scalar``."""
    sizes = list(shape)
    return "x".join(map(str, sizes[:8])) + ("x..." if len(sizes) > 8 else "") if sizes else "scalar"


def listed(items: Sequence[str], most: int = 3) -> str:
    """The first few items: ``a, b, c, ...``."""
    return ", ".join(islice(items, most)) + (", ..." if len(items) > most else "")


def counted(count: int, noun: str) -> str:
    """``1 image``, ``2 images``, ``2 classes``."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}" + ("es" if noun.endswith("s") else "s")
