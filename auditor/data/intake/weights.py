"""take_model: an uploaded weights file becomes our own safetensors file, or one sentence on why not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from auditor.data.intake.asked import NOTHING_ASKED, Asked
from auditor.data.intake.checkpoints import Checkpoint, WeightsFormat
from auditor.data.intake.found import FoundModel
from auditor.data.intake.image_size import ImageSize
from auditor.data.intake.loading import load
from auditor.data.intake.matching import EmbeddedNormalization, Match, match
from auditor.data.intake.proposals import only_proposal
from auditor.data.intake.upload import replacing, sha256_of
from auditor.kit.errors import EvaluationError, IntakeError
from auditor.kit.limits import Limits
from auditor.kit.wording import shown, source_name
from auditor.models.architecture import Architecture
from auditor.models.classifier import Normalization
from auditor.models.outputs import logits_of

_CHUNK_ELEMENTS = 4_000_000
"""Elements that are checked and written at a time, so memory does not grow with the tensor."""


class ModelManifest(BaseModel):
    """What was accepted: the stored file, and what the upload was like. Sizes in bytes, hashes in hex."""

    model_config = ConfigDict(frozen=True)

    sha256: str = Field(description="SHA-256 of the stored safetensors file.")
    size: int = Field(description="Bytes of the stored file.")
    parameters: int = Field(description="Trainable numbers of the network (buffers are not counted).")
    tensors: int = Field(description="Tensors of the stored file, buffers included.")
    format: WeightsFormat = Field(description="Format of the upload.")
    wrapper: str | None = Field(description="Key of the upload's dictionary that held the weights, if any.")
    prefix: str = Field(description="What was taken off the front of every name.")
    source_sha256: str = Field(description="SHA-256 of the upload.")
    source_name: str = Field(description="What the uploader called the file.")
    notes: tuple[str, ...] = Field(description="What the user should know about how the file was read.")
    embedded_normalization: EmbeddedNormalization | None = Field(description="A normalization found in the file.")
    architecture: dict[str, Any] | None = Field(None, description="The architecture that the stored tensors are of.")
    normalization: Normalization | None = Field(None, description="What the file says that the network expects.")
    class_names: tuple[str, ...] | None = Field(None, description="What the file calls the classes.")
    image_size: ImageSize | None = Field(None, description="The size that the file wants images brought to.")
    output: str = Field("", description="Which output of the network holds the logits, where it returns several.")
    mapping: dict[str, str] = Field(
        {},
        description="Where names did not fit: the stored name of each tensor of the file, matched by order and shape.",
    )
    other: dict[str, str] = Field(
        {}, description="Where the shapes fit in a second way: stored name -> the one whose tensor it would then get."
    )


def take_model(
    source: Path,
    filename: str,
    architecture: Architecture | None,
    destination: Path,
    *,
    choice: str = "",
    limits: Limits | None = None,
    second: bool = False,
    advise: bool = True,
    asked: Asked = NOTHING_ASKED,
) -> ModelManifest:
    """Read uploaded weights and store them at ``destination`` as safetensors with the architecture's names, float32.

    ``filename`` is only shown. ``architecture``: None for that which the file itself says, or the only one that its names and
    shapes fit. ``choice``: which set of weights is meant, by the keys that lead to it, such as ``teacher`` or
    ``model.state_dict``; needed only where the file has several. ``asked``: what an ONNX file leaves open. ``second``: where
    names do not fit and shapes fit in two ways, the less likely (``ModelManifest.other``). ``advise``: see ``match``. The same
    weights give the same stored bytes, whatever the upload's format. Raises IntakeError, and leaves nothing behind; SpecError
    when the architecture itself cannot be built.
    """
    limits = limits or Limits()
    name = source_name(filename)
    found = load(source, name, limits, choice, asked)
    if isinstance(found, Checkpoint):
        checkpoint, said = found, None
    else:
        checkpoint, said = found.checkpoint, found
    notes = list(checkpoint.notes)
    if said is not None:
        notes.extend(said.notes)
        if architecture is None:
            architecture = said.architecture
    if architecture is None:
        architecture, note = only_proposal(checkpoint, name)
        notes.append(note)
    with torch.device("meta"):
        network = architecture.build()
    output = asked.output if said is None else said.output
    if output:
        check_output(architecture, output, name)
    expected = network.state_dict()
    ordered = checkpoint.format != "safetensors"
    matched = match(checkpoint.tensors, network, architecture, name, ordered=ordered, second=second, advise=advise)
    notes.extend(matched.notes)
    if (Path(name).suffix.lower() == ".safetensors") != (checkpoint.format == "safetensors"):
        notes.append(f"The file is called {shown(name)}, and it is a {checkpoint.format} file.")
    if converted := _conversions(matched.tensors, expected):
        notes.append(f"Converted to float32 from {converted}.")
    with replacing(destination) as temporary:
        digest = hashlib.sha256()
        with temporary.open("wb") as file:
            for piece in _pieces(matched.tensors, expected, name):
                digest.update(piece)
                file.write(piece)
        return ModelManifest(
            sha256=digest.hexdigest(),
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
            architecture=architecture.model_dump(mode="json"),
            normalization=_normalization(said, matched, architecture),
            class_names=said.class_names if said is not None else None,
            output=output,
            image_size=said.size if said is not None else None,
            mapping=matched.mapping,
            other=matched.other,
        )


def check_output(architecture: Architecture, output: str, name: str) -> None:
    """Whether the network returns an output of this name or number, in the shape of logits; ``name`` is the file's. Raises
    IntakeError; a network that cannot be asked on the meta device is vetted later."""
    try:
        with torch.device("meta"), torch.no_grad():
            came = architecture.build().eval()(torch.empty(2, *architecture.input_shape))
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return
    try:
        logits_of(came, architecture.num_classes, output)
    except EvaluationError as error:
        raise IntakeError(f"{shown(name)}: {error.message}", error.hint) from None


def load_weights(network: nn.Module, path: Path) -> None:
    """Put stored weights into a network that the architecture built, in place; it may be on the meta device.

    Raises IntakeError when the file is not the weights of this network.
    """
    from safetensors.torch import load_file

    on_meta = any(tensor.is_meta for tensor in network.state_dict().values())
    try:
        network.load_state_dict(load_file(path, device="cpu"), strict=True, assign=on_meta)
    except Exception:
        raise IntakeError(
            f"{shown(path.name)} is missing, damaged or does not hold the weights of this network.",
            "Add the model anew.",
        ) from None


def _normalization(said: FoundModel | None, matched: Match, architecture: Architecture) -> Normalization | None:
    """What the file says of it, or has among its tensors, as far as it fits the channels."""
    if said is not None and said.normalization is not None:
        return said.normalization
    embedded = matched.normalization
    if embedded is None or len(embedded.mean) not in (1, architecture.channels):
        return None
    return Normalization(mean=embedded.mean, std=embedded.std)


def _conversions(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """``float16 (12 tensors)`` for every type that is not stored as it came."""
    counts: dict[str, int] = {}
    for key, tensor in tensors.items():
        if expected[key].is_floating_point() and tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            counts[kind] = counts.get(kind, 0) + 1
    return ", ".join(f"{kind} ({count:,} tensor{'s' * (count != 1)})" for kind, count in sorted(counts.items()))


def _pieces(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str) -> Iterator[bytes | memoryview]:
    """A file in the safetensors format, tensor by tensor in pieces: eight-byte integers first, so all are aligned."""
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
    yield len(text).to_bytes(8, "little") + text
    for key in order:
        if key not in tensors:  # a counter of batches, which evaluation does not read
            yield bytes(expected[key].numel() * 8)
            continue
        flat = tensors[key].detach().reshape(-1)
        for start in range(0, flat.numel(), _CHUNK_ELEMENTS):
            part = flat[start : start + _CHUNK_ELEMENTS]
            yield _finite(part, start, key, name) if expected[key].is_floating_point() else _integers(part)


def _finite(part: Tensor, start: int, key: str, name: str) -> memoryview:
    stored = part.to(torch.float32).contiguous()
    if not all_finite(stored):
        good = torch.isfinite(stored)
        bad = part[~good]
        what = "NaN or infinite values" if not bool(torch.isfinite(bad).all()) else "values too large for float32"
        first = start + int((~good).nonzero()[0])
        raise IntakeError(
            f"The tensor {shown(key)} of {shown(name)} has {what} (the first at position {first:,}).",
            "The training diverged or the file is damaged; upload an earlier checkpoint.",
        )
    return stored.numpy().astype("<f4", copy=False).data


def all_finite(values: Tensor) -> bool:
    """Whether no value (N,), N > 0, is NaN or infinite, mostly in one pass: the sum with such a value is not finite either.

    Finite values may add up to more than their type holds; then the smallest and the largest value decide.
    """
    return bool(values.sum().isfinite()) or all(bool(end.isfinite()) for end in torch.aminmax(values))


def _integers(part: Tensor) -> bytes:
    return part.to(torch.int64).contiguous().numpy().astype("<i8", copy=False).tobytes()
