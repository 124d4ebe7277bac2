"""Parquet as Hugging Face's datasets writes it, read row group by row group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from auditor.data.intake.files import Entry
from auditor.data.intake.tables import MAX_METADATA, TableReader
from auditor.kit.errors import IntakeError
from auditor.kit.limits import MIB
from auditor.kit.wording import shown, size_text

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_BYTES = 8 * MIB
"""Bytes of the rows that are read at once: a table of large images takes no more memory than one of small ones."""

_MAX_GROUP_BYTES = 384 * MIB
"""Bytes of one row group: it is in memory twice where its writer made one page of it, as pyarrow does of large values."""

_BUFFER = MIB


class _Parquet:
    """See ``tables.Table``."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.schema: pa.Schema = file.schema_arrow
        self.rows: int = file.metadata.num_rows

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        yield from self.file.iter_batches(self._at_once(columns, rows), columns=list(columns), use_threads=False)

    def _at_once(self, columns: Sequence[str], rows: int) -> int:
        """So many rows that a batch has about `_BATCH_BYTES`, at most ``rows``; large images come one by one."""
        wanted, metadata = {column.partition(".")[0] for column in columns}, self.file.metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
        size = sum(
            chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.partition(".")[0] in wanted
        )
        return max(1, min(rows, _BATCH_BYTES * metadata.num_rows // max(size, 1)))


class ParquetReader(TableReader):
    """The rows of one Parquet file, or of the shards of one in an archive."""

    format, sort = "parquet", "Parquet file"

    def _opened(self, entry: Entry) -> _Parquet:
        import pyarrow as pa
        import pyarrow.parquet as pq

        stream = self._stack.enter_context(self._files.seekable(entry))
        file = pq.ParquetFile(
            pa.PythonFile(stream, mode="r"),
            buffer_size=_BUFFER, pre_buffer=False,
            thrift_string_size_limit=MAX_METADATA, thrift_container_size_limit=1_000_000,
        )  # fmt: skip
        return _Parquet(file)

    def _check_pieces(self, entry: Entry) -> None:
        table = self._table(entry)
        assert isinstance(table, _Parquet)
        for group in range(table.file.metadata.num_row_groups):
            size = table.file.metadata.row_group(group).total_byte_size
            if size > _MAX_GROUP_BYTES:
                raise IntakeError(
                    f"A row group of {shown(entry.path)} has {size_text(size)}, the limit is {size_text(_MAX_GROUP_BYTES)}.",
                    'Write it in smaller groups: ds.to_parquet("data.parquet", batch_size=16).',
                )
