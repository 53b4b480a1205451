"""Frames of records as they came, on disk until they become record files: soon durable, without a step for each record.

A segment is a file of frames, each with a head and a payload (`contract/record.py`), from which `privacy.py` has removed private
values. After damage, the mark in each head finds the next whole frame, and the number of records before it tells how many were
lost. The mark comes from the segment's random name, so that no body can look like a frame.

One segment becomes one set of record files, named by the segment: if the agent is killed before the segment is deleted, the next
agent writes files of the same names again, and no record is stored twice.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from zlib import crc32

import structlog

from roadworthy.contract.record import count_records
from roadworthy.foundation.files import fsync_folder, private_folder, read_long, write_long
from roadworthy.foundation.ids import PredictionIds

SEGMENT_BYTES = 32 << 20
SEGMENT_ROWS = 200_000
"""A segment with more bytes or records takes no further frames."""
_SUFFIX = ".spool"
_MARK_BYTES = 8
_NUMBERS = struct.Struct("<IQ")
_CHECKSUM = struct.Struct("<I")
_HEAD_BYTES = _MARK_BYTES + _NUMBERS.size + _CHECKSUM.size
"""Before a payload: the segment's mark, the payload's length and the number of records in earlier frames, and the CRC-32 of both
numbers and the payload."""
_LEAST_BYTES = 60
"""The columns of a record without texts and bodies."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Segment:
    """A file of frames.

    Attributes:
        rows: the records in it; None in a segment of an earlier agent until `Spool.count` reads it.
        size_bytes: the bytes in it.
        since_s: when its first record arrived, by the monotonic clock; for a segment of an earlier agent, when it was found.
    """

    path: Path
    rows: int | None = 0
    size_bytes: int = 0
    since_s: float = 0.0


