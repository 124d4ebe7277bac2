"""What shapes that differ tell of what was declared of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from auditor.kit.wording import shown
from auditor.models.architecture import Architecture

COUNTER = "num_batches_tracked"
"""Last part of the name of batch normalization's counters, which evaluation does not read."""


class Declared(NamedTuple):
    """``values``: num_classes and channels as the file has them, where they differ from what was declared. ``inputs``: what the
    first linear layer says of another image size, in words. ``one_logit``: whether the file has one logit, which counts as two
    classes.
    """

    values: dict[str, int]
    inputs: str
    one_logit: bool = False


def declared(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], architecture: Architecture
) -> Declared | None:
    """What explains every shape that differs: the number of classes, the channels, the image size; None where that is not all."""
    found: dict[str, set[int]] = {"num_classes": set(), "channels": set()}
    inputs: set[str] = set()
    for key, value in expected.items():
        if key not in tensors or tensors[key].shape == value.shape:
            continue
        came, wanted = tuple(tensors[key].shape), tuple(value.shape)
        if len(came) != len(wanted):
            return None
        places = [i for i, (a, b) in enumerate(zip(came, wanted, strict=True)) if a != b]
        if places == [0] and wanted[0] == architecture.num_classes:
            found["num_classes"].add(came[0])
        elif places == [1] and wanted[1] == architecture.channels and len(wanted) == 4:
            found["channels"].add(came[1])
        elif places == [1] and len(wanted) == 2:
            inputs.add(f"{shown(key)} takes {came[1]:,} inputs and your image size gives {wanted[1]:,}")
        else:
            return None
    if max(len(inputs), *map(len, found.values())) > 1:
        return None
    one_logit = found["num_classes"] == {1}
    if one_logit:
        found["num_classes"] = {2}
    return Declared({name: values.pop() for name, values in found.items() if values}, next(iter(inputs), ""), one_logit)
