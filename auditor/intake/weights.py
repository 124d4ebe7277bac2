"""take_model: an uploaded weights file becomes our own safetensors file, or one sentence on why not."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from auditor.architecture import Architecture
from auditor.errors import IntakeError
from auditor.intake.checkpoints import LEGACY_MAGIC, Checkpoint, Format, load_legacy, load_zip
from auditor.intake.limits import Limits
from auditor.intake.magic import EMPTY_ZIP, ZIP, is_pickle, is_safetensors, kind_of, read_head
from auditor.intake.matching import EmbeddedNormalization, match
from auditor.intake.pickles import RECIPE, Scanner
from auditor.intake.safe import load_safetensors
from auditor.intake.upload import replacing, sha256_of
from auditor.intake.wording import shown, source_name

_SUFFIXES: dict[str, Format] = {".safetensors": "safetensors"}
_CHUNK_ELEMENTS = 4_000_000
"""Elements that are checked and written at a time, so that memory does not grow with the tensor."""


class ModelManifest(BaseModel):
    """What was accepted: the stored file, and what the upload was like. Sizes in bytes, hashes in hex."""

    model_config = ConfigDict(frozen=True)

    sha256: str = Field(description="SHA-256 of the stored safetensors file.")
    size: int = Field(description="Bytes of the stored file.")
    parameters: int = Field(description="Trainable numbers of the network (buffers are not counted).")
    tensors: int = Field(description="Tensors of the stored file, buffers included.")
    format: Format = Field(description="Format of the upload.")
    wrapper: str | None = Field(description="Key of the upload's dictionary that held the weights, if any.")
    prefix: str = Field(description="What was taken off the front of every name.")
    source_sha256: str = Field(description="SHA-256 of the upload.")
    source_name: str = Field(description="What the uploader called the file.")
    notes: tuple[str, ...] = Field(description="What the user should know about how the file was read.")
    embedded_normalization: EmbeddedNormalization | None = Field(description="A normalisation found in the file.")


def take_model(
    source: Path, filename: str, architecture: Architecture, destination: Path, *, limits: Limits | None = None
) -> ModelManifest:
    """Read uploaded weights and store them at ``destination`` as safetensors with the architecture's names, float32.

    ``filename`` is only shown. The same weights give the same stored bytes, whatever the upload's format. Raises
    IntakeError, and leaves nothing behind; SpecError when the architecture itself cannot be built.
    """
    limits = limits or Limits()
    name = source_name(filename)
    with torch.device("meta"):
        network = architecture.build()
    expected = network.state_dict()
    checkpoint = _load(source, name, limits)
    matched = match(checkpoint.tensors, expected, architecture, name)
    notes = [*checkpoint.notes, *matched.notes]
    if (Path(name).suffix.lower() == ".safetensors") != (checkpoint.format == "safetensors"):
        notes.append(f"The file is called {shown(name)}, and it is a {checkpoint.format} file.")
    if converted := _conversions(matched.tensors, expected):
        notes.append(f"Converted to float32 from {converted}.")
    with replacing(destination) as temporary:
        with temporary.open("wb") as file:
            _write(file, matched.tensors, expected, name)
        return ModelManifest(
            sha256=sha256_of(temporary),
            size=temporary.stat().st_size,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            tensors=len(expected),
            format=checkpoint.format,
            wrapper=checkpoint.wrapper,
            prefix=matched.prefix,
            source_sha256=sha256_of(source),
            source_name=name,
            notes=tuple(notes),
            embedded_normalization=matched.normalization,
        )


def load_weights(network: nn.Module, path: Path) -> None:
    """Put stored weights into a network that the architecture built, in place; it may be on the meta device.

    Raises IntakeError when the file is not the weights of this network.
    """
    from safetensors.torch import load_file

    on_meta = any(tensor.is_meta for tensor in network.state_dict().values())
    try:
        network.load_state_dict(load_file(path, device="cpu"), strict=True, assign=on_meta)
    except Exception as error:
        raise IntakeError(
            f"{shown(path.name)} does not hold the weights of this network ({type(error).__name__}).",
            "Add the model anew.",
        ) from None


def _load(source: Path, name: str, limits: Limits) -> Checkpoint:
    head = read_head(source, name, limits)
    if head.startswith((ZIP, EMPTY_ZIP)):
        return load_zip(source, name, limits)
    if head.startswith(LEGACY_MAGIC):
        return load_legacy(source, name, limits)
    if is_safetensors(head):
        return load_safetensors(source, name, limits)
    if is_pickle(head):
        with source.open("rb") as file:
            Scanner(name).read(io.BytesIO(file.read(limits.pickle_bytes)))  # names the objects that it holds
    raise IntakeError(
        f"{shown(name)} is not a weights file but {kind_of(head)}; expected safetensors or a file written by torch.save.",
        RECIPE,
    )


def _conversions(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """``float16 (12 tensors)`` for every type that is not stored as it came."""
    counts: dict[str, int] = {}
    for key, tensor in tensors.items():
        if expected[key].is_floating_point() and tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            counts[kind] = counts.get(kind, 0) + 1
    return ", ".join(f"{kind} ({count:,} tensor{'s' * (count != 1)})" for kind, count in sorted(counts.items()))


def _write(file: BinaryIO, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str) -> None:
    """Write the safetensors format, tensor by tensor in pieces: eight-byte integers first, so that all are aligned."""
    order = sorted(expected, key=lambda key: (expected[key].is_floating_point(), key))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for key in order:
        kind, element = ("F32", 4) if expected[key].is_floating_point() else ("I64", 8)
        end = offset + expected[key].numel() * element
        header[key] = {"dtype": kind, "shape": list(expected[key].shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for key in order:
        if key not in tensors:  # a counter of batches, which evaluation does not read
            file.write(bytes(expected[key].numel() * 8))
            continue
        flat = tensors[key].detach().reshape(-1)
        for start in range(0, flat.numel(), _CHUNK_ELEMENTS):
            part = flat[start : start + _CHUNK_ELEMENTS]
            file.write(_finite(part, start, key, name) if expected[key].is_floating_point() else _integers(part))


def _finite(part: Tensor, start: int, key: str, name: str) -> bytes:
    stored = part.to(torch.float32).contiguous()
    good = torch.isfinite(stored)
    if not bool(good.all()):
        bad = part[~good]
        what = "NaN or infinite values" if not bool(torch.isfinite(bad).all()) else "values too large for float32"
        first = start + int((~good).nonzero()[0])
        raise IntakeError(
            f"The tensor {shown(key)} of {shown(name)} has {what} (the first at position {first:,}).",
            "The training diverged or the file is damaged; upload an earlier checkpoint.",
        )
    return stored.numpy().astype("<f4", copy=False).tobytes()


def _integers(part: Tensor) -> bytes:
    return part.to(torch.int64).contiguous().numpy().astype("<i8", copy=False).tobytes()