class Spool:
    """The segments of a folder, oldest first. Methods are called in one thread at a time; `size_bytes` and `age_s` in any.

    Args:
        folder: must exist; created again when it was deleted.

    Attributes:
        synced: whether all frames would survive a power cut.
        segments: oldest first; those of an earlier agent are not read before their turn comes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ids = PredictionIds()
        self._descriptor: int | None = None
        self.synced = True
        self._taken: Segment | None = None
        self.segments: list[Segment] = []
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            self.segments.append(Segment(path, None, _size(path), time.monotonic()))

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size_bytes for segment in self.segments)

    def age_s(self) -> float:
        """How long the oldest record has waited, in seconds."""
        oldest = self.segments[:1]  # the thread that writes may delete it at any time
        return time.monotonic() - oldest[0].since_s if oldest else 0.0

    def append(self, payloads: Sequence[bytes | bytearray]) -> int:
        """Append frames; return the number of records that were lost, because the disk refused or a segment was deleted."""
        if not payloads:
            return 0
        rows = sum(map(count_records, payloads))
        lost = 0
        try:
            if self._descriptor is not None and os.fstat(self._descriptor).st_nlink == 0:
                self._close()
                lost = self.count(self.segments.pop())
            if self._descriptor is None:
                self._descriptor = self._open()
            segment = self.segments[-1]
            before = self.count(segment)
            data = _encode(payloads, _mark(segment.path), before)
            self.synced = False
            self._write(self._descriptor, data)
        except OSError as error:
            _log.warning("cannot keep records on disk", reason=str(error))
            self._close()
            if self.segments and not self.segments[-1].size_bytes:
                self.drop(self.segments[-1])
            return lost + rows
        segment.rows = before + rows
        segment.size_bytes += len(data)
        if segment.size_bytes >= SEGMENT_BYTES or segment.rows >= SEGMENT_ROWS:
            self._close()
        return lost

    def sync(self) -> None:
        """Make the appended frames survive a power cut."""
        if self._descriptor is not None and not self.synced:
            with contextlib.suppress(OSError):  # the frames stay in the system's cache, and are tried again
                os.fdatasync(self._descriptor)
                fsync_folder(self._folder)
                self.synced = True

    def take_oldest(self) -> Segment | None:
        """The oldest segment; None without one. Nothing is appended to it any longer, and `trim` leaves it."""
        if not self.segments:
            return None
        if len(self.segments) == 1:
            self._close()
        self._taken = self.segments[0]
        return self._taken

    def count(self, segment: Segment) -> int:
        """The number of records in a segment, read from it if an earlier agent wrote it; 0 when it is unreadable."""
        if segment.rows is None:
            segment.rows = 0
            with contextlib.suppress(OSError):
                found = frames(segment.path)
                segment.rows = sum(each if isinstance(each, int) else count_records(each) for each in found)
        return segment.rows

    def give_back(self) -> None:
        """Leave the segment that was taken for a later attempt."""
        self._taken = None

    def trim(self, max_bytes: int) -> int:
        """Delete the oldest segments while all of them exceed the bound; return the number of records in them."""
        lost = 0
        for segment in list(self.segments):
            if self.size_bytes <= max_bytes:
                break
            if segment is not self._taken:
                lost += self.count(segment)
                self.drop(segment)
        return lost

    def drop(self, segment: Segment) -> None:
        """Delete a segment."""
        if segment is self.segments[-1]:
            self._close()
        self.segments.remove(segment)
        try:
            segment.path.unlink(missing_ok=True)
        except OSError:  # a disk that has become read-only; the next start writes files of the same names again
            _log.exception("cannot delete a segment of records", file=segment.path.name)

    def _open(self) -> int:
        path = private_folder(self._folder) / f"{self._ids.next()}{_SUFFIX}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.segments.append(Segment(path, since_s=time.monotonic()))
        return descriptor

    def _write(self, descriptor: int, data: bytes) -> None:
        try:
            write_long(descriptor, data)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, self.segments[-1].size_bytes)
            raise

    def _close(self) -> None:
        if self._descriptor is not None:
            self.sync()
            os.close(self._descriptor)
            self._descriptor = None


def frames(segment: Path) -> Iterator[memoryview | int]:
    """The payloads of a segment in order; in place of damaged ones, the number of records that were lost there.

    Raises:
        OSError: the segment cannot be read.
    """
    data, mark = read_long(segment), _mark(segment)
    start = rows = 0
    while (found := _next_frame(data, mark, start)) is not None:
        payload, before, start = found
        if before > rows:
            yield before - rows
        yield payload
        rows = before + count_records(payload)
    if lost := _lost_at_end(memoryview(data)[start:]):
        yield lost


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _mark(segment: Path) -> bytes:
    return sha256(segment.stem.encode()).digest()[:_MARK_BYTES]


def _encode(payloads: Sequence[bytes | bytearray], mark: bytes, before: int) -> bytes:
    parts: list[bytes | bytearray] = []
    for payload in payloads:
        numbers = _NUMBERS.pack(len(payload), before)
        parts += (mark, numbers, _CHECKSUM.pack(crc32(payload, crc32(numbers))), payload)
        before += count_records(payload)
    return b"".join(parts)


def _next_frame(data: bytes, mark: bytes, start: int) -> tuple[memoryview, int, int] | None:
    """The payload of the first whole frame at `start` or behind it, the number of records before it, and where it ends."""
    while (start := data.find(mark, start)) >= 0:
        head = memoryview(data)[start + _MARK_BYTES : start + _HEAD_BYTES]
        if len(head) < _HEAD_BYTES - _MARK_BYTES:
            return None
        length, before = _NUMBERS.unpack_from(head)
        end = start + _HEAD_BYTES + length
        payload = memoryview(data)[start + _HEAD_BYTES : end]
        if length == len(payload) and _CHECKSUM.unpack_from(head, _NUMBERS.size) == (
            crc32(payload, crc32(head[: _NUMBERS.size])),
        ):
            return payload, before, end
        start += 1
    return None


def _lost_at_end(rest: memoryview) -> int:
    """About how many records were in damaged frames behind the last whole one, usually one that a kill has cut off. A power cut
    may leave space without bytes, where none were."""
    lost = 0
    while len(rest) > _HEAD_BYTES and (length := _NUMBERS.unpack_from(rest, _MARK_BYTES)[0]):
        lost += _rows_at_most(rest[_HEAD_BYTES : _HEAD_BYTES + length])
        rest = rest[_HEAD_BYTES + length :]
    return lost


def _rows_at_most(payload: memoryview) -> int:
    """The number of records in a frame that may be damaged: what it says itself, as far as that many fit into it."""
    return min(count_records(payload), len(payload) // _LEAST_BYTES + 1)
