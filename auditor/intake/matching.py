"""Uploaded tensors against a declared architecture: names, shapes and types are compared before anything is copied."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from auditor.architecture import Architecture
from auditor.errors import IntakeError
from auditor.intake.wording import counted, listed, printable, shape_text, shown

PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "1.")
"""What DataParallel, wrapper classes, torch.compile and Sequential(normalisation, network) put before every name."""

_NORMALIZATION = re.compile(
    r"((?:module|model|net|_orig_mod)\.)*((normali[sz](e|er|ation)(_layer)?|norm|0)\.)?"
    r"(?P<sort>mu|mean|means|sigma|std|stds|sds)"
)
_MEANS = frozenset({"mu", "mean", "means"})
_MAX_CHANNELS = 16
"""Values of a normalisation: no architecture takes images with more channels."""

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_COUNTER = "num_batches_tracked"
_PROFILED = ("total_ops", "total_params")
_AVERAGED = "n_averaged"
"""torch.optim.swa_utils counts its averages under this name, beside the weights."""


class EmbeddedNormalization(BaseModel):
    """A normalisation found among the weights: evidence of what the network expects, in its own channel order."""

    model_config = ConfigDict(frozen=True)

    mean: tuple[float, ...] = Field(description="Mean of each channel.")
    std: tuple[float, ...] = Field(description="Standard deviation of each channel.")


class Match(NamedTuple):
    """Tensors by the architecture's names (those missing there are absent), and what was done to get them."""

    tensors: dict[str, Tensor]
    prefix: str
    notes: tuple[str, ...]
    normalization: EmbeddedNormalization | None


def match(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], architecture: Architecture, name: str) -> Match:
    """Give every tensor of a file its place in the architecture; ``expected`` is its state dict, on the meta device.

    Only shapes and types are looked at. Raises IntakeError that says what differs.
    """
    tensors = {key: tensor for key, tensor in found.items() if key != _AVERAGED or key in expected}
    tensors, prefix, values = _strip(tensors, expected)
    tensors, further, left = _with_any_prefix(tensors, expected)
    prefix += further
    whose = "the names below it" if left else "every name"
    notes = [f"The prefix '{printable(prefix)}' was taken off {whose}."] if prefix else []
    if left:
        notes.append(f"Left out, since the architecture has no place for them: {listed([shown(key) for key in left])}.")
    normalization = _normalization(values)
    if normalization is not None:
        mean, std = (" ".join(f"{value:.4g}" for value in part) for part in (normalization.mean, normalization.std))
        notes.append(f"The file carries a normalisation: mean {mean}, std {std}; it is not part of the network.")
    elif values:
        notes.append(f"Ignored, since they look like parts of a normalisation: {listed(sorted(values))}.")
    if "1." in prefix and normalization is None:
        notes.append(
            "The network was the second part of a Sequential; the first, probably its normalisation, is not in the file."
        )
    counters = [key for key in tensors if key not in expected and key.rpartition(".")[2] == _COUNTER]
    if counters:
        notes.append(f"{counted(len(counters), 'unused counter')} ({_COUNTER}) ignored.")
    tensors = {key: tensor for key, tensor in tensors.items() if key not in counters}
    absent = [key for key in expected if key not in tensors and key.rpartition(".")[2] == _COUNTER]
    if absent:
        notes.append(
            f"{counted(len(absent), 'counter')} ({_COUNTER}) not in the file, set to 0: evaluation ignores it."
        )
    _check_layout(tensors, name)
    _check_fit(tensors, {key: value for key, value in expected.items() if key not in absent}, architecture, name)
    return Match(tensors, prefix, tuple(notes), normalization)


def _strip(
    tensors: dict[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], str, dict[str, Tensor]]:
    """Take off the prefixes that every name has, and set a normalisation aside: (tensors, prefix, normalisation).

    Only where every name has it: ``backbone.module.x`` is a name, not a prefix.
    """
    prefix = ""
    values = {
        key: tensor
        for key, tensor in tensors.items()
        if key not in expected and _NORMALIZATION.fullmatch(key) and tensor.numel() <= _MAX_CHANNELS
    }
    rest = {key: tensor for key, tensor in tensors.items() if key not in values}
    if not rest:
        return tensors, "", {}
    while True:
        for candidate in PREFIXES:
            if all(key.startswith(candidate) for key in rest) and not all(k.startswith(candidate) for k in expected):
                rest = {key.removeprefix(candidate): tensor for key, tensor in rest.items()}
                prefix += candidate
                break
        else:
            return rest, prefix, values


def _with_any_prefix(
    tensors: dict[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], str, list[str]]:
    """Where some prefix, whatever it is, makes the names fit: (tensors, prefix, names without it, which are left out).

    What profilers count (``total_ops``, ``total_params``) is left out as well.
    """
    counted_by_profilers = [key for key in tensors if key not in expected and key.rpartition(".")[2] in _PROFILED]
    tensors = {key: value for key, value in tensors.items() if key not in counted_by_profilers}
    wanted = {key for key in expected if key.rpartition(".")[2] != _COUNTER}
    if wanted <= tensors.keys():
        return tensors, "", counted_by_profilers
    first = min(wanted, default="")
    for key in tensors:
        prefix = key.removesuffix(first)
        if key.endswith(first) and prefix.endswith(".") and all(f"{prefix}{name}" in tensors for name in wanted):
            inside = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            left = [name for name in tensors if not name.startswith(prefix)]
            return inside, prefix, [*left, *counted_by_profilers]
    return tensors, "", counted_by_profilers


