"""Tables of images as Hugging Face's datasets writes them: a column of image files, a column of labels, read piece by piece."""

from __future__ import annotations

import io
import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from auditor.data.intake.columns import by_part, choices_of, one_of, shards_of
from auditor.data.intake.files import Entry, Files
from auditor.data.intake.pictures import Item, Layout, PictureReader
from auditor.data.intake.reading import Choice, Reading
from auditor.data.intake.values import labels_of
from auditor.kit.errors import IntakeError
from auditor.kit.limits import MIB, Limits
from auditor.kit.wording import AGAIN, counted, listed, shown, size_text
from auditor.models.labels import check_class_names

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 16
"""Rows of images in memory at a time."""

MAX_METADATA = 16 * MIB
"""Bytes of the class names and features that a schema carries."""

_LABEL_ROWS = 65_536

EMBED = (
    "from datasets.table import embed_table_storage; "
    'ds.with_format("arrow").map(embed_table_storage, batched=True).with_format(None).to_parquet("data.parquet")'
)
"""What puts the bytes of the images into the table, where the images can still be read."""


class Table(Protocol):
    """An open file of a table. Its reader of untrusted bytes may raise anything."""

    schema: pa.Schema
    rows: int

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """The table in pieces of at most ``rows`` rows; a column ``a.b`` is the field b of the struct a."""


