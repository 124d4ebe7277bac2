"""Solving: whether a file's tensors fit an architecture, with which numbers and image size, by their shapes alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

from torch import Tensor, nn

from auditor.data.intake.alternatives import SIDES
from auditor.data.intake.matching import Match, match, without_prefix
from auditor.data.intake.signatures import another, choices, layer_kind, numbers, shapes_of, weighty
from auditor.kit.errors import AuditorError, IntakeError
from auditor.models.architecture import ARCHITECTURES, Architecture

FEW = 3
"""A parameter with at most so many values is tried with each."""


class File(NamedTuple):
    """A file: its name for errors, all tensors, those of the network, and whether they are in the order of the layers."""

    name: str
    tensors: dict[str, Tensor]
    network: dict[str, Tensor]
    ordered: bool


class Fitting(NamedTuple):
    architecture: Architecture
    match: Match

    @property
    def by_names(self) -> bool:
        return not self.match.mapping


def from_data(data: Mapping[str, Any]) -> Architecture:
    """The architecture of Proposal.architecture. Raises SpecError."""
    return ARCHITECTURES.build(str(data["kind"]), {key: value for key, value in data.items() if key != "kind"})


def built(architecture: Architecture) -> tuple[nn.Module, dict[str, Tensor]]:
    """As shapes_of; the last few are kept."""
    return _kept(architecture.model_dump_json())


@lru_cache(maxsize=64)
def _kept(text: str) -> tuple[nn.Module, dict[str, Tensor]]:
    return shapes_of(from_data(json.loads(text)))


def fitted(candidate: Architecture, file: File) -> Fitting | None:
    """The candidate with what the shapes tell, if everything then fits; else the same with another value of one parameter."""
    found, near = _sized(candidate, file)
    others = other_values(candidate) if near and found is None else ()
    return found or next((other for start in others if (other := _sized(start, file)[0]) is not None), None)


def usual_side(file: File) -> int:
    """Of small images: 28 for grey ones, 32 for colour."""
    first = next((tensor for tensor in file.network.values() if tensor.dim() == 4), None)
    return 28 if first is not None and first.shape[1] == 1 else 32


def with_sizes(architecture: Architecture, file: File) -> Iterator[Architecture]:
    """The same with its own image size, then with others."""
    yield architecture
    for side in dict.fromkeys((usual_side(file), *SIDES)):
        if (architecture.height, architecture.width) != (side, side):
            yield architecture.model_copy(update={"height": side, "width": side})


def other_values(architecture: Architecture) -> Iterator[Architecture]:
    """The same with each other value of a parameter that has few."""
    for name, values in choices(type(architecture)).items():
        if len(values) <= FEW and name not in numbers(type(architecture)):
            for value in values:
                if value != getattr(architecture, name):
                    yield architecture.model_copy(update={name: value})


def any_size(architecture: Architecture) -> bool:
    """Whether images of another size give the same tensors."""
    shapes = []
    for side in (architecture.height, architecture.height * 2):
        try:
            state = built(architecture.model_copy(update={"height": side, "width": side}))[1]
        except AuditorError:
            return False
        shapes.append([tensor.shape for tensor in state.values()])
    return shapes[0] == shapes[1]


def _sized(candidate: Architecture, file: File) -> tuple[Fitting | None, bool]:
    """The candidate with the numbers and the image size that the shapes tell, if everything then fits; and whether every
    convolution fits.
    """
    near = False
    for sized in with_sizes(candidate, file):
        try:
            solved, network, left = _solved(sized, file)
        except AuditorError:  # too small for its pools
            continue
        if any(dims == 4 for dims in left):
            return None, False
        near = True
        try:
            found = match(file.tensors, network, solved, file.name, ordered=file.ordered, advise=False)
        except IntakeError:
            if not left:
                return None, False
            continue
        if any_size(solved) and getattr(solved, "stem", "") == "3x3" and solved.height == 224:
            solved = solved.model_copy(update={"height": 32, "width": 32})
        return Fitting(solved, found), True
    return None, near


def _solved(architecture: Architecture, file: File) -> tuple[Architecture, nn.Module, list[int]]:
    """The numbers of an architecture as the shapes have them; the network; and of each tensor that still differs its dimensions.

    A size of a tensor grows evenly with a number: two networks tell how, and the file's size then tells the number.
    Raises AuditorError when the values make no network.
    """
    _, state = built(architecture)
    pairs = _aligned(state, file)
    given: dict[str, float] = {}
    fractions = []
    for name in numbers(type(architecture)):
        if (other := another(architecture, name)) is None:
            continue
        with suppress(AuditorError):
            theirs = built(other)[1]
            if theirs.keys() == state.keys():
                value = _value(getattr(architecture, name), getattr(other, name), state, theirs, pairs, file)
                if value is not None:
                    given[name] = value
                    fractions += [name] if isinstance(getattr(architecture, name), float) else []
    solved = _with(architecture, given)
    unround = [name for name in fractions if round(given[name], 4) != given[name]]
    for name, digits in product(unround, (1, 2, 3, 4)):
        rounder = _with(architecture, given | {name: round(given[name], digits)})
        if not any(dims == 4 for dims in _differing(rounder, file)):
            solved = rounder
            break
    return solved, built(solved)[0], _differing(solved, file)


def _with(architecture: Architecture, values: Mapping[str, float]) -> Architecture:
    """With other values. Raises SpecError for unusable ones."""
    return from_data({**architecture.model_dump(mode="json"), **values})


def _differing(architecture: Architecture, file: File) -> list[int]:
    """The dimensions of each tensor whose shape is not the file's."""
    _, state = built(architecture)
    pairs = _aligned(state, file)
    return [len(state[key].shape) for key, came in pairs.items() if state[key].shape != file.network[came].shape]


def _value(
    a: float,
    b: float,
    state: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    pairs: Mapping[str, str],
    file: File,
) -> float | None:
    """What a number must be, from the size that changes most between ``state``, with ``a``, and ``theirs``, with ``b``."""
    slots = [
        (len(tensor.shape) == 4, abs(theirs[key].shape[i] - size), key, i)
        for key, tensor in state.items()
        if key in pairs and len(file.network[pairs[key]].shape) == len(tensor.shape) == len(theirs[key].shape)
        for i, size in enumerate(tensor.shape)
        if theirs[key].shape[i] != size
    ]
    if not slots:
        return None
    _, _, key, i = max(slots, key=lambda slot: slot[:2])
    first, second, came = state[key].shape[i], theirs[key].shape[i], file.network[pairs[key]].shape[i]
    value = a + (came - first) * (b - a) / (second - first)
    return round(value) if isinstance(a, int) else value


def _aligned(state: Mapping[str, Tensor], file: File) -> dict[str, str]:
    """The file's name of each tensor: by names, or else the one of the same place among layers of its kind."""
    wanted = weighty(state)
    same = without_prefix(file.network, wanted)
    origin = {id(tensor): key for key, tensor in file.network.items()}
    common = [key for key in wanted if key in same]
    if 2 * len(common) > len(wanted):
        return {key: origin[id(same[key])] for key in common if id(same[key]) in origin}
    places: dict[Any, list[str]] = {}
    for key, tensor in file.network.items():
        places.setdefault(layer_kind(key, tensor.shape), []).append(key)
    result = {}
    for key, tensor in wanted.items():
        if left := places.get(layer_kind(key, tensor.shape)):
            result[key] = left.pop(0)
    return result