def _normalization(values: Mapping[str, Tensor]) -> EmbeddedNormalization | None:
    """Mean and deviation, when there is exactly one of each, of equal length and meaningful."""
    mean: list[list[float]] = []
    std: list[list[float]] = []
    for key, tensor in values.items():
        if tensor.dtype not in _FLOATS or tensor.layout != torch.strided or tensor.is_quantized:
            return None
        sort = _NORMALIZATION.fullmatch(key)
        (mean if sort and sort["sort"] in _MEANS else std).append(tensor.double().flatten().tolist())
    if len(mean) != 1 or len(std) != 1 or len(mean[0]) != len(std[0]) or not mean[0]:
        return None
    if not all(abs(value) < 1e6 for value in mean[0]) or not all(0 < value < 1e6 for value in std[0]):
        return None
    return EmbeddedNormalization(mean=tuple(mean[0]), std=tuple(std[0]))


def _check_layout(tensors: Mapping[str, Tensor], name: str) -> None:
    for key, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise IntakeError(
                f"The tensor {shown(key)} of {shown(name)} is sparse, quantised or without values; "
                "expected a dense floating point tensor.",
                "Convert the model to ordinary float32 weights.",
            )


def _check_fit(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], architecture: Architecture, name: str
) -> None:
    missing = [key for key in expected if key not in tensors]
    unexpected = [key for key in tensors if key not in expected]
    differing = [key for key in expected if key in tensors and tensors[key].shape != expected[key].shape]
    if missing or unexpected or differing:
        faults = [
            f"{len(keys):,} {what} ({listed([shown(key) for key in keys])})"
            for keys, what in ((missing, "missing"), (unexpected, "unexpected"))
            if keys
        ]
        if differing:
            shapes = [
                f"{shown(key)} is {shape_text(tensors[key].shape)}, expected {shape_text(expected[key].shape)}"
                for key in differing
            ]
            faults.append(f"{len(differing):,} of another shape ({listed(shapes)})")
        reason = "" if missing or unexpected else _reason(differing, tensors, expected, architecture)
        raise IntakeError(
            f"The weights in {shown(name)} do not fit the architecture {architecture.kind}: "
            + (f"{reason}; " if reason else "")
            + f"tensors: {', '.join(faults)}.",
            f"Declare what the file was trained with{_as_options(differing, tensors, expected, architecture)}."
            if reason
            else "Choose the architecture that the file is of.",
        )
    for key, tensor in tensors.items():
        allowed = _FLOATS if expected[key].is_floating_point() else _INTEGERS
        if tensor.dtype not in allowed:
            raise IntakeError(
                f"The tensor {shown(key)} of {shown(name)} has the type {_dtype(tensor)}, expected "
                f"{'float32, float16, bfloat16 or float64' if allowed is _FLOATS else 'an integer'}.",
                "Convert the model to ordinary float32 weights.",
            )


def _reason(
    differing: Sequence[str],
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    architecture: Architecture,
) -> str:
    """What explains every shape that differs: the number of classes, the input channels, the image size; or ""."""
    classes: set[int] = set()
    channels: set[int] = set()
    inputs: set[str] = set()
    for key in differing:
        came, wanted = tuple(tensors[key].shape), tuple(expected[key].shape)
        if len(came) != len(wanted):
            return ""
        places = [i for i, (a, b) in enumerate(zip(came, wanted, strict=True)) if a != b]
        if places == [0] and wanted[0] == architecture.num_classes:
            classes.add(came[0])
        elif places == [1] and wanted[1] == architecture.channels and len(wanted) == 4:
            channels.add(came[1])
        elif places == [1] and len(wanted) == 2:
            inputs.add(f"{shown(key)} takes {came[1]:,} inputs and your image size gives {wanted[1]:,}")
        else:
            return ""
    if max(len(classes), len(channels), len(inputs)) > 1:
        return ""
    reasons = [f"the file has {count:,} classes, you declared {architecture.num_classes:,}" for count in classes]
    reasons += [f"the file takes {counted(n, 'channel')}, you declared {architecture.channels}" for n in channels]
    return "; ".join([*reasons, *inputs])


def _as_options(
    differing: Sequence[str], tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], architecture: Architecture
) -> str:
    """What ``_reason`` found, as the command line has it: `` (--num-classes 100 --input 1x28x28)``; empty for an image size."""
    options = {}
    for key in differing:
        came, wanted = tensors[key].shape, expected[key].shape
        if came[0] != wanted[0]:
            options["--num-classes"] = str(came[0])
        elif len(wanted) == 4:
            options["--input"] = f"{came[1]}x{architecture.height}x{architecture.width}"
        else:
            return ": another height and width (on the command line --input CxHxW)"
    return f" (on the command line: {' '.join(f'{name} {value}' for name, value in options.items())})"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
