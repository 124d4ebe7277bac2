"""What a section of a result is made of: text, measures, tables, figures, images. Data only; pages and reports draw it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
    with_config,
)
from typing_extensions import TypedDict

Row = dict[str, Any]
"""A row of a table or a mark of a chart: values by the key of the column, or by field."""


class Block(BaseModel):
    """A piece of a section."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Text(Block):
    """A paragraph of plain text (no markup). ``tone``: how much it asks for attention; "code" keeps its lines."""

    type: Literal["text"] = "text"
    text: str
    tone: Literal["plain", "note", "good", "warning", "bad", "code"] = "plain"


Unit = Literal["", "%", "images", "s", "passes"]


class Measure(Block):
    """A number with its meaning: bounds, sample size, unit, and which direction is better."""

    title: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: Unit = ""
    higher_is_better: bool | None = None
    explanation: str = ""


class Measures(Block):
    """Numbers side by side."""

    type: Literal["measures"] = "measures"
    items: tuple[Measure, ...]


class Column(Block):
    """A column of a table. ``format``: a Python format specification for numbers; "%" scales by 100."""

    key: str
    title: str
    format: str = ""


class Table(Block):
    """Rows of values by column key; None is shown as a dash. Keys and titles of the columns are unique: two that look alike
    cannot be told apart, and what shows rows by title would lose one. Titles that hold names or numbers: see ``apart``."""

    type: Literal["table"] = "table"
    title: str = ""
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caption: str = ""

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        for what, names in (("keys", [c.key for c in self.columns]), ("titles", [c.title for c in self.columns])):
            if len(set(names)) < len(names):
                raise ValueError(f"the {what} of a table's columns must differ, got {names}")
        return self

    def cells(self) -> list[list[str]]:
        """The rows as a reader sees them, column by column."""
        return [[show_value(row.get(column.key), column.format) for column in self.columns] for row in self.rows]


Ends = Sequence[int | float]
"""The two ends of a scale."""


@with_config(extra="forbid")
class ChartOptions(TypedDict, total=False):
    """Options of charts; each chart in ``auditor.show.charts`` says which it knows, and what they do there."""

    aligned: bool
    bars: bool
    chance: float
    domain: Ends
    fields: dict[str, str]
    format: str
    group: str
    height: int
    high: float
    legend: str | None
    log: bool
    low: float
    mark: float
    marked: str
    root: bool
    select: str
    share: bool
    value: str
    x: str
    x_domain: Ends
    x_format: str
    y: str


def _as_given(options: ChartOptions, check: ValidatorFunctionWrapHandler) -> ChartOptions:
    """Checked, but in their own order, in which a reader of the data finds them."""
    check(options)
    return options


class Figure(Block):
    """A chart: the name of one in ``auditor.show.charts.CHARTS``, the rows it draws, and its options.

    ``reading`` is a sentence on how to read it. ``select`` names the field of the rows by which a click on a mark picks
    something to open (``Analysis.detail``); empty where there is nothing behind the marks.
    """

    type: Literal["figure"] = "figure"
    chart: str
    title: str
    rows: tuple[Row, ...]
    options: Annotated[ChartOptions, WrapValidator(_as_given)] = Field(default_factory=ChartOptions)
    reading: str = ""
    select: str = ""


class Image(Block):
    """One picture: encoded bytes in base64, its MIME type, and what stands under it."""

    data: str
    mime: Literal["image/png", "image/jpeg"]
    caption: str
    alt: str


class ImageRow(Block):
    """Pictures that belong together (clean, adversarial, difference), with a line about them."""

    title: str
    images: tuple[Image, ...]


class Images(Block):
    """Rows of pictures."""

    type: Literal["images"] = "images"
    title: str = ""
    rows: tuple[ImageRow, ...]
    reading: str = ""


AnyBlock = Annotated[Text | Measures | Table | Figure | Images, Field(discriminator="type")]


class Section(Block):
    """A titled run of blocks. ``key`` is unique within a result and names the section in addresses."""

    key: str
    title: str
    blocks: tuple[AnyBlock, ...]


def apart(names: Iterable[str]) -> list[str]:
    """The same names, those that came before with a number: ("A", "B", "A") becomes ("A", "B", "A (2)")."""
    found: list[str] = []
    for name in names:
        new, number = name, 1
        while new in found:
            number += 1
            new = f"{name} ({number})"
        found.append(new)
    return found


def show_value(value: object, format: str = "") -> str:
    """A value as a reader sees it: ``format`` for numbers ("%" with decimals scales by 100), a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and format:
        return f"{value:{format}}".replace("%", " %")
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else str(value)


def show_measure(measure: Measure) -> str:
    """``91.2 %`` or ``1.3 s``; the interval is shown separately."""
    if measure.value is None:
        return "–"
    if measure.unit == "%":
        return f"{100 * measure.value:.1f} %"
    text = show_value(measure.value if measure.value != int(measure.value) else int(measure.value))
    return f"{text} {measure.unit}".strip()


def show_interval(measure: Measure) -> str:
    """``95 % interval 88.0 to 93.1 %, n = 500``; empty if there is no interval."""
    if measure.low is None or measure.high is None:
        return f"n = {measure.n}" if measure.n is not None else ""
    unit = f" {measure.unit}" if measure.unit else ""
    low, high = (f"{100 * end:.1f}" if measure.unit == "%" else f"{end:.3g}" for end in (measure.low, measure.high))
    text = f"95 % interval {low} to {high}{unit}"
    return f"{text}, n = {measure.n}" if measure.n is not None else text