class _Column(NamedTuple):
    """A column of images: its name, and the fields that are read of it where it is a struct of bytes and path."""

    name: str
    fields: tuple[str, ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(f"{self.name}.{field}" for field in self.fields) or (self.name,)


class _Schema(NamedTuple):
    images: tuple[_Column, ...]
    labels: tuple[str, ...]
    names: dict[str, tuple[str, ...]]


class TableReader(PictureReader):
    """The rows of one file, or of the shards of one in an archive. ``sort``: what errors call such a file."""

    sort: str

    def __init__(self, files: Files, entries: Sequence[Entry], limits: Limits, stack: ExitStack) -> None:
        super().__init__(files.name, limits)
        self._parts = by_part((entry.path, entry) for entry in entries)
        self._files, self._stack = files, stack
        self._open: dict[str, Table] = {}

    @abstractmethod
    def _opened(self, entry: Entry) -> Table:
        """The file, opened. May raise anything."""

    def _check_pieces(self, entry: Entry) -> None:
        """Refuse a file of which one piece takes too much memory. Raises IntakeError."""

    def choices(self) -> list[Choice]:
        """What of the tables can be chosen."""
        schema = self._schema(next(iter(self._parts.values()))[0])
        return choices_of(self._parts, [column.name for column in schema.images], schema.labels)

    def _table(self, entry: Entry) -> Table:
        if entry.path not in self._open:
            try:
                self._open[entry.path] = self._opened(entry)
            except IntakeError:
                raise
            except Exception:
                raise self._damaged(entry, "its columns cannot be read") from None
        return self._open[entry.path]

    def _damaged(self, entry: Entry, what: str) -> IntakeError:
        return IntakeError(f"The {self.sort} {shown(entry.path)} of {shown(self._name)} is damaged: {what}.", AGAIN)

    def _schema(self, entry: Entry) -> _Schema:
        """Columns that may be images or labels, by their types, and the names of the classes in the schema's metadata."""
        import pyarrow as pa

        table = self._table(entry)
        try:
            columns = [(field.name, field.type) for field in table.schema]
            features = _features((table.schema.metadata or {}).get(b"huggingface", b""))
        except Exception:
            raise self._damaged(entry, "its schema cannot be read") from None
        is_bytes = (pa.types.is_binary, pa.types.is_large_binary)
        images = []
        for name, kind in columns:
            if pa.types.is_struct(kind):
                inner = {field.name: field.type for field in kind}
                if "bytes" in inner and any(test(inner["bytes"]) for test in is_bytes):
                    images.append(_Column(name, ("bytes", "path") if "path" in inner else ("bytes",)))
            elif any(test(kind) for test in is_bytes):
                images.append(_Column(name))
        labels = [
            name for name, kind in columns
            if pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
            or pa.types.is_boolean(kind)
        ]  # fmt: skip
        names = {
            name: check_class_names([str(item) for item in feature["names"]], self._limits)
            for name, feature in features.items()
            if name in labels
            and isinstance(feature, dict)
            and isinstance(feature.get("names"), list)
            and feature["names"]
        }
        if names:  # what the schema calls a class label is one; other numbers may be anything
            labels = [name for name in labels if name in names]
        if not images:
            lists = [name for name, kind in columns if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)]
            raise IntakeError(
                f"{shown(self._name)} has no column of images: expected a column of image files as bytes, it has "
                f"{listed([f'{shown(name)} ({str(kind)[:40]})' for name, kind in columns], 8)}.",
                "Save the pixels with numpy: np.savez_compressed('data.npz', images=images, labels=labels)"
                if lists
                else f"Write the image files themselves: {EMBED}",
            )
        if not labels:
            several = [name for name, kind in columns if pa.types.is_list(kind)]
            raise IntakeError(
                f"{shown(self._name)} has no column of labels: expected whole numbers or names, one for each image"
                + (f"; {shown(several[0])} holds lists, several for an image." if several else "."),
                "Add a column with the class of each image.",
            )
        return _Schema(tuple(images), tuple(labels), names)

    def _chosen(self, reading: Reading) -> tuple[list[Entry], _Column, str, tuple[str, ...] | None]:
        shards = shards_of(self._parts, reading, self._name)
        schema = self._schema(shards[0])
        by_name = {column.name: column for column in schema.images}
        image = one_of("images", reading.images, tuple(by_name), self._name)
        label = one_of("labels", reading.labels, schema.labels, self._name)
        for entry in shards[1:]:
            other = self._schema(entry)
            if (
                by_name[image] not in other.images
                or label not in other.labels
                or other.names.get(label) != schema.names.get(label)
            ):
                raise IntakeError(
                    f"{shown(shards[0].path)} and {shown(entry.path)} of {shown(self._name)} have other columns or class names.",
                    "Add them as data sets of their own.",
                )
        return shards, by_name[image], label, schema.names.get(label)

    def _layout(self, reading: Reading) -> Layout:
        shards, image, label, names = self._chosen(reading)
        values: list[int | str] = []
        places: list[tuple[Entry, int]] = []
        for entry in shards:
            if self._table(entry).rows + len(places) > self._limits.samples:
                raise IntakeError(f"{shown(self._name)} has more than {self._limits.samples:,} images, the limit.")
            self._check_pieces(entry)
            self._check_first(entry, image)
            for row, value in enumerate(self._values(entry, label)):
                places.append((entry, row))
                values.append(value)
        missing = [number for number, value in enumerate(values) if value is None]
        if missing:
            raise IntakeError(
                f"The column {shown(label)} of {shown(self._name)} has no label in {counted(len(missing), 'row')} "
                f"({', '.join(f'#{number}' for number in missing[:5])}).",
                f"Leave these rows out: ds.filter(lambda row: row[{label!r}] is not None).",
            )
        if not values:
            raise IntakeError(f"{shown(self._name)} holds no images.", "A data set needs at least one.")
        read, made_of = labels_of(values, label, names, reading, self._limits)
        out = set(self._out)
        items = [
            Item(f"#{number}", given, number, (entry, row, image))
            for number, ((entry, row), given) in enumerate(zip(places, read.values.tolist(), strict=True))
            if number not in out
        ]
        notes = [
            f"The columns {shown(image.reads[0])} and {shown(label)} were taken as images and labels.",
            *read.notes,
        ]
        if len(shards) > 1:
            notes.insert(0, f"{counted(len(shards), 'file')} joined, in the order of their names.")
        return Layout(items, read.class_names, made_of, len(places), "image", notes)

    def _check_first(self, entry: Entry, image: _Column) -> None:
        """Refuse files whose first images are all missing: paths, not images."""
        fault: IntakeError | None = None
        for content, _ in zip(self._rows(entry, image), range(ROWS), strict=False):
            if not isinstance(content, IntakeError):
                return
            fault = fault or content
        if fault is not None:
            raise fault

    def _values(self, entry: Entry, column: str) -> Iterator[Any]:
        for batch in self._cells(entry, [column], _LABEL_ROWS):
            yield from (int(value) if isinstance(value, bool) else value for value in batch)

    def _contents(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes | IntakeError]]:
        wanted = iter(items)
        item = next(wanted, None)
        while item is not None:
            entry, _, image = item.place
            for row, content in enumerate(self._rows(entry, image)):
                if item is None or item.place[0] is not entry:
                    break
                if row == item.place[1]:
                    yield item, content
                    item = next(wanted, None)

    def _rows(self, entry: Entry, image: _Column) -> Iterator[bytes | IntakeError]:
        """The image file of each row, or why there is none."""
        for cells in self._cells(entry, image.reads, ROWS):
            for cell in cells:
                yield self._cell(cell, entry, image)

    def _cells(self, entry: Entry, columns: Sequence[str], rows: int) -> Iterator[list[Any]]:
        """The cells of one column, some rows at a time. Raises IntakeError."""
        batches = self._table(entry).batches(columns, rows)
        while True:
            try:
                batch = next(batches, None)
                cells = batch.column(0).to_pylist() if batch is not None else None
            except Exception:
                raise self._damaged(entry, f"the column {shown(columns[0].partition('.')[0])} cannot be read") from None
            if cells is None:
                return
            yield cells
            del batch, cells

    def _cell(self, cell: Any, entry: Entry, image: _Column) -> bytes | IntakeError:
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if content is not None:
            if len(content) > self._limits.image_bytes:
                return IntakeError(
                    f"An image of {shown(entry.path)} has {size_text(len(content))}, which is over the limit."
                )
            return bytes(content)
        path = cell.get("path") if isinstance(cell, dict) else None
        if path:
            return IntakeError(
                f"The column {shown(image.name)} of {shown(entry.path)} holds the paths of images ({shown(str(path))}), not the "
                "images: datasets writes an image folder so.",
                f"Where the images are, put them into the table: {EMBED}",
            )
        return IntakeError(f"A row of {shown(entry.path)} holds no image.", "Leave the row out.")


def _features(text: bytes) -> dict[str, object]:
    """The features that the library keeps as JSON in a schema; none where it cannot be read."""
    if not text or len(text) > MAX_METADATA:
        return {}
    try:
        features = json.load(io.BytesIO(text))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}
