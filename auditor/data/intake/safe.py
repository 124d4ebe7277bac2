"""A safetensors file to plain tensors. The format cannot hold code; its parser lets two faults pass, which we refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from auditor.data.intake.checkpoints import Checkpoint
from auditor.kit.errors import IntakeError
from auditor.kit.limits import Limits
from auditor.kit.wording import AGAIN, shown, size_text

_LENGTH_BYTES = 8


def load_safetensors(source: Path, name: str, limits: Limits) -> Checkpoint:
    """The tensors of a safetensors file, mapped, not yet copied. Raises IntakeError.

    Beyond what the parser checks (offsets, overlaps, holes, types, length) a name that appears twice is refused: which
    of the two a reader gets is chance.
    """
    header = _read_header(source, name, limits)
    if len(header) > limits.tensors:
        raise IntakeError(f"{shown(name)} has {len(header):,} tensors, the limit is {limits.tensors:,}.")
    from safetensors.torch import load_file

    try:
        tensors = load_file(source, device="cpu")
    except Exception:
        raise _damaged(name, "its tensors do not fill the bytes that are there, or overlap") from None
    if not tensors:
        raise IntakeError(f"{shown(name)} holds no tensors.", "Save the model's state dict and upload that.")
    return Checkpoint(tensors, "safetensors")


def _read_header(source: Path, name: str, limits: Limits) -> dict[str, object]:
    size = source.stat().st_size
    with source.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if length > size - _LENGTH_BYTES:
            raise _damaged(name, f"its header should have {length:,} bytes, the whole file has {size:,}")
        if length > limits.header_bytes:
            raise _damaged(name, f"its header has {size_text(length)}, the limit is {size_text(limits.header_bytes)}")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except IntakeError as error:
        raise _damaged(name, error.message) from None
    except (ValueError, RecursionError):
        raise _damaged(name, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _damaged(name, "its header is not a JSON object")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, object]:
    items = dict(pairs)
    if len(items) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise IntakeError(f"the name {shown(twice)} appears twice in its header")
    return items


def _damaged(name: str, what: str) -> IntakeError:
    return IntakeError(f"The safetensors file {shown(name)} is damaged: {what}.", AGAIN)
