"""Signatures: architectures by the kinds of their layers, whatever their widths and names; an index that is shipped, made by

    python -m auditor.data.intake.signatures

since building torchvision's networks one after the other takes half a minute.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from auditor.data.intake.fused import following_norms, without_fused
from auditor.data.intake.shapes import COUNTER
from auditor.kit.errors import AuditorError
from auditor.models.architecture import ARCHITECTURES, Architecture

INDEX = Path(__file__).with_suffix(".json")
_MOST_VARIANTS = 200
"""Of one kind: torchvision has 80 networks, with two stems."""

_PRESENT = 64
"""A value for a number of units that is 0, for none, by default."""

Kind = tuple[str, tuple[int, ...]]
Length = tuple[str, float, int, float, int, dict[str, Any]]


def layer_kind(name: str, shape: Iterable[int]) -> Kind:
    """What does not change with the widths of layers: the last part of a tensor's name, and of its shape the window."""
    sizes = tuple(shape)
    return name.rpartition(".")[2], (len(sizes), *sizes[2:])


def signature(shapes: Mapping[str, Iterable[int]]) -> str:
    """A digest of the kinds of all tensors, in no order; counters are left out. The windows of 2-D layers are part of it."""
    kinds = sorted(repr(layer_kind(name, shape)) for name, shape in shapes.items() if not name.endswith(COUNTER))
    return hashlib.sha256("\n".join(kinds).encode()).hexdigest()[:20]


class Index(NamedTuple):
    """Signature -> architectures in their compact text form; ``fused``: with batch normalization fused into convolutions.

    ``lengths``: for kinds with a depth of any number, that parameter with two values and the number of tensors of each, which
    grows evenly: (name, value, tensors, value, tensors, other parameters). With the least width a shortcut may be missing.
    """

    plain: dict[str, list[str]]
    fused: dict[str, list[str]]
    lengths: dict[str, list[Length]]


@cache
def index() -> Index:
    """The shipped index, and the architectures of plug-ins, which it cannot have, by building them."""
    stored = json.loads(INDEX.read_text())
    found = Index(stored["plain"], stored["fused"], stored["lengths"])
    for member in ARCHITECTURES:
        if member.kind_name() not in stored["kinds"] and _listed(member):
            _add(member, found)
    return found


def compact(architecture: Architecture, *, named: bool = False) -> str:
    """The compact text form, only with what is not the default of its kind; empty where it has none (layers).

    ``named``: with the parameter ``model`` first, where the kind has one, also if it is the default.
    """
    fields = type(architecture).model_fields
    settings = architecture.settings()
    given = {"model": settings["model"]} if named and "model" in settings else {}
    given |= {name: value for name, value in settings.items() if value != fields[name].get_default()}
    if any(isinstance(value, list | dict) for value in given.values()):
        return ""
    text = ",".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in given.items()
    )
    return f"{architecture.kind}:{text}" if given else architecture.kind


def choices(member: type[Architecture]) -> dict[str, list[Any]]:
    """The values of each parameter that has few, the default first: its list, true and false; or none and some."""
    found: dict[str, list[Any]] = {}
    for name, schema in member.model_json_schema()["properties"].items():
        default = member.model_fields[name].default
        if name == "kind":
            continue
        if values := schema.get("enum"):
            found[name] = [default, *(value for value in values if value != default)]
        elif schema.get("type") == "boolean":
            found[name] = [default, not default]
        elif schema.get("minimum") == 0 and default == 0:
            found[name] = [0, _PRESENT]
    return found


def shapes_of(architecture: Architecture) -> tuple[nn.Module, dict[str, Tensor]]:
    """The network on the meta device, and its state dict. Raises AuditorError when the values make no network."""
    with torch.device("meta"):
        network = architecture.build()
    return network, network.state_dict()


def variants(member: type[Architecture]) -> Iterator[Architecture]:
    """One architecture for each combination of values that shape tensors; the default first."""
    given = {name: values for name, values in choices(member).items() if _shapes_tensors(member, name, values)}
    for values in islice(product(*given.values()), _MOST_VARIANTS):
        try:
            yield member(kind=member.kind_name(), **dict(zip(given, values, strict=True)))
        except ValidationError:
            continue


