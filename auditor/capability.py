"""Capability: one thing the product can do, with its parameters as fields. Catalog: a folder of them, found, never listed."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Annotated, Any, ClassVar, Generic, TypeVar, Union, get_args

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema

from auditor.errors import ServiceError, SpecError
from auditor.plugins import described, entry_points


class Capability(BaseModel):
    """A frozen set of parameters with a name; subclasses add what they do.

    A member of a catalogue declares ``kind: Literal["..."]``. Its fields are the whole of its parameters: the form,
    the command line, the JSON schema, the error messages and the line in the report are all made from them. The
    first line of its docstring is its description.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    title: ClassVar[str] = ""
    kind: str

    @classmethod
    def kind_name(cls) -> str:
        """The value of ``kind``: the name by which forms, JSON and the command line call this member."""
        return str(get_args(cls.model_fields["kind"].annotation)[0])

    @classmethod
    def is_member(cls) -> bool:
        """Whether the class names itself with ``kind: Literal[...]`` (a shared base class does not)."""
        return bool(get_args(cls.model_fields["kind"].annotation))

    @classmethod
    def display_title(cls) -> str:
        """What a reader calls it: ``title``, or the name of the class."""
        return cls.title or cls.__name__

    @classmethod
    def summary(cls) -> str:
        """The first sentence of the docstring."""
        return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")

    @classmethod
    def parameters(cls) -> dict[str, Any]:
        """The fields that a user may set, by name, in order (pydantic ``FieldInfo``)."""
        return {name: field for name, field in cls.model_fields.items() if name != "kind"}

    def settings(self) -> dict[str, Any]:
        """Every parameter with its value, in JSON form, for the report."""
        return self.model_dump(mode="json", exclude={"kind"})

    def describe(self) -> str:
        """The compact text form: ``pgd:steps=10,step_size=0.25``."""
        values = ",".join(f"{name}={_plain(value)}" for name, value in self.settings().items())
        return f"{self.kind}:{values}" if values else self.kind


C = TypeVar("C", bound=Capability)


