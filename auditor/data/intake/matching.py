"""Uploaded tensors against a declared architecture: names, shapes and types are compared before anything is copied."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from auditor.data.intake.alternatives import alternative
from auditor.data.intake.fitting import fit, without_leftovers
from auditor.data.intake.parametrizations import resolve
from auditor.data.intake.shapes import COUNTER, Declared, declared
from auditor.kit.errors import IntakeError
from auditor.kit.wording import counted, listed, printable, shape_text, shown
from auditor.models.architecture import Architecture
from auditor.models.outputs import ONE_LOGIT

PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "1.")
"""What DataParallel, wrapper classes, torch.compile and Sequential(normalization, network) put before every name."""

_NORMALIZATION = re.compile(
    r"((?:module|model|net|attacker|_orig_mod)\.)*((normali[sz](e|er|ation)(_layer)?|norm|0)\.)?"
    r"(new_)?(?P<sort>mu|mean|means|sigma|std|stds|sds)"
)
_MEANS = frozenset({"mu", "mean", "means"})
_MAX_CHANNELS = 16
"""Values of a normalization: no architecture takes images with more channels."""

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_PROFILED = ("total_ops", "total_params")
_AVERAGED = "n_averaged"
"""torch.optim.swa_utils counts its averages under this name, beside the weights."""


class EmbeddedNormalization(BaseModel):
    """A normalization found among the weights: evidence of what the network expects, in its own channel order."""

    model_config = ConfigDict(frozen=True)

    mean: tuple[float, ...] = Field(description="Mean of each channel.")
    std: tuple[float, ...] = Field(description="Standard deviation of each channel.")


class Match(NamedTuple):
    """Tensors by the architecture's names (those missing there are absent), and what was done to get them."""

    tensors: dict[str, Tensor]
    prefix: str
    notes: tuple[str, ...]
    normalization: EmbeddedNormalization | None
    mapping: dict[str, str]
    """The architecture's name of each tensor of the file (without the prefix), where the names did not fit."""
    other: dict[str, str]
    """Where the shapes fit in a second way: name -> the name whose tensor it would get."""


def match(
    found: Mapping[str, Tensor],
    network: nn.Module,
    architecture: Architecture,
    name: str,
    *,
    ordered: bool = True,
    second: bool = False,
    advise: bool = True,
) -> Match:
    """Give every tensor of a file its place in the architecture; ``network`` is what that builds, on the meta device.

    By the names; where these do not fit, by the order of the layers, their nesting and their shapes, if the tensors are in the
    order of the layers (``ordered``). ``second``: of two ways in which the shapes fit, the less likely. Only shapes and types are
    looked at. Raises IntakeError that says what differs and, if it shall ``advise``, what would fit, which may take seconds.
    """
    expected = network.state_dict()
    tensors = {key: tensor for key, tensor in found.items() if key != _AVERAGED or key in expected}
    tensors, notes = resolve(tensors, expected)
    tensors, prefix, values = _strip(tensors, expected)
    tensors, further, left = _with_any_prefix(tensors, expected)
    prefix += further
    whose = "the names below it" if left and further else "every name"
    if prefix:
        notes.append(f"The prefix '{printable(prefix)}' was taken off {whose}.")
    tensors, doubled = _with_two_classes(tensors, expected, architecture)
    notes += [ONE_LOGIT] if doubled else []
    fitted = fit(tensors, network, architecture.input_shape, ordered=ordered, second=second)
    tensors = fitted.tensors
    left += fitted.left
    notes.extend(fitted.notes)
    if left:
        notes.append(f"Left out, since the architecture has no place for them: {listed([shown(key) for key in left])}.")
    normalization = _normalization(values)
    if normalization is not None:
        mean, std = (" ".join(f"{value:.4g}" for value in part) for part in (normalization.mean, normalization.std))
        notes.append(f"The file carries a normalization: mean {mean}, std {std}; it is not part of the network.")
    elif values:
        notes.append(f"Ignored, since they look like parts of a normalization: {listed(sorted(values))}.")
    if "1." in prefix and normalization is None:
        notes.append(
            "The network was the second part of a Sequential; the first, probably its normalization, is not in the file."
        )
    counters = [key for key in tensors if key not in expected and key.rpartition(".")[2] == COUNTER]
    if counters:
        notes.append(f"{counted(len(counters), 'unused counter')} ({COUNTER}) ignored.")
    tensors = {key: tensor for key, tensor in tensors.items() if key not in counters}
    absent = [key for key in expected if key not in tensors and key.rpartition(".")[2] == COUNTER]
    if absent:
        notes.append(f"{counted(len(absent), 'counter')} ({COUNTER}) not in the file, set to 0: evaluation ignores it.")
    _check_layout(tensors, name)
    _check_fit(
        tensors, {key: value for key, value in expected.items() if key not in absent}, architecture, name, advise=advise
    )
    return Match(tensors, prefix, tuple(notes), normalization, fitted.mapping, fitted.other)


def _with_two_classes(
    tensors: dict[str, Tensor], expected: Mapping[str, Tensor], architecture: Architecture
) -> tuple[dict[str, Tensor], bool]:
    """Where the file's last layer gives one logit z and the network has two classes: that layer with a row of zeros before it,
    for the logits (0, z); and whether it is so."""
    last = [key for key, tensor in expected.items() if tensor.is_floating_point()][-1:]
    layer = "".join(last).rpartition(".")[0]
    short = [
        key
        for key, tensor in expected.items()
        if key.rpartition(".")[0] == layer and key in tensors and tensors[key].shape == (1, *tensor.shape[1:])
    ]
    if architecture.num_classes != 2 or not short or any(expected[key].shape[:1] != (2,) for key in short):
        return tensors, False
    doubled = {key: torch.cat([torch.zeros_like(tensors[key]), tensors[key]]) for key in short}
    return tensors | doubled, True


