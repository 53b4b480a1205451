"""Prediction records as Parquet files. `records.py` has `RecordWriter` write them; `shipping.py` takes what `RecordFolder` lists.

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

import msgspec
import structlog

from roadworthy.contract.record import PredictionRecord
from roadworthy.foundation.errors import InvalidRequest
from roadworthy.foundation.files import fsync_folder, private_folder, sweep_temporary, temporary_beside
from roadworthy.foundation.ids import PredictionIds
from roadworthy.foundation.references import check_name
from roadworthy.gateway.agent.privacy import WITHHELD, Scrubber
from roadworthy.gateway.pressure import free_bytes

if TYPE_CHECKING:
    import pyarrow as pa

_SUFFIX = ".parquet"
_GROUP_ROWS = 4_096
_FIELDS = msgspec.structs.fields(PredictionRecord)
_NAMES = tuple(field.name for field in _FIELDS)
_PLACE = {name: place for place, name in enumerate(_NAMES)}
_ENDPOINT, _FORMAT, _AT = _PLACE["endpoint"], _PLACE["input_format"], _PLACE["at_us"]
_INPUTS, _OUTPUTS = _PLACE["inputs"], _PLACE["outputs"]
_JSON_BYTES, _OUTPUT_JSON_BYTES = _PLACE["json_bytes"], _PLACE["output_json_bytes"]
_OUTPUT_FORMAT = _PLACE["output_format"]
_REPEATING = tuple(
    name for name in _NAMES if name not in {"id", "at_us", "request_id", "latency_us", "inputs", "outputs"}
)
# Rows as tuples decode three times as fast as structs, and are needed by column right after.
_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(list[tuple[tuple(field.type for field in _FIELDS)]])  # type: ignore[misc]

Row = tuple[Any, ...]
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


def count_records(payload: bytes) -> int:
    """How many records `encode_records`' bytes hold, from their first bytes alone; 0 when they are something else."""
    first = payload[0] if payload else 0
    if 0x90 <= first <= 0x9F:
        return first & 0x0F
    if first in (0xDC, 0xDD):
        return int.from_bytes(payload[1 : 3 if first == 0xDC else 5], "big")
    return 0


class RecordFolder:
    """The files that are still here, oldest first, under a bound. Used from one thread at a time.

    Args:
        folder: made with mode 0700 when it is missing; unfinished files of an earlier run are deleted.
        max_bytes: bound of all files together.
        reserve_bytes: space on the disk that is left to others: without it nothing is written.
    """

    def __init__(self, folder: Path, max_bytes: int, reserve_bytes: int = 0) -> None:
        self.folder = private_folder(folder)
        self._max_bytes = max_bytes
        self._reserve_bytes = reserve_bytes
        sweep_temporary(folder)
        found = ((path.name, path.stat().st_size) for path in folder.glob(f"*{_SUFFIX}"))
        self._sizes = dict(sorted(found, key=lambda pair: _order(pair[0])))
        self._known: dict[str, FinishedFile] = {}
        self._held_bytes = sum(self._sizes.values())

    def names(self) -> list[str]:
        """All files, oldest first."""
        return list(self._sizes)

    def has_room(self) -> bool:
        """Whether the disk has more free space than what is left to others."""
        free = free_bytes(self.folder)
        return free is None or free > self._reserve_bytes

    def describe(self, name: str) -> FinishedFile:
        """What is in a file; read from it when this process did not write it.

        Raises:
            OSError: it is gone, or cut short.
            ValueError: it is no Parquet file with these columns.
        """
        known = self._known.get(name)
        if known is None:
            import pyarrow.parquet as pq

            about = pq.read_metadata(self.folder / name)
            times = [about.row_group(group).column(_AT).statistics for group in range(about.num_row_groups)]
            first_us, last_us = min(time.min for time in times), max(time.max for time in times)
            endpoint = "" if name.startswith("_") else name.removesuffix(_SUFFIX).rpartition("-")[0]
            known = FinishedFile(name, endpoint, about.num_rows, self._sizes[name], first_us, last_us)
            self._known[name] = known
        return known

    def add(self, file: FinishedFile) -> int:
        """Take a file that was just written; return how many records the oldest files held that had to go for it."""
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
        """Records in a file; 0 when it cannot be read any more."""
        try:
            return self.describe(name).rows
        except (OSError, ValueError):
            return 0

    def remove(self, name: str) -> None:
        """Delete a file; nothing happens when it is gone already."""
        self._held_bytes -= self._sizes.pop(name, 0)
        self._known.pop(name, None)
        try:
            (self.folder / name).unlink(missing_ok=True)
        except OSError:  # a disk that has become read-only; the next start finds the file again
            _log.exception("a record file cannot be deleted", file=name)


