"""Arrow files as ``save_to_disk`` of Hugging Face's datasets writes them: streams of record batches, read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

from auditor.data.intake.files import Entry
from auditor.data.intake.tables import TableReader
from auditor.kit.errors import IntakeError
from auditor.kit.limits import MIB
from auditor.kit.wording import shown, size_text

if TYPE_CHECKING:
    import pyarrow as pa

_MAX_BATCH_BYTES = 384 * MIB
"""Bytes of one record batch, which is in memory whole."""

_CACHE = ("cache-", "indices")
"""How the names begin of files beside the table, which the library leaves there."""

_HEADER, _COMPRESSION = 2, 3
"""Numbers of the fields of Arrow's Message and RecordBatch (format/Message.fbs)."""


class _Arrow:
    """See ``tables.Table``. A stream is read from its start each time."""

    def __init__(self, stream: BinaryIO, entry: Entry) -> None:
        self._stream, self._entry = stream, entry
        self.rows = sum(batch.num_rows for batch in self._read())

    def _read(self) -> Iterator[pa.RecordBatch]:
        """The record batches, none of them checked. Raises IntakeError, and anything for bytes that are no Arrow stream."""
        import pyarrow as pa

        self._stream.seek(0)
        reader = pa.ipc.MessageReader.open_stream(pa.PythonFile(self._stream, mode="r"))
        self.schema = pa.ipc.read_schema(reader.read_next_message())
        for message in reader:
            if message.body is not None and message.body.size > _MAX_BATCH_BYTES:
                raise IntakeError(
                    f"A record batch of {shown(self._entry.path)} has {size_text(message.body.size)}, the limit is "
                    f"{size_text(_MAX_BATCH_BYTES)}.",
                    'Write it anew as Parquet: ds.to_parquet("data.parquet", batch_size=16).',
                )
            if _is_compressed(message.metadata.to_pybytes()):
                raise IntakeError(
                    f"The record batches of {shown(self._entry.path)} are compressed; datasets stores them as they are.",
                    'Write it anew as Parquet: ds.to_parquet("data.parquet").',
                )
            yield pa.ipc.read_record_batch(message, self.schema)

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        names = list(dict.fromkeys(column.partition(".")[0] for column in columns))
        for batch in self._read():
            wanted = batch.select(names)
            wanted.validate(full=True)  # offsets out of a file may lead anywhere
            for start in range(0, wanted.num_rows, rows):
                yield wanted.slice(start, rows)


class ArrowReader(TableReader):
    """The rows of one Arrow stream, or of the shards of one in an archive."""

    format, sort = "arrow", "Arrow file"

    def _opened(self, entry: Entry) -> _Arrow:
        return _Arrow(self._stack.enter_context(self._files.seekable(entry)), entry)


def is_arrow(entry: Entry) -> bool:
    """Whether a file is called as those of a saved data set are."""
    return entry.parts[-1].lower().endswith(".arrow") and not entry.parts[-1].startswith(_CACHE)


def _is_compressed(metadata: bytes) -> bool:
    """Whether a message (a flatbuffer that pyarrow has verified) is a record batch of compressed buffers."""
    message = int.from_bytes(metadata[:4], "little")
    header = _field(metadata, message, _HEADER)
    if not header:
        return False
    batch = header + int.from_bytes(metadata[header : header + 4], "little")
    return _field(metadata, batch, _COMPRESSION) != 0


def _field(data: bytes, table: int, number: int) -> int:
    """Where a field of a flatbuffer's table lies; 0 where it is left out."""
    vtable = table - int.from_bytes(data[table : table + 4], "little", signed=True)
    size = int.from_bytes(data[vtable : vtable + 2], "little")
    slot = 4 + 2 * number
    offset = int.from_bytes(data[vtable + slot : vtable + slot + 2], "little") if slot < size else 0
    return table + offset if offset else 0
