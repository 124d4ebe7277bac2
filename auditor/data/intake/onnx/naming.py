"""What the layers of a converted network are called: as in the network that was exported, where the file still says so."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from auditor.data.intake.onnx.builder import Const, Draft
from auditor.models.graph import steps
from auditor.models.graph.network import Places

_LONGEST = 150


class Use(NamedTuple):
    """A tensor that the network holds outside its layers, and the operation that uses it first."""

    constant: Const
    draft: Draft


def named(drafts: list[Draft], uses: list[Use]) -> tuple[list[str], list[str]]:
    """A name for each draft, and one for each tensor, all different, none within another.

    A layer with weights is called after the file's tensor (``conv1`` for ``conv1.weight``) or after the module that the
    exporter notes; an operation without weights after its module, or after the module around it and what it does
    (``layer1.0.add``); without either it has its kind and a number (``conv_3``).
    """
    places = Places()
    names: dict[int, str] = {}
    groups = _groups(drafts, uses)
    for index, draft in enumerate(drafts):
        if draft.weights:
            for name in _of_weights(draft):
                if name not in groups and places.free(name):
                    names[index] = name
                    places.take(name)
                    break
    held = [_free(places, _of_tensor(use)) for use in uses]
    counts: Counter[str] = Counter()
    for index, draft in enumerate(drafts):
        if index not in names:
            names[index] = _free(places, _of_operation(draft, groups, counts))
    return [names[index] for index in range(len(drafts))], held


def _of_weights(draft: Draft) -> Iterator[str]:
    base, scope = _clean(draft.base), _clean(draft.node.scope)
    if base and (draft.node.fused or base == scope or not scope):
        yield base
    if scope:
        yield scope
    if base:
        yield base


def _of_tensor(use: Use) -> Iterator[str]:
    """As the file calls it; where it shares one tensor among modules, each has its own (``features.1.1.layer_scale``)."""
    name, scope = _clean(use.constant.name), _clean(use.draft.node.scope)
    group, _, last = name.rpartition(".")
    if name and scope and group != scope and not last.isdecimal() and group:
        yield f"{scope}.{last}"
    if name and not name.isdecimal():
        yield name
    yield from (f"constant_{number}" for number in range(1, 1_000_000))


def _of_operation(draft: Draft, groups: set[str], counts: Counter[str]) -> Iterator[str]:
    scope, kind = _clean(draft.node.scope), _kind(draft)
    if scope and scope not in groups:
        yield scope
    if scope in groups:
        yield f"{scope}.{kind}"
        yield from (f"{scope}.{kind}_{number}" for number in range(2, 1_000_000))
    if scope:
        last = scope.rpartition(".")[2]
        stem = scope if last.startswith(kind) or kind in last else f"{scope}_{kind}"
        if stem != scope:
            yield stem
        yield from (f"{stem}_{number}" for number in range(2, 1_000_000))
    while True:
        counts[kind] += 1
        yield f"{kind}_{counts[kind]}"


def _kind(draft: Draft) -> str:
    """``relu``, ``add``, ``conv``: what a step does, as one word."""
    if draft.step in (steps.Activation, steps.Arithmetic, steps.Elementwise):
        return str(draft.values["function"])
    if draft.step is steps.Reduce:
        return str(draft.values["function"])
    return str(draft.step.model_fields["op"].default)


def _free(places: Places, names: Iterator[str]) -> str:
    name = next(name for name in names if places.free(name))
    places.take(name)
    return name


def _groups(drafts: list[Draft], uses: list[Use]) -> set[str]:
    """The names within which other things lie."""
    found: set[str] = set()
    for name in (
        *(draft.node.scope for draft in drafts),
        *(draft.base for draft in drafts),
        *(use.constant.name for use in uses),
    ):
        parts = _clean(name).split(".")
        found.update(".".join(parts[:length]) for length in range(1, len(parts)))
    return found


def _clean(name: str) -> str:
    """The name with only letters, digits, underscores and dots; cut if it is long, empty if nothing is left."""
    text = re.sub(r"[^A-Za-z0-9_.]", "_", name[-_LONGEST:])
    return re.sub(r"\.{2,}", ".", text).strip(".")