def network_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What can be the network's: whole tensors instead of their parts, without a normalization, counters, losses, profiles."""
    whole, _ = resolve(tensors, {})
    found, _ = without_leftovers(whole, {})
    return {
        key: tensor
        for key, tensor in found.items()
        if not (_NORMALIZATION.fullmatch(key) and tensor.numel() <= _MAX_CHANNELS)
        and key != _AVERAGED
        and key.rpartition(".")[2] not in (*_PROFILED, COUNTER)
    }


def without_prefix(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the names of ``expected``, where these begin with something else in the file."""
    return _with_any_prefix(_strip(dict(tensors), expected)[0], expected)[0]


def _strip(
    tensors: dict[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], str, dict[str, Tensor]]:
    """Take off the prefixes that every name has, and set a normalization aside: (tensors, prefix, normalization).

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
    wanted = {key for key in expected if key.rpartition(".")[2] != COUNTER}
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
    """Mean and deviation, when there is exactly one of each (a file may hold it twice), of equal length and meaningful."""
    mean: list[list[float]] = []
    std: list[list[float]] = []
    for key, tensor in values.items():
        if tensor.dtype not in _FLOATS or tensor.layout != torch.strided or tensor.is_quantized:
            return None
        sort = _NORMALIZATION.fullmatch(key)
        numbers = tensor.double().flatten().tolist()
        found = mean if sort and sort["sort"] in _MEANS else std
        found += [numbers] if numbers not in found else []
    if len(mean) != 1 or len(std) != 1 or len(mean[0]) != len(std[0]) or not mean[0]:
        return None
    if not all(abs(value) < 1e6 for value in mean[0]) or not all(0 < value < 1e6 for value in std[0]):
        return None
    return EmbeddedNormalization(mean=tuple(mean[0]), std=tuple(std[0]))


def _check_layout(tensors: Mapping[str, Tensor], name: str) -> None:
    for key, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise IntakeError(
                f"The tensor {shown(key)} of {shown(name)} is sparse, quantized or without values; "
                "expected a dense floating point tensor.",
                "Convert the model to ordinary float32 weights.",
            )


def _check_fit(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    architecture: Architecture,
    name: str,
    *,
    advise: bool,
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
        explained = None if missing or unexpected or not advise else declared(tensors, expected, architecture)
        reason = "" if explained is None else _reason(explained, architecture)
        raise IntakeError(
            f"The weights in {shown(name)} do not fit the architecture {architecture.kind}: "
            + (f"{reason}; " if reason else "")
            + f"tensors: {', '.join(faults)}.",
            _remedy(explained, tensors, architecture) if advise else architecture.remedy(),
        )
    for key, tensor in tensors.items():
        allowed = _FLOATS if expected[key].is_floating_point() else _INTEGERS
        if tensor.dtype not in allowed:
            raise IntakeError(
                f"The tensor {shown(key)} of {shown(name)} has the type {_dtype(tensor)}, expected "
                f"{'float32, float16, bfloat16 or float64' if allowed is _FLOATS else 'an integer'}.",
                "Convert the model to ordinary float32 weights.",
            )


def _reason(explained: Declared, architecture: Architecture) -> str:
    """What explains every shape that differs, in words."""
    values = explained.values
    reasons = []
    if "num_classes" in values:
        classes = "one logit, so two classes" if explained.one_logit else f"{values['num_classes']:,} classes"
        reasons.append(f"the file has {classes}, you declared {architecture.num_classes:,}")
    if "channels" in values:
        reasons.append(f"the file takes {counted(values['channels'], 'channel')}, you declared {architecture.channels}")
    return "; ".join([*reasons, *filter(None, [explained.inputs])])


def _remedy(explained: Declared | None, tensors: Mapping[str, Tensor], architecture: Architecture) -> str:
    """What to declare instead, as the command line and the page have it."""
    if explained is not None and not explained.inputs:
        options = {}
        if "channels" in explained.values:
            options["--input"] = f"{explained.values['channels']}x{architecture.height}x{architecture.width}"
        if "num_classes" in explained.values:
            options["--num-classes"] = str(explained.values["num_classes"])
        labels = {"channels": "'Channels' on the page", "num_classes": "'Num classes' on the page"}
        return (
            f"Declare what the file was trained with: `{' '.join(f'{name} {value}' for name, value in options.items())}` on the "
            f"command line, {' and '.join(labels[name] for name in labels if name in explained.values)}."
        )
    if fitting := alternative(_without_counters(tensors), architecture):
        return (
            f"The file fits {fitting}: declare that, with `--architecture {fitting}` on the command line, 'Architecture' on the "
            "page and the fields below it."
        )
    if explained is not None:
        return (
            "Declare the height and width that the file was trained with: `--input` (channels x height x width) on the command "
            "line, 'Height' on the page and 'Width' on the page."
        )
    return "Choose the architecture that the file is of, with its parameters, such as the depth; or list its layers."


def _without_counters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if key.rpartition(".")[2] != COUNTER}


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