class Catalog(Generic[C]):
    """The members of a package folder: every module of the folder is read, every class with a ``kind`` is a member.

    Nothing is registered by hand: adding a member is adding a file.
    """

    def __init__(self, package: str, contract: type[C], *, entry_points: str | None = None) -> None:
        """``entry_points`` names a group by which installed packages add members (a class, or a module of classes)."""
        self.package = package
        self.contract = contract
        self.entry_points = entry_points

    @cached_property
    def members(self) -> dict[str, type[C]]:
        """Kind -> class, sorted by kind."""
        found: dict[str, type[C]] = {}
        for item in self._classes():
            other = found.setdefault(item.kind_name(), item)
            if other is not item:
                raise TypeError(f"{item.__module__} and {other.__module__} both call themselves {item.kind_name()!r}")
        return dict(sorted(found.items()))

    def _classes(self) -> Iterator[type[C]]:
        folder = importlib.import_module(self.package)
        for entry in pkgutil.iter_modules(folder.__path__, prefix=f"{self.package}."):
            yield from self._members_of(importlib.import_module(entry.name))
        for point in entry_points(self.entry_points) if self.entry_points else ():
            try:
                loaded = point.load()
            except Exception as error:
                raise ServiceError(
                    f"The plug-in {described(point)} cannot be loaded: {type(error).__name__}: {str(error)[:200]}.",
                    "Repair its package, or uninstall it. The reader of uploads lets it read its own package and site-packages, "
                    "where all else that it imports must lie.",
                ) from error
            if inspect.ismodule(loaded):
                yield from self._members_of(loaded)
            else:
                yield loaded

    def _members_of(self, module: ModuleType) -> Iterator[type[C]]:
        for item in vars(module).values():
            if (
                inspect.isclass(item)
                and issubclass(item, self.contract)
                and item.__module__ == module.__name__
                and item.is_member()
            ):
                yield item

    def __getitem__(self, kind: str) -> type[C]:
        try:
            return self.members[kind]
        except KeyError:
            near = self._near(kind)
            meant = f"Did you mean {near}? " if near else ""
            raise SpecError(f"There is no {self.noun} {kind!r}.", f"{meant}Known: {', '.join(self.members)}.") from None

    def _near(self, kind: str) -> str:
        """What was probably meant: ``resnet-cifar:depth=44`` for resnet44, ``pgd`` for pdg; empty where nothing is near."""
        wanted = kind.lower().strip()
        if found := re.fullmatch(r"([a-z][a-z_-]*?)[-_]?(\d+)[a-z_-]*", wanted):
            stem, number = found[1].replace("_", "-"), int(found[2])
            for name, member in self.members.items():
                for parameter, field in member.parameters().items():
                    if name.startswith(stem) and number in get_args(field.annotation):
                        return f"{name}:{parameter}={number}"
        same = [name for name in self.members if name.replace("-", "") == re.sub(r"[-_ ]", "", wanted)]
        return next(iter(same or difflib.get_close_matches(wanted, self.members, 1, 0.6)), "")

    def __iter__(self) -> Iterator[type[C]]:
        return iter(self.members.values())

    def __len__(self) -> int:
        return len(self.members)

    @property
    def noun(self) -> str:
        """What a member is called: ``attack``, ``analysis``, ..."""
        return self.contract.__name__.lower()

    @cached_property
    def union(self) -> Any:
        """The type "any member", told apart by ``kind``; for pydantic fields and JSON schemas."""
        classes = tuple(self.members.values())
        if len(classes) == 1:
            return classes[0]
        return Annotated[Union[classes], Field(discriminator="kind")]  # noqa: UP007 (made at run time)

    def parse(self, text: str, given: dict[str, Any] | None = None) -> C:
        """A member from its compact text form, ``kind`` or ``kind:name=value,name=value``; ``given`` sets further parameters.

        Raises SpecError with the field, what was expected and what came.
        """
        kind, _, tail = text.strip().partition(":")
        values: dict[str, Any] = {}
        for item in filter(None, (part.strip() for part in tail.split(","))):
            name, equals, value = item.partition("=")
            if not equals:
                raise SpecError(f"{self.noun} {text!r}: expected name=value, got {item!r}.")
            values[name.strip()] = value.strip()
        return self.build(kind, values | (given or {}))

    def build(self, kind: str, values: dict[str, Any]) -> C:
        """A member from its kind and its parameters. Raises SpecError."""
        member = self[kind]
        try:
            return member(kind=kind, **values)
        except ValidationError as error:
            refusal = SpecError.from_validation(f"{self.noun} {kind}", error)
            unknown = [
                str(fault["loc"][0]) for fault in error.errors() if fault["type"] == "extra_forbidden" and fault["loc"]
            ]
            raise SpecError(refusal.message, _parameters_meant(member, unknown)) from None

    def json_schema(self) -> dict[str, Any]:
        """The JSON schema of "any member"."""
        return TypeAdapter(self.union).json_schema()


@dataclass(frozen=True)
class MemberOf:
    """Annotation of a field that holds any member of a catalogue: ``Annotated[Attack, MemberOf(ATTACKS)]``."""

    catalog: Catalog[Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler.generate_schema(self.catalog.union)


def _parameters_meant(member: type[Capability], unknown: list[str]) -> str:
    """A hint for parameters that the member does not have: the nearest that it has, or all."""
    names = list(member.parameters())
    hints = []
    for name in unknown:
        near = difflib.get_close_matches(name.lower(), names, 1, 0.5)
        if near:
            hints.append(f"Did you mean {near[0]} for {name[:40]}?")
    if unknown and not hints:
        hints.append(f"Its parameters: {', '.join(names)}." if names else "It has no parameters.")
    return " ".join(hints)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "+".join(_plain(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
