"""Found: the numbers of an analysis as frozen, typed models whose fields know their titles; tables follow from the fields."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator

from auditor.kit.statistics.estimate import Estimate
from auditor.models.neurons import LayerKind
from auditor.show.blocks import Column, Table


def _read(values: ArrayLike) -> NDArray[np.float64]:
    return np.array(values, np.float64)  # None becomes NaN


def _plain(values: NDArray[np.float64]) -> list[Any]:
    plain = values.astype(object)
    plain[np.isnan(values)] = None
    return list(plain.tolist())


Values = Annotated[NDArray[np.float64], PlainValidator(_read), PlainSerializer(_plain)]
"""A field with a number for each neuron, say, float64 (M,), or a table of them; in JSON lists, with None for NaN."""

Side = Literal["clean", "adversarial"]
SIDES: tuple[Side, ...] = ("clean", "adversarial")
"""Images, and their perturbed twins."""

T = TypeVar("T")


Stored = dict[str, Any]
"""The numbers of an analysis, or a part of them, as a file holds them; perhaps in the form of an older version."""


class Found(BaseModel):
    """Numbers that an analysis found, or one row of them. A field whose stored name is a word of Python has it as its alias."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, serialize_by_alias=True)

    def __eq__(self, other: object) -> bool:
        """Whether all numbers are the same, those of ``Values`` among them; NaN equals NaN."""
        return type(self) is type(other) and isinstance(other, Found) and self.model_dump() == other.model_dump()


class Sides(Found, Generic[T]):
    """The same of clean images and of their twins."""

    clean: T
    adversarial: T

    @classmethod
    def of(cls, make: Callable[[Side], T]) -> Self:
        return cls(clean=make("clean"), adversarial=make("adversarial"))

    def __getitem__(self, side: Side) -> T:
        value: T = getattr(self, side)
        return value


R = TypeVar("R", bound=Found)


class OfPairs(Found):
    """Numbers from so many images and their twins, of which ``pairs`` says how they were made."""

    images: int
    pairs: str


class Nothing(Found):
    """Of an analysis that the network does not allow."""


class Unread(Found):
    """Numbers that nobody here can read: of an analysis that is not installed, or in a form that is no longer known.

    They are kept as they are.
    """

    model_config = ConfigDict(frozen=True, extra="allow")


def shown(title: str, format: str = "", **field: Any) -> Any:
    """A field of a Found with the title and the format of its column; ``field``: what else pydantic's ``Field`` takes."""
    return Field(title=title, json_schema_extra={"format": format}, **field)


class NamedLayer(Found):
    """A layer by its name."""

    name: str = shown("Layer")
    kind: LayerKind = shown("Kind")


class LayerRow(NamedLayer):
    """What was found of one layer."""

    neurons: int = shown("Neurons")


def column(model: type[BaseModel], path: str) -> Column:
    """The column of a field, ``name``, or of a field of a field, ``size.adversarial``, whose own title and format count."""
    first, _, rest = path.partition(".")
    field = model.model_fields[first]
    if rest:
        inner = column(_model_of(field.annotation), rest)
        return inner.model_copy(update={"key": path})
    extra = field.json_schema_extra
    format = str(extra.get("format", "")) if isinstance(extra, dict) else ""
    return Column(key=path, title=field.title or first.replace("_", " ").capitalize(), format=format)


def table(rows: Iterable[Found], *columns: str | Column, title: str = "", caption: str = "") -> Table:
    """A table of rows of one model. ``columns``: names of fields (see ``column``), or columns of their own, whose keys are such
    paths; an Estimate is shown with its interval."""
    rows = tuple(rows)
    model = type(rows[0]) if rows else Found
    named = [
        item if isinstance(item, Column) else column(model, item)
        for item in columns
        if rows or isinstance(item, Column)
    ]
    return Table(
        title=title,
        columns=tuple(named),
        rows=tuple({item.key: cell(row, item) for item in named} for row in rows),
        caption=caption,
    )


def interval_columns(path: str, title: str, format: str) -> tuple[Column, Column, Column]:
    """An Estimate in three columns: its value under ``title``, and its bounds."""
    keys_titles = ((f"{path}.value", title), (f"{path}.low", "from"), (f"{path}.high", "to"))
    return tuple(Column(key=key, title=name, format=format) for key, name in keys_titles)  # type: ignore[return-value]


def cell(row: Found, item: Column) -> Any:
    """What a table holds of a row in one column."""
    value = at(row, item.key)
    return format(value, item.format.replace("%", "")) if isinstance(value, Estimate) else value


def at(row: Any, path: str) -> Any:
    """The value of a field, of a field of a field, or of one of several, ``points.0.ratio``; None where one on the way is
    None."""
    for name in path.split("."):
        if row is None:
            return None
        row = row[name] if isinstance(row, dict) else row[int(name)] if name.isdecimal() else getattr(row, name)
    return row


def lowest(rows: Iterable[R], path: str, count: int = 20) -> tuple[R, ...]:
    """The rows with the smallest values of a field, the smallest first; those without a value are left out."""
    return tuple(sorted((row for row in rows if at(row, path) is not None), key=lambda row: at(row, path))[:count])


def highest(rows: Iterable[R], path: str, count: int = 20) -> tuple[R, ...]:
    """The rows with the largest values of a field, the largest first; those without a value are left out."""
    known = (row for row in rows if at(row, path) is not None)
    return tuple(sorted(known, key=lambda row: at(row, path), reverse=True)[:count])


def some_of(few: Sequence[Any], every: Sequence[Any], what: str = "layers") -> str:
    """``2 of 8 layers, the first: conv1``: the evidence of a flag about some of the rows that have a name."""
    return f"{len(few)} of {len(every)} {what}, the first: {few[0].name}"


def neuron_in(mark: str, count: int) -> int | None:
    """The neuron that a mark names, one of ``count``; None where it names none."""
    return int(mark) if mark.isdecimal() and int(mark) < count else None


def _model_of(annotation: Any) -> type[BaseModel]:
    options: Sequence[Any] = getattr(annotation, "__args__", (annotation,))
    return next(item for item in options if isinstance(item, type) and issubclass(item, BaseModel))
