"""ONNX among the formats whose files say their own architecture."""

from __future__ import annotations

from pathlib import Path

from auditor.data.intake.asked import NOTHING_ASKED, Asked
from auditor.data.intake.checkpoints import Checkpoint
from auditor.data.intake.found import FoundModel, ModelReader
from auditor.data.intake.magic import kind_of
from auditor.data.intake.onnx.convert import convert
from auditor.kit.limits import Limits

_SUFFIX = ".onnx"
_VERSIONS = range(3, 100)
"""The first field of a file, its format's version: 3 belongs to 2017, 13 to 2025."""

_SECOND_FIELDS = (b"\x12", b"\x3a", b"\x42")
"""How the next field begins: the producer, the graph, the operator sets."""


def recognizes(source: Path, name: str, head: bytes) -> bool:
    """Whether the bytes begin as an ONNX file, or it is called one and is nothing else that has a name."""
    begins = head[:1] == b"\x08" and len(head) > 2 and head[1] in _VERSIONS and head[2:3] in _SECOND_FIELDS
    return begins or (Path(name).suffix.lower() == _SUFFIX and kind_of(head) == "of an unknown format")


def read(source: Path, name: str, limits: Limits, asked: Asked = NOTHING_ASKED) -> FoundModel:
    """The network of an ONNX file. Raises IntakeError; ServiceError without the onnx package."""
    converted = convert(source, name, limits=limits, size=asked.size, output=asked.output or None)
    return FoundModel(converted.architecture, Checkpoint(converted.tensors, "ONNX"), notes=converted.notes)


ONNX = ModelReader((_SUFFIX[1:],), recognizes, read, open_size=True)