class RecordWriter:
    """Turns payloads of records into files. One thread at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ids = PredictionIds()

    def write(self, payloads: Iterable[bytes], scrubbers: Mapping[str, Scrubber]) -> tuple[list[FinishedFile], int]:
        """Write one file per endpoint.

        Args:
            payloads: `encode_records`' bytes.
            scrubbers: by endpoint; bodies of an endpoint without one are not kept.

        Returns:
            the finished files, and how many records could not be written: unreadable payloads, or a disk that refuses.
        """
        files: dict[str, _OpenFile] = {}
        places: dict[
            str, tuple[_OpenFile, Scrubber | None, bool]
        ] = {}  # by endpoint, looked up once for all its records
        lost = 0
        for payload in payloads:
            try:
                rows = _decoder.decode(payload)
            except msgspec.MsgspecError:
                lost += count_records(payload)
                continue
            for row in rows:
                place = places.get(row[_ENDPOINT])
                if place is None:
                    place = places[row[_ENDPOINT]] = self._place(row[_ENDPOINT], files, scrubbers)
                file, scrubber, plain = place
                file.add(row if plain else _scrub(row, scrubber))
        finished = []
        for file in files.values():
            done = file.finish()
            if done is not None:
                finished.append(done)
            lost += file.lost
        return finished, lost

    def _place(
        self, endpoint: str, files: dict[str, _OpenFile], scrubbers: Mapping[str, Scrubber]
    ) -> tuple[_OpenFile, Scrubber | None, bool]:
        """The file of an endpoint's records, what clears them of private values, and whether there is nothing to clear."""
        label = _file_label(endpoint)
        file = files.get(label)
        if file is None:
            file = files[label] = _OpenFile(self._folder / f"{label}-{self._ids.next()}{_SUFFIX}")
        scrubber = scrubbers.get(endpoint)
        plain = scrubber is not None and not scrubber.inputs_private and not scrubber.outputs_private
        return file, scrubber, plain


class _OpenFile:
    """A file being written, one row group of some thousand records after the other; after a first failure it only counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside = temporary_beside(path)
        self._rows: list[Row] = []
        self._writer: Any = None
        self._written = 0
        self._first_us, self._last_us = 2**63 - 1, 0
        self._endpoint = ""
        self._failed = False
        self.lost = 0

    def add(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) == _GROUP_ROWS:
            self._write_group()

    def finish(self) -> FinishedFile | None:
        """Close, flush to disk, rename; None when it failed, with nothing left behind."""
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
        rows, self._rows = self._rows, []
        if not rows or self._failed:
            self.lost += len(rows)
            return
        table = _to_table(rows)
        times = [row[_AT] for row in rows]
        self._first_us, self._last_us = min(self._first_us, *times), max(self._last_us, *times)
        self._endpoint = rows[0][_ENDPOINT]
        try:
            if self._writer is None:
                self._writer = _open_parquet(self._beside, table.schema)
            self._writer.write_table(table)
            self._written += len(rows)
        except OSError:
            self._failed = True
            self.lost += len(rows)


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
        write_statistics=["id", "at_us", "status", "code", "version"],
    )


def _to_table(rows: list[Row]) -> pa.Table:
    import pyarrow as pa

    kinds = {str: pa.string(), int: pa.int64(), bytes: pa.binary()}
    arrays = [
        pa.array(column, type=kinds[field.type]) for field, column in zip(_FIELDS, zip(*rows, strict=True), strict=True)
    ]
    return pa.table(arrays, names=list(_NAMES))


def _scrub(row: Row, scrubber: Scrubber | None) -> Row:
    inputs = outputs = None
    if scrubber is not None:
        inputs = scrubber.inputs(row[_INPUTS], row[_FORMAT], row[_JSON_BYTES])
        outputs = scrubber.outputs(row[_OUTPUTS], row[_OUTPUT_FORMAT], row[_OUTPUT_JSON_BYTES])
    changed = list(row)
    if inputs is None or outputs is None:
        changed[_FORMAT] = WITHHELD
    for place, length, body in ((_INPUTS, _JSON_BYTES, inputs), (_OUTPUTS, _OUTPUT_JSON_BYTES, outputs)):
        changed[place] = body or b""
        if body is None:
            changed[length] = -1
    return tuple(changed)


def _file_label(endpoint: str) -> str:
    try:
        return check_name(endpoint)
    except InvalidRequest:
        return "_"


def _order(name: str) -> str:
    """The time-ordered part of a file's name."""
    return name.removesuffix(_SUFFIX).rpartition("-")[2]
