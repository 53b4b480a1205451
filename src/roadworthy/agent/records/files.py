"""Prediction records as Parquet files: `SegmentFiles` writes them, `RecordFolder` lists them for `shipping.py`.

Columns are the fields of `contract/record.py`, in order: text as string, numbers as int64, bodies as binary. One file holds one
endpoint's records of one segment of the spool, and appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from roadworthy.agent.records.spool import frames
from roadworthy.agent.records.tables import to_table
from roadworthy.contract.record import PredictionRecord, RecordColumns, count_records, decode_records
from roadworthy.foundation.errors import InvalidRequest
from roadworthy.foundation.files import fsync_folder, private_folder, sweep_temporary, temporary_beside
from roadworthy.foundation.references import check_name
from roadworthy.serving.health.pressure import free_bytes

if TYPE_CHECKING:
    import pyarrow as pa

_SUFFIX = ".parquet"
_GROUP_ROWS = 8_192
_GROUP_BYTES = 4 << 20
"""A row group takes about 20 ms of processor time, and the thread for idle time cannot stop within it."""
_NAMES = PredictionRecord.__struct_fields__
_AT = "at_us"
_OWN = frozenset({"id", "at_us", "request_id", "latency_us", "inputs", "outputs"})
_GONE = frozenset({errno.ENOENT, errno.EIO, errno.EISDIR, errno.EACCES})
"""Errors of reading that mean that a segment is lost."""
_REPEATING = tuple(name for name in _NAMES if name not in _OWN)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class FinishedFile:
    """A record file on disk. `first_us` and `last_us` are the earliest and latest `at_us` in it."""

    name: str
    endpoint: str
    rows: int
    size_bytes: int
    first_us: int
    last_us: int


class RecordFolder:
    """The files that are not shipped yet, oldest first. Used from one thread at a time.

    Args:
        folder: created with mode 0700 when missing; unfinished files of an earlier run are deleted.
        max_bytes: bound of all files and of the spool together.
        reserve_bytes: free disk space to leave to others: with less, nothing is written.

    Attributes:
        max_bytes: as given.
        files_lost: number of files that were damaged or deleted before they were shipped.
    """

    def __init__(self, folder: Path, max_bytes: int, reserve_bytes: int = 0) -> None:
        self.folder = private_folder(folder)
        self.max_bytes = max_bytes
        self._reserve_bytes = reserve_bytes
        sweep_temporary(folder)
        found = ((path.name, path.stat().st_size) for path in folder.glob(f"*{_SUFFIX}"))
        self._sizes = dict(sorted(found, key=lambda pair: _order(pair[0])))
        self._known: dict[str, FinishedFile] = {}
        self.files_lost = 0
        self._held_bytes = sum(self._sizes.values())

    def names(self) -> list[str]:
        """All files, oldest first."""
        return list(self._sizes)

    def has_room(self) -> bool:
        """Whether the disk has more free space than the reserve."""
        free = free_bytes(self.folder)
        return free is None or free > self._reserve_bytes

    def describe(self, name: str) -> FinishedFile:
        """Describe a file's content; read from the file when this process did not write it.

        Raises:
            OSError: the file is gone, or unreadable now; without an errno: it is damaged.
            ValueError: it is not a Parquet file with the times of records.
        """
        known = self._known.get(name)
        if known is None:
            import pyarrow.parquet as pq

            about = pq.read_metadata(self.folder / name)
            at = about.schema.names.index(_AT)
            times = [about.row_group(group).column(at).statistics for group in range(about.num_row_groups)]
            if any(time is None or not time.has_min_max for time in times):
                raise ValueError("the record file has no times")
            first_us, last_us = int(min(time.min for time in times)), int(max(time.max for time in times))
            endpoint = "" if name.startswith("_") else name.removesuffix(_SUFFIX).rpartition("-")[0]
            known = FinishedFile(name, endpoint, about.num_rows, self._sizes[name], first_us, last_us)
            self._known[name] = known
        return known

    def add(self, file: FinishedFile) -> None:
        """Add a file that was just written; one of an earlier agent with the same name was replaced by it."""
        self._held_bytes += file.size_bytes - self._sizes.get(file.name, 0)
        self._sizes[file.name] = file.size_bytes
        self._known[file.name] = file

    def trim(self, spool_bytes: int) -> int:
        """Delete the oldest files while all of them and the spool exceed the bound; return the number of records in them."""
        lost = 0
        for name in self.names():
            if self._held_bytes + spool_bytes <= self.max_bytes:
                break
            lost += self.rows(name)
            self.remove(name)
        return lost

    def rows(self, name: str) -> int:
        """Records in a file; 0 when it is unreadable."""
        try:
            return self.describe(name).rows
        except (OSError, ValueError):
            return 0

    def give_up(self, name: str) -> int:
        """Forget a file that is damaged or gone; return how many records were in it, if known."""
        self.files_lost += 1
        known = self._known.get(name)
        self.remove(name)
        return 0 if known is None else known.rows

    def remove(self, name: str) -> None:
        """Delete a file, unless it is gone already."""
        self._held_bytes -= self._sizes.pop(name, 0)
        self._known.pop(name, None)
        try:
            (self.folder / name).unlink(missing_ok=True)
        except OSError:  # a disk that has become read-only; the next start finds the file again
            _log.exception("cannot delete a record file", file=name)


class SegmentFiles:
    """Turns one segment of the spool into record files, one for each endpoint, group by group. Methods may be called from
    different threads, one at a time. Every method raises OSError when the disk refuses; after any error, call `abandon`.

    Attributes:
        lost: number of records so far that were in damaged frames, or that no file can hold.
        finished: the files that exist, even when another one could not be finished.
    """

    def __init__(self, folder: Path, segment: Path) -> None:
        self._folder = folder
        self._segment = segment
        self._files: dict[str, _OpenFile] = {}
        self._groups = self._read()
        self.lost = 0
        self.finished: list[FinishedFile] = []

    def next_group(self) -> Callable[[], None] | None:
        """Read the records of the next row group; return what encodes and writes it, mostly without the interpreter. None at the
        end.

        Raises:
            LookupError: the segment is lost.
        """
        return next(self._groups, None)

    def finish(self) -> None:
        """Flush the files to disk and give them their names; none of them exists before that."""
        for file in self._files.values():
            if file.written:
                self.finished.append(file.finish())
        fsync_folder(self._folder)

    def abandon(self) -> None:
        """Delete unfinished files."""
        for file in self._files.values():
            file.abandon()

    def _read(self) -> Iterator[Callable[[], None]]:
        for payload in self._payloads():
            for group in self._decoded(payload):
                file = self._file(group.kind.endpoint)
                if file.add(group):
                    yield from self._take_group(file)
        for file in self._files.values():  # only files with a row group are open by now; of the others, one at a time
            if file.held:
                yield from self._take_group(file)
            file.close()

    def _payloads(self) -> Iterator[memoryview]:
        try:
            for payload in frames(self._segment):
                if isinstance(payload, int):
                    self.lost += payload
                else:
                    yield payload
        except OSError as error:
            if error.errno in _GONE:
                raise LookupError("a segment of records is lost") from error
            raise

    def _take_group(self, file: _OpenFile) -> Iterator[Callable[[], None]]:
        write, lost = file.take_group()
        self.lost += lost
        if write is not None:
            yield write

    def _decoded(self, payload: memoryview) -> list[RecordColumns]:
        try:
            return [group for group in decode_records(payload) if group.count]
        except ValueError:
            self.lost += count_records(payload)
            return []

    def _file(self, endpoint: str) -> _OpenFile:
        label = _file_label(endpoint)
        if label not in self._files:
            self._files[label] = _OpenFile(self._folder / f"{label}-{self._segment.stem}{_SUFFIX}", endpoint)
        return self._files[label]


class _OpenFile:
    """A file being written in row groups of some thousand records.

    Attributes:
        held: number of records for the next row group. written: number of those in row groups.
    """

    def __init__(self, path: Path, endpoint: str) -> None:
        self._path = path
        self._endpoint = endpoint
        self._beside = temporary_beside(path)
        self._groups: list[RecordColumns] = []
        self._held_bytes = 0
        self._writer: Any = None
        self.written = 0
        self._first_us, self._last_us = 2**63 - 1, 0
        self.held = 0

    def add(self, group: RecordColumns) -> bool:
        """Hold records; whether they suffice for a row group."""
        self._groups.append(group)
        self.held += group.count
        self._held_bytes += len(group.inputs.data) + len(group.outputs.data)
        return self.held >= _GROUP_ROWS or self._held_bytes >= _GROUP_BYTES

    def take_group(self) -> tuple[Callable[[], None] | None, int]:
        """Make a table of the records that are held; return what writes it, if any, and the number of records that fit into no
        table."""
        from pyarrow import compute

        groups, held = self._groups, self.held
        self._groups, self.held, self._held_bytes = [], 0, 0
        table = _to_table(groups)
        if table is None:
            return None, held
        times = compute.min_max(table.column(_AT)).as_py()
        self._first_us, self._last_us = min(self._first_us, times["min"]), max(self._last_us, times["max"])
        self.written += table.num_rows
        if self._writer is None:
            self._writer = _open_parquet(self._beside, table.schema)
        return partial(self._writer.write_table, table), held - table.num_rows

    def close(self) -> None:
        """Write the end of the file, whose last row group was written."""
        if self._writer is not None:
            self._writer.close()

    def finish(self) -> FinishedFile:
        """Flush to disk and rename the file, which is closed."""
        descriptor = os.open(self._beside, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        self._beside.replace(self._path)
        return FinishedFile(self._path.name, self._endpoint, self.written, size, self._first_us, self._last_us)

    def abandon(self) -> None:
        """Delete the file, unless it is finished."""
        with contextlib.suppress(OSError):
            if self._writer is not None:
                self._writer.close()
        with contextlib.suppress(OSError):
            self._beside.unlink(missing_ok=True)


def _to_table(groups: Sequence[RecordColumns]) -> pa.Table | None:
    """A table of all groups; of those alone that can be in one, if not all can."""
    try:
        return to_table(groups)
    except Exception:  # noqa: BLE001 - whatever is wrong with some records, those of others must be kept
        if len(groups) == 1:
            _log.exception("records fit into no file", endpoint=groups[0].kind.endpoint, records=groups[0].count)
            return None
    import pyarrow as pa

    tables = [table for group in groups if (table := _to_table([group])) is not None]
    return pa.concat_tables(tables) if tables else None


def _open_parquet(path: Path, schema: pa.Schema) -> Any:
    import pyarrow.parquet as pq

    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.close(descriptor)
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=list(_REPEATING),
        write_page_checksum=True,
        write_statistics=["id", "at_us", "status", "code", "version"],
    )


def _file_label(endpoint: str) -> str:
    try:
        return check_name(endpoint)
    except InvalidRequest:
        return "_"


def _order(name: str) -> str:
    """The time-ordered part of a file's name."""
    return name.removesuffix(_SUFFIX).rpartition("-")[2]
