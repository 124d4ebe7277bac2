"""What architecture a refused file of weights would fit: other values of the declared kind, then the other kinds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from auditor.data.intake.shapes import COUNTER, declared
from auditor.data.intake.signatures import compact
from auditor.kit.errors import AuditorError
from auditor.models.architecture import ARCHITECTURES, Architecture

SIDES = (28, 32, 64, 96, 128, 224, 227, 256, 299, 384)
"""Sides of square images that networks are trained on."""

_MOST_CHOICES = 8
"""Values of a parameter that are tried: torchvision's 80 networks would take half a minute to build."""


def alternative(tensors: Mapping[str, Tensor], architecture: Architecture) -> str:
    """The compact text form of an architecture that has every tensor's name and shape, only with what is not its kind's default;
    empty where none of those tried has.
    """
    same_names = tensors.keys() == _expected(architecture).keys()
    for candidate in chain(_sizes(architecture) if same_names else (), _candidates(architecture)):
        try:
            fitting = _fitting(tensors, candidate)
        except AuditorError:  # the values make no network
            continue
        if fitting is not None:
            return compact(fitting, named=True)
    return ""


def _sizes(architecture: Architecture) -> Iterator[Architecture]:
    for side in SIDES:
        yield architecture.model_copy(update={"height": side, "width": side})


def _candidates(architecture: Architecture) -> Iterator[Architecture]:
    yield from _choices(architecture)
    for member in ARCHITECTURES:
        if member.by_hand and member is not type(architecture):
            try:
                default = member(kind=member.kind_name())
            except ValidationError:  # it has parameters that must be given
                continue
            yield default
            yield from _choices(default)


def _choices(architecture: Architecture) -> Iterator[Architecture]:
    """The same architecture with each other value of each parameter that has a list of values."""
    for name, schema in architecture.model_json_schema()["properties"].items():
        values: list[Any] = schema.get("enum", [])
        if name != "kind" and len(values) <= _MOST_CHOICES:
            for value in values:
                yield architecture.model_copy(update={name: value})


def _fitting(tensors: Mapping[str, Tensor], candidate: Architecture) -> Architecture | None:
    """The candidate, with the classes and channels of the file, if it then fits."""
    expected = _expected(candidate)
    if tensors.keys() != expected.keys():
        return None
    found = declared(tensors, expected, candidate)
    if found is None or found.inputs:
        return None
    if not found.values:
        return candidate
    changed = candidate.model_copy(update=found.values)
    expected = _expected(changed)
    fits = all(key in expected and tensor.shape == expected[key].shape for key, tensor in tensors.items())
    return changed if fits else None


def _expected(architecture: Architecture) -> dict[str, Tensor]:
    with torch.device("meta"):
        state = architecture.build().state_dict()
    return {key: value for key, value in state.items() if key.rpartition(".")[2] != COUNTER}
