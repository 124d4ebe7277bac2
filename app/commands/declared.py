"""What options say of a model: its architecture, the size of its images, its normalization."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from auditor.kit.errors import SpecError

if TYPE_CHECKING:
    from auditor.models.architecture import Architecture
    from auditor.models.classifier import Normalization
    from auditor.models.own_code import OwnCode

_SIDES = ("channels", "height", "width")
_NOTATION = re.compile(r"\s*([\[({]|[\w.]+\s*[=(])")
"""How layers begin, unlike kind:name=value."""


def parse_architecture(text: str, shape: str = "", num_classes: int | None = None) -> Architecture:
    """``kind:name=value``; layers in PyTorch's notation; or ``@FILE`` with these, or with JSON (an object with "kind", or one
    that `models export` wrote). ``shape``: channels x height x width of an image, as ``1x28x28``.
    """
    from auditor.models.architecture import ARCHITECTURES

    given = parse_input_shape(shape) | ({} if num_classes is None else {"num_classes": num_classes})
    place = ""
    if text.startswith("@"):
        with opened(Path(text[1:])) as file:
            text, place = file.read().decode("utf-8", "replace"), f"{text[1:]}: "
    elif not _NOTATION.match(text) or text.partition("(")[0] in ARCHITECTURES:
        return ARCHITECTURES.parse(text, given)
    try:
        data: Any = json.loads(text)
    except ValueError:
        data = {"kind": "sequential", "layers": text}
    if isinstance(data, list):
        data = {"kind": "sequential", "layers": data}
    if isinstance(data, dict) and isinstance(data.get("architecture"), dict):
        data = data["architecture"]
    if isinstance(data, dict) and data.get("kind") == "own-code":
        raise SpecError(
            f"{place}the network is its owner's code, {data.get('file')}, and not an architecture.",
            f"Give the file itself: `--code '{data.get('file')}:{data.get('network')}'`.",
        )
    if not isinstance(data, dict) or "kind" not in data:
        raise SpecError(
            f"{place}expected a JSON object with a kind, a list of layers, or layers in PyTorch's notation."
        )
    return ARCHITECTURES.build(str(data.pop("kind")), data | given)


def parse_code(text: str, shape: str = "", num_classes: int | None = None) -> OwnCode:
    """``net.py:Net`` or ``net.py:Net(width=64)``: the file is read, and nothing of it is run. Raises SpecError."""
    from auditor.models.own_code import KIND, LONGEST_SOURCE, OwnCode

    name, colon, network = text.partition(".py:")
    if not colon:
        raise SpecError(f"code: expected a Python file and a class in it, such as net.py:Net, got {text!r}.")
    file = Path(f"{name}.py")
    with opened(file) as stream:
        content = stream.read(4 * LONGEST_SOURCE)
    try:
        values = {"kind": KIND, "file": file.name, "source": content.decode(), "network": network}
        return OwnCode.model_validate({**values, **parse_input_shape(shape), "num_classes": num_classes or 0})
    except UnicodeDecodeError:
        raise SpecError(f"{file} is not text in UTF-8.", "Save it in UTF-8.") from None
    except ValidationError as error:
        raise SpecError.from_validation("code", error) from None


def parse_preprocessing(
    text: str, channel_order: str, value_range: str, before: Normalization | None = None
) -> Normalization | None:
    """What was given of a normalization; None where nothing was. ``before``: what the rest is of. Raises SpecError."""
    from auditor.models.classifier import NORMALIZATIONS, Normalization, parse_normalization

    if not (text or channel_order or value_range):
        return None
    base = (before or NORMALIZATIONS["none"]).model_dump()
    if text:
        named = parse_normalization(text)
        base |= {name: getattr(named, name) for name in ("mean", "std")}
    given = {"channel_order": channel_order, "value_range": value_range}
    try:
        return Normalization(**base | {name: value for name, value in given.items() if value})
    except ValueError as error:
        raise SpecError.from_validation("normalization", error) from None  # type: ignore[arg-type]


def parse_input_shape(text: str) -> dict[str, int]:
    """``1x28x28`` as channels, height and width; empty for no text. Raises SpecError."""
    if not text:
        return {}
    parts = text.lower().replace("\u00d7", "x").replace(",", "x").replace(" ", "").split("x")
    if len(parts) != 3 or not all(part.isdecimal() and len(part) < 6 for part in parts):
        raise SpecError(f"input: expected channels x height x width, such as 1x28x28, got {text!r}.")
    return dict(zip(_SIDES, map(int, parts), strict=True))


def parse_size(size: str) -> tuple[int, int] | None:
    """Height and width, from ``224x224``, or 224 for a square; None for no text. Raises SpecError."""
    if not size.strip():
        return None
    found = re.fullmatch(r"([1-9]\d{0,4})(?:\s*[x\u00d7]\s*([1-9]\d{0,4}))?", size.strip().lower())
    if found is None:
        raise SpecError(f"size: expected height x width, such as 224x224, got {size!r}.")
    return int(found[1]), int(found[2] or found[1])


def opened(file: Path) -> Any:
    try:
        return file.open("rb")
    except OSError as error:
        raise SpecError(f"{file} cannot be read: {error.strerror}.") from None
