"""Capability: one thing the product can do, with its parameters as fields. Catalog: a folder of them, found, never listed."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from types import ModuleType
from typing import Annotated, Any, ClassVar, Generic, TypeVar, Union, get_args

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema

from auditor.errors import SpecError


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
        for point in metadata.entry_points(group=self.entry_points) if self.entry_points else ():
            loaded = point.load()
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
            raise SpecError(f"There is no {self.noun} {kind!r}.", f"Known: {', '.join(self.members)}.") from None

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

    def parse(self, text: str) -> C:
        """A member from its compact text form, ``kind`` or ``kind:name=value,name=value``.

        Raises SpecError with the field, what was expected and what came.
        """
        kind, _, tail = text.strip().partition(":")
        values: dict[str, Any] = {}
        for item in filter(None, (part.strip() for part in tail.split(","))):
            name, equals, value = item.partition("=")
            if not equals:
                raise SpecError(f"{self.noun} {text!r}: expected name=value, got {item!r}.")
            values[name.strip()] = value.strip()
        return self.build(kind, values)

    def build(self, kind: str, values: dict[str, Any]) -> C:
        """A member from its kind and its parameters. Raises SpecError."""
        try:
            return self[kind](kind=kind, **values)
        except ValidationError as error:
            raise SpecError.from_validation(f"{self.noun} {kind}", error) from None

    def json_schema(self) -> dict[str, Any]:
        """The JSON schema of "any member"."""
        return TypeAdapter(self.union).json_schema()


@dataclass(frozen=True)
class MemberOf:
    """Annotation of a field that holds any member of a catalogue: ``Annotated[Attack, MemberOf(ATTACKS)]``."""

    catalog: Catalog[Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler.generate_schema(self.catalog.union)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "+".join(_plain(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