def _shapes_tensors(member: type[Architecture], name: str, values: list[Any]) -> bool:
    """Whether a parameter changes any tensor of the default network; activations and pools do not."""
    states = []
    for value in values[:2]:
        try:
            _, state = shapes_of(member(kind=member.kind_name(), **{name: value}))
        except (AuditorError, ValidationError):
            return True
        states.append({key: tensor.shape for key, tensor in state.items()})
    return len(values) > 2 or states[0] != states[1]


def numbers(member: type[Architecture]) -> list[str]:
    """The parameters that are numbers of any value, but for height and width."""
    return [
        name
        for name, schema in member.model_json_schema()["properties"].items()
        if schema.get("type") in ("integer", "number") and "enum" not in schema and name not in ("height", "width")
    ]


def another(architecture: Architecture, name: str) -> Architecture | None:
    """The same with the next value of a number that its kind takes; None if there is none near."""
    value = getattr(architecture, name)
    steps: Iterable[float] = range(1, 9) if isinstance(value, int) else (value, value / 2)
    for step in (*steps, *(-step for step in steps)):
        with suppress(ValidationError):
            return type(architecture).model_validate(architecture.model_dump() | {name: value + step})
    return None


def _lengths(member: type[Architecture]) -> list[Length]:
    """See Index.lengths; empty where no number changes how many tensors there are."""
    free = [name for name in numbers(member) if name not in ("num_classes", "channels")]
    least = {name: member.model_json_schema()["properties"][name].get("minimum") for name in free}
    found: dict[tuple[int, int], Length] = {}
    for name in free:
        for given in ({}, *({other: value} for other, value in least.items() if other != name and value is not None)):
            try:
                one = member(kind=member.kind_name(), **given)
                if getattr(one, name) <= 0 or (other := another(one, name)) is None:
                    continue
                first, second = (len(weighty(shapes_of(each)[1])) for each in (one, other))
            except (AuditorError, ValidationError):
                continue
            if first != second:
                length = (name, getattr(one, name), first, getattr(other, name), second, given)
                found.setdefault((first, second), length)
    return list(found.values())


def weighty(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the counters of batch normalization."""
    return {key: value for key, value in tensors.items() if key.rpartition(".")[2] != COUNTER}


def _listed(member: type[Architecture]) -> bool:
    """Whether the networks of a kind can be listed: none that takes layers, another network or any name as a parameter."""
    free = ("string", "object", "array", None)
    for name, schema in member.model_json_schema()["properties"].items():
        if name != "kind" and "enum" not in schema and "const" not in schema and schema.get("type") in free:
            return False
    return member.by_hand


def _add(member: type[Architecture], found: Index) -> None:
    if lengths := _lengths(member):
        found.lengths[member.kind_name()] = lengths
    for architecture in variants(member):
        for size in dict.fromkeys((architecture.height, 224, 299)):
            sized = architecture.model_copy(update={"height": size, "width": size})
            try:
                network, state = shapes_of(sized)
            except AuditorError:  # too small for its pools
                continue
            break
        else:
            continue
        text = compact(architecture)
        entries = {signature({key: value.shape for key, value in state.items()}): found.plain}
        if pairs := following_norms(network, sized.input_shape):
            without, _ = without_fused(state, pairs, {})
            entries[signature({key: value.shape for key, value in without.items()})] = found.fused
        for digest, place in entries.items():
            if text and not any(_same_but_for_choices(text, other) for other in place.get(digest, ())):
                place.setdefault(digest, []).append(text)


def _same_but_for_choices(a: str, b: str) -> bool:
    """Whether two texts are of one kind, and so differ in what no tensor tells; torchvision's networks differ by name."""
    (kind_a, _, values_a), (kind_b, _, values_b) = a.partition(":"), b.partition(":")

    def names(text: str) -> set[str]:
        return {part for part in text.split(",") if part.startswith("model=")}

    return kind_a == kind_b and names(values_a) == names(values_b)


def made() -> dict[str, Any]:
    """What the index holds: made anew from the catalogue and the torchvision that is installed."""
    found = Index({}, {}, {})
    members = [member for member in ARCHITECTURES if member.__module__.startswith("auditor.")]
    for member in filter(_listed, members):
        _add(member, found)
    return {
        "kinds": sorted(member.kind_name() for member in members),
        "plain": dict(sorted(found.plain.items())),
        "fused": dict(sorted(found.fused.items())),
        "lengths": found.lengths,
    }


if __name__ == "__main__":
    INDEX.write_text(json.dumps(made(), indent=1) + "\n")
