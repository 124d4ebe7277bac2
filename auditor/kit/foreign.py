"""What a result says of the code that plug-ins brought to it: which package, and which version."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from auditor.kit.capability import Capability, Catalog
from auditor.kit.flag import Flag
from auditor.kit.plugins import Origin, origin

Foreign = dict[str, Origin]
"""``attack our-noise`` -> the package that it comes from."""


def foreign(parts: object) -> Foreign:
    """The members that plug-ins bring, among the values of a model or of what lies in it."""
    return {name: came for item in _members(parts) for name, came in _named(type(item))}


def foreign_data(catalogue: Catalog[Any], data: object) -> Foreign:
    """The same of members as plain data, such as the architecture that a model was stored with."""
    return {name: came for kind in _kinds(data) if kind in catalogue for name, came in _named(catalogue[kind])}


def packages_of(found: Foreign) -> dict[str, str]:
    """Name -> version of the packages, for a result's provenance."""
    return {came.package: came.version or "unknown" for came in found.values()}


def flags_of(found: Foreign) -> tuple[Flag, ...]:
    """One flag for each member that a plug-in brought."""
    return tuple(
        Flag(
            name="foreign_code",
            severity="info",
            message=f"The {what} comes from the package {came}, not from Neuron Auditor: numbers depend on its code.",
            evidence=came.place,
            remedy="Name the package and its version with every number.",
            about=what,
        )
        for what, came in found.items()
    )


def _named(member: type[Capability]) -> Iterator[tuple[str, Origin]]:
    came = origin(member)
    if came is not None:
        yield f"{member.contract_name()} {member.kind_name()}", came


def _members(part: object) -> Iterator[Capability]:
    if isinstance(part, BaseModel):
        if isinstance(part, Capability) and part.is_member():
            yield part
        yield from _members([getattr(part, name) for name in type(part).model_fields])
    elif isinstance(part, Mapping):
        yield from _members(list(part.values()))
    elif isinstance(part, Iterable) and not isinstance(part, str | bytes):
        for inner in part:
            yield from _members(inner)


def _kinds(data: object) -> Iterator[str]:
    if isinstance(data, Mapping):
        if isinstance(kind := data.get("kind"), str):
            yield kind
        for inner in data.values():
            yield from _kinds(inner)
    elif isinstance(data, list | tuple):
        for inner in data:
            yield from _kinds(inner)
