"""inspect: what a file of a model holds, in one sentence, and the architectures that it may be of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from auditor.data.intake.asked import NOTHING_ASKED, Asked
from auditor.data.intake.checkpoints import Checkpoint, WeightsFormat
from auditor.data.intake.drafting import draft
from auditor.data.intake.loading import load
from auditor.data.intake.matching import match, network_tensors
from auditor.data.intake.proposals import Proposal, proposals
from auditor.data.intake.signatures import shapes_of
from auditor.data.intake.solving import from_data
from auditor.kit.errors import AuditorError, IntakeError
from auditor.kit.limits import Limits
from auditor.kit.wording import counted, printable, shape_text, shown, source_name
from auditor.models.architecture import Architecture

_ENDS = 3
"""Tensors at each end of the file that are shown where no architecture fits."""


class TensorHead(BaseModel):
    """A tensor of a file, as it is listed."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="Name in the file.")
    shape: str = Field(description="Sizes, such as 64x3x7x7.")


class Inspection(BaseModel):
    """What a file of a model holds."""

    model_config = ConfigDict(frozen=True)

    format: WeightsFormat | None = Field(
        description="Format of the file; None where a set of weights has to be chosen first."
    )
    sets: tuple[str, ...] = Field((), description="Names of the sets of weights, where the file has several.")
    tensors: int = Field(0, description="Tensors of the set of weights, without counters.")
    parameters: int = Field(0, description="Numbers in these tensors.")
    what: str = Field(description="What the file is, in one sentence.")
    says_itself: bool = Field(False, description="Whether the file says its own architecture.")
    proposals: tuple[Proposal, ...] = Field((), description="Architectures that fit, the most likely first.")
    draft: Proposal | None = Field(None, description="Where none fits: layers whose order and pools are guessed.")
    first: tuple[TensorHead, ...] = Field((), description="Where none fits: the first tensors.")
    last: tuple[TensorHead, ...] = Field((), description="Where none fits: the last tensors.")
    notes: tuple[str, ...] = Field((), description="How the file was read.")


def inspect(
    source: Path, filename: str, *, choice: str = "", limits: Limits | None = None, asked: Asked = NOTHING_ASKED
) -> Inspection:
    """What a file holds, from names and shapes of its tensors alone; nothing is stored, and nothing of it is run.

    ``filename`` is only shown. ``choice`` (the set of weights) and ``asked``: as for take_model. Raises IntakeError for a file
    that holds no weights.
    """
    name = source_name(filename)
    try:
        found = load(source, name, limits or Limits(), choice, asked)
    except IntakeError as error:
        if error.choices and not choice:
            names = ", ".join(error.choices)
            return Inspection(
                format=None, sets=error.choices, what=f"{shown(name)} holds several sets of weights: {names}."
            )
        raise
    if not isinstance(found, Checkpoint):
        architecture, checkpoint = found.architecture, found.checkpoint
        size = _size(checkpoint.tensors)
        return _inspection(
            checkpoint, what=f"{_sentence(architecture, size)} The file says so itself.", says_itself=True
        )
    if fitting := proposals(found, name):
        likeliest = from_data(fitting[0].architecture)
        return _inspection(found, what=_sentence(likeliest, _size(found.tensors)), proposals=fitting)
    heads = [TensorHead(name=printable(key), shape=shape_text(tensor.shape)) for key, tensor in found.tensors.items()]
    what = f"No architecture of the catalogue that was tried fits: {counted(len(heads), 'tensor')}, {_size(found.tensors)}."
    drafted = _drafted(found, name)
    if drafted is None:
        what += (
            " Not every network of timm and torchvision was tried: if you know its name, give it, as in `--architecture "
            "timm:model=resnet10t` on the command line, 'Architecture' on the page."
        )
    return _inspection(found, what=what, draft=drafted, first=tuple(heads[:_ENDS]), last=tuple(heads[_ENDS:][-_ENDS:]))


def _inspection(checkpoint: Checkpoint, **values: object) -> Inspection:
    tensors = network_tensors(checkpoint.tensors)
    return Inspection.model_validate(
        {
            "format": checkpoint.format,
            "tensors": len(tensors),
            "parameters": sum(tensor.numel() for tensor in tensors.values()),
            "notes": checkpoint.notes,
            **values,
        }
    )


def _drafted(checkpoint: Checkpoint, name: str) -> Proposal | None:
    """Layers in PyTorch's notation that have a place for every tensor."""
    ordered = checkpoint.format != "safetensors"
    shapes = {key: tuple(tensor.shape) for key, tensor in network_tensors(checkpoint.tensors).items()}
    if (drafted := draft(shapes, ordered=ordered)) is None:
        return None
    architecture, text = drafted
    try:
        match(checkpoint.tensors, shapes_of(architecture)[0], architecture, name, ordered=ordered, advise=False)
    except AuditorError:
        return None
    options = f" --input {shape_text(architecture.input_shape)} --num-classes {architecture.num_classes}"
    return Proposal(
        architecture=architecture.model_dump(mode="json"),
        text=text,
        options=options.strip(),
        note="This is a draft: activations, paddings, pools and the image size are guesses that give these shapes. Check each "
        "against the code that trained the network.",
    )


def _size(tensors: Mapping[str, Tensor]) -> str:
    """``11.2 million parameters``."""
    count = sum(tensor.numel() for tensor in network_tensors(tensors).values())
    return f"{count / 1e6:,.1f} million parameters" if count >= 1e6 else counted(count, "parameter")


def _sentence(architecture: Architecture, size: str) -> str:
    """``resnet18 of torchvision, stem 3x3, 10 classes, 3x32x32 images, 11.2 million parameters.``"""
    values = architecture.settings()
    title = architecture.display_title()
    parts: list[str] = []
    if isinstance(model := values.get("model"), str):
        title = f"{model} of {title.removeprefix('Hugging Face ')}"
    fields = type(architecture).model_fields
    frame: Sequence[str] = ("num_classes", "channels", "height", "width", "model")
    for name, value in values.items():
        plain = isinstance(value, str | int | float)
        if name not in frame and plain and (value != fields[name].get_default() or name in ("depth", "widen_factor")):
            words = name.replace("_", " ")
            parts.append(words if value is True else f"no {words}" if value is False else f"{words} {value}")
    images = f"images of {shape_text(architecture.input_shape)}"
    return f"{', '.join([title, *parts, counted(architecture.num_classes, 'class'), images, size])}."
