"""Prediction records as Parquet files: `RecordWriter` writes them, `RecordFolder` lists them for `shipping.py`.

Columns are the fields of `contract/record.py`, in order: text as string, numbers as int64, bodies as binary. One file holds one
endpoint's records of one rotation, and appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from roadworthy.agent.records.privacy import Scrubber
from roadworthy.agent.records.tables import to_table
from roadworthy.contract.record import PredictionRecord, count_records, decode_records
from roadworthy.foundation.errors import InvalidRequest
from roadworthy.foundation.files import fsync_folder, private_folder, sweep_temporary, temporary_beside
from roadworthy.foundation.ids import PredictionIds
from roadworthy.foundation.references import check_name
from roadworthy.serving.health.pressure import free_bytes

if TYPE_CHECKING:
    import pyarrow as pa

_SUFFIX = ".parquet"
_GROUP_ROWS = 32_768
_NAMES = PredictionRecord.__struct_fields__
_AT = "at_us"
_OWN = frozenset({"id", "at_us", "request_id", "latency_us", "inputs", "outputs"})
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
    """The files that are not shipped yet, oldest first, within a bound. Used from one thread at a time.

    Args:
        folder: created with mode 0700 when missing; unfinished files of an earlier run are deleted.
        max_bytes: bound of all files together.
        reserve_bytes: free disk space to leave to others: with less, nothing is written.

    Attributes:
        files_lost: number of files that were damaged or deleted before they were shipped.
    """

    def __init__(self, folder: Path, max_bytes: int, reserve_bytes: int = 0) -> None:
        self.folder = private_folder(folder)
        self._max_bytes = max_bytes
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

    def add(self, file: FinishedFile) -> int:
        """Add a file that was just written; return the number of records in the oldest files that were deleted for it."""
        self._sizes[file.name] = file.size_bytes
        self._known[file.name] = file
        self._held_bytes += file.size_bytes
        lost = 0
        for name in self.names():
            if self._held_bytes <= self._max_bytes:
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


class RecordWriter:
    """Turns payloads of records into files. One thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ids = PredictionIds()

    def write(self, payloads: Iterable[bytes], scrubbers: Mapping[str, Scrubber]) -> tuple[list[FinishedFile], int]:
        """Write one file per endpoint.

        Args:
            payloads: bytes from `encode_records`.
            scrubbers: by endpoint; bodies of an endpoint without a scrubber are not kept.

        Returns:
            the finished files, and the number of records that could not be written: unreadable payloads, or a refusing disk.
        """
        with contextlib.suppress(OSError):  # then opening the files fails
            private_folder(self._folder)  # it may have been deleted
        files: dict[str, _OpenFile] = {}
        lost = 0
        for payload in payloads:
            try:
                groups = decode_records(payload)
            except ValueError:
                lost += count_records(payload)
                continue
            for group in groups:
                endpoint = group.kind.endpoint
                label = _file_label(endpoint)
                file = files.get(label)
                if file is None:
                    file = files[label] = _OpenFile(self._folder / f"{label}-{self._ids.next()}{_SUFFIX}")
                file.add(to_table(group, scrubbers.get(endpoint)), endpoint)
        finished = []
        for file in files.values():
            done = file.finish()
            if done is not None:
                finished.append(done)
            lost += file.lost
        return finished, lost


class _OpenFile:
    """A file being written in row groups of some thousand records; after a failure it only counts lost records."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside = temporary_beside(path)
        self._tables: list[pa.Table] = []
        self._held = 0
        self._writer: Any = None
        self._written = 0
        self._first_us, self._last_us = 2**63 - 1, 0
        self._endpoint = ""
        self._failed = False
        self.lost = 0

    def add(self, table: pa.Table, endpoint: str) -> None:
        self._tables.append(table)
        self._held += table.num_rows
        self._endpoint = endpoint
        if self._held >= _GROUP_ROWS:
            self._write_group()

    def finish(self) -> FinishedFile | None:
        """Close, flush to disk and rename the file. None when that failed; then no file is left behind."""
        self._write_group()
        if not self._failed:
            try:
                self._writer.close()
                descriptor = os.open(self._beside, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                    size = os.fstat(descriptor).st_size
                finally:
                    os.close(descriptor)
                self._beside.replace(self._path)
                fsync_folder(self._path.parent)
            except OSError:
                self._failed = True
        if self._failed:
            self.lost += self._written
            if self._writer is not None:
                with contextlib.suppress(OSError):
                    self._writer.close()
            with contextlib.suppress(OSError):
                self._beside.unlink(missing_ok=True)
            return None
        return FinishedFile(self._path.name, self._endpoint, self._written, size, self._first_us, self._last_us)

    def _write_group(self) -> None:
        tables, self._tables = self._tables, []
        held, self._held = self._held, 0
        if not held or self._failed:
            self.lost += held
            return
        import pyarrow as pa
        from pyarrow import compute

        table = pa.concat_tables(tables)
        times = compute.min_max(table.column(_AT)).as_py()
        self._first_us, self._last_us = min(self._first_us, times["min"]), max(self._last_us, times["max"])
        try:
            if self._writer is None:
                self._writer = _open_parquet(self._beside, table.schema)
            self._writer.write_table(table)
            self._written += held
        except OSError:
            self._failed = True
            self.lost += held


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
