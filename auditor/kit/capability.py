"""Capability: one thing the product can do, with its parameters as fields. Catalog: a folder of them, found, never listed."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Annotated, Any, ClassVar, Generic, TypeVar, Union, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    JsonValue,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema
from pydantic_core import InitErrorDetails as Fault

from auditor.kit.errors import UNKNOWN_KIND, ServiceError, SpecError, meant, meant_parameter, spelled
from auditor.kit.plugins import described, entry_points, origin


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

    @model_validator(mode="before")
    @classmethod
    def _known_names(cls, data: Any) -> Any:
        """Takes the kind in either spelling, and refuses an unknown parameter together with the names that exist."""
        if not isinstance(data, Mapping) or not cls.is_member():
            return data
        names = list(cls.parameters())
        unknown = [name for name in data if name not in cls.model_fields]
        if unknown:
            faults = [Fault(type=_unknown(str(name), names), loc=(str(name),), input=data[name]) for name in unknown]
            raise ValidationError.from_exception_data(cls.__name__, faults)
        kind = data.get("kind")
        if isinstance(kind, str) and spelled(kind) == spelled(cls.kind_name()):
            return {**data, "kind": cls.kind_name()}
        return data

    @classmethod
    def contract_name(cls) -> str:
        """What a member of its catalogue is called: ``attack``, ``analysis``, ..."""
        bases = [base for base in cls.__mro__ if issubclass(base, Capability) and base is not Capability]
        return (bases[-1] if bases else cls).__name__.lower()

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
    def parameters(cls) -> dict[str, FieldInfo]:
        """The fields that a user may set, by name, in order."""
        return {name: field for name, field in cls.model_fields.items() if name != "kind"}

    def settings(self) -> dict[str, JsonValue]:
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
        self._faults: dict[str, ServiceError] = {}

    @cached_property
    def members(self) -> dict[str, type[C]]:
        """Kind -> class, sorted by kind."""
        found: dict[str, type[C]] = {}
        for item in self._own_classes():
            other = found.setdefault(spelled(item.kind_name()), item)
            if other is not item:
                raise TypeError(f"{item.__module__} and {other.__module__} both call themselves {item.kind_name()!r}")
        for point in entry_points(self.entry_points) if self.entry_points else ():
            try:
                for item in self._brought(point):
                    other = found.setdefault(spelled(item.kind_name()), item)
                    if other is not item:
                        raise TypeError(f"its {self.noun} {item.kind_name()!r} has the kind of {_whose(other)}")
            except Exception as error:
                self._faults[point.name] = ServiceError(
                    f"The plug-in {described(point)} cannot be loaded: {type(error).__name__}: {str(error)[:200]}.",
                    "Repair its package, or uninstall it. In the sandbox that reads uploads, a plug-in can import only "
                    "its own package and what is in site-packages.",
                )
        return dict(sorted((item.kind_name(), item) for item in found.values()))

    @property
    def faults(self) -> dict[str, ServiceError]:
        """What is wrong with plug-ins that bring no member, or not all, by the name of their entry point."""
        _ = self.members
        return self._faults

    @cached_property
    def _spelled(self) -> dict[str, str]:
        return {spelled(kind): kind for kind in self.members}

    def _own_classes(self) -> Iterator[type[C]]:
        folder = importlib.import_module(self.package)
        for entry in pkgutil.iter_modules(folder.__path__, prefix=f"{self.package}."):
            yield from self._members_of(importlib.import_module(entry.name))

    def _brought(self, point: EntryPoint) -> list[type[C]]:
        """The members behind an entry point: a class, or those of a module. Raises TypeError if there is none."""
        loaded = point.load()
        classes = list(self._members_of(loaded)) if inspect.ismodule(loaded) else [loaded]
        if not classes:
            raise TypeError(f"{loaded.__name__} defines no {self.noun}")
        for item in classes:
            if not (inspect.isclass(item) and issubclass(item, self.contract) and item.is_member()):
                raise TypeError(f"{point.value} is no {self.noun} with a kind of its own")
        return classes

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
        if (known := self._spelled.get(spelled(kind))) is None:
            if (fault := self.faults.get(kind)) is not None:
                raise fault
            raise SpecError(f"There is no {self.noun} {kind!r}.", self._hint(kind))
        return self.members[known]

    def __contains__(self, kind: object) -> bool:
        return isinstance(kind, str) and spelled(kind) in self._spelled

    def _hint(self, kind: str) -> str:
        """What was probably meant: ``resnet-cifar:depth=44`` for resnet44, ``pgd`` for pdg; and every kind."""
        numbered = self._numbered(kind)
        near = f"Did you mean {numbered}?" if numbered else meant(kind, self.members)
        broken = " ".join(fault.message for fault in self.faults.values())
        return f"{near} Known: {', '.join(self.members)}. {broken}".strip()

    def _numbered(self, kind: str) -> str:
        wanted = kind.lower().strip()
        if found := re.fullmatch(r"([a-z][a-z_-]*?)[-_]?(\d+)[a-z_-]*", wanted):
            stem, number = found[1].replace("_", "-"), int(found[2])
            for name, member in self.members.items():
                for parameter, field in member.parameters().items():
                    if name.startswith(stem) and number in get_args(field.annotation):
                        return f"{name}:{parameter}={number}"
        return ""

    def __iter__(self) -> Iterator[type[C]]:
        return iter(self.members.values())

    def __len__(self) -> int:
        return len(self.members)

    @property
    def noun(self) -> str:
        """What a member is called: ``attack``, ``analysis``, ..."""
        return self.contract.contract_name()

    @cached_property
    def union(self) -> Any:
        """The type "any member", told apart by ``kind``; for pydantic fields and JSON schemas."""
        classes = tuple(self.members.values())
        if len(classes) == 1:
            return classes[0]
        return Annotated[Union[classes], Field(discriminator="kind")]  # noqa: UP007 (made at run time)

    def parse(self, text: str, given: Mapping[str, object] | None = None) -> C:
        """A member from its compact text form, ``kind`` or ``kind:name=value,name=value``; ``given`` sets further parameters.

        Raises SpecError with the field, what was expected and what came.
        """
        kind, _, tail = text.strip().partition(":")
        values: dict[str, object] = {}
        for item in filter(None, (part.strip() for part in tail.split(","))):
            name, equals, value = item.partition("=")
            if not equals:
                raise SpecError(f"{self.noun} {text!r}: expected name=value, got {item!r}.", self._named(kind, item))
            values[name.strip()] = value.strip()
        return self.build(kind, {**values, **(given or {})})

    def _named(self, kind: str, value: str) -> str:
        """The remedy for a value without a name: the parameter that takes it, or all of them. Raises SpecError."""
        member = self[kind]
        names = [name for name in member.model_fields if name != "kind"]
        if value in names:
            return f"Give {value} a value: {member.kind_name()}:{value}=..."
        for name in names:
            with suppress(ValidationError):
                member(kind=member.kind_name(), **{name: value})
                return f"Did you mean {member.kind_name()}:{name}={value}?"
        return (
            f"Its parameters: {', '.join(names)}."
            if names
            else f"Leave it out: {member.kind_name()} has no parameters."
        )

    def build(self, kind: str, values: Mapping[str, object]) -> C:
        """A member from its kind and its parameters. Raises SpecError."""
        member = self[kind]
        try:
            return member(kind=member.kind_name(), **values)
        except ValidationError as error:
            raise SpecError.from_validation(f"{self.noun} {member.kind_name()}", error) from None

    def spelled(self, value: Any) -> Any:
        """Plain data of a member with its kind as the catalogue spells it. Raises PydanticCustomError for an unknown kind."""
        if not isinstance(value, Mapping) or not isinstance(kind := value.get("kind"), str):
            return value
        if kind not in self:
            known = {"said": f"there is no {self.noun} {kind!r}", "hint": self._hint(kind)}
            raise PydanticCustomError(UNKNOWN_KIND, "{said}. {hint}", known)
        return {**value, "kind": self[kind].kind_name()}

    def json_schema(self) -> dict[str, JsonValue]:
        """The JSON schema of "any member"."""
        return TypeAdapter(self.union).json_schema()


@dataclass(frozen=True)
class MemberOf:
    """Annotation of a field that holds any member of a catalogue: ``Annotated[Attack, MemberOf(ATTACKS)]``."""

    catalog: Catalog[Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            self.catalog.spelled, handler.generate_schema(self.catalog.union)
        )


def _whose(item: type) -> str:
    """``Neuron Auditor's own auditor.attacking.attacks.pgd``, or the plug-in that brought it first."""
    came = origin(item)
    return f"Neuron Auditor's own {item.__module__}" if came is None else f"{came.place} of the plug-in {came}"


def _unknown(name: str, names: list[str]) -> PydanticCustomError:
    """The fault of a parameter that the member does not have: the nearest that it has, or all, are named."""
    hint = meant_parameter(name, names)
    return PydanticCustomError("extra_forbidden", "not a parameter. {hint}", {"hint": hint, "names": names})


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "+".join(_plain(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
