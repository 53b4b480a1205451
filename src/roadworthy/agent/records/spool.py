"""Frames of records as they came, on disk until they become record files: soon durable, without a step for each record.

A segment is a file of frames: length and CRC-32 of the payload, 4 bytes each, then the payload (`contract/record.py`), from which
`privacy.py` has removed private values. One segment becomes one set of record files, named by the segment: if the agent is killed
before the segment is deleted, the next agent writes files of the same names again, and no record is stored twice.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import structlog

from roadworthy.contract.record import count_records
from roadworthy.foundation.files import fsync_folder, private_folder
from roadworthy.foundation.ids import PredictionIds

SEGMENT_BYTES = 32 << 20
SEGMENT_ROWS = 200_000
"""A segment with more bytes or records takes no further frames."""
_SUFFIX = ".spool"
_HEAD = struct.Struct("<II")
_LEAST_BYTES = 60
"""The columns of a record without texts and bodies."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Segment:
    """A file of frames.

    Attributes:
        rows, size_bytes: the records and bytes in it.
        since_s: when its first record arrived, by the monotonic clock; for a segment of an earlier agent, when it was found.
    """

    path: Path
    rows: int = 0
    size_bytes: int = 0
    since_s: float = 0.0


class Spool:
    """The segments of a folder, oldest first. Methods are called in one thread at a time; `size_bytes` and `age_s` in any.

    Args:
        folder: must exist; created again when it was deleted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ids = PredictionIds()
        self._descriptor: int | None = None
        self._synced = True
        self._taken: Segment | None = None
        self.segments: list[Segment] = []
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            with contextlib.suppress(OSError):
                data = path.read_bytes()
                rows = sum(frame_rows(frame) for frame, _ in frames(data))
                self.segments.append(Segment(path, rows, len(data), time.monotonic()))

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
        data = b"".join(part for payload in payloads for part in (_HEAD.pack(len(payload), crc32(payload)), payload))
        rows = sum(map(count_records, payloads))
        lost = 0
        try:
            if self._descriptor is not None and os.fstat(self._descriptor).st_nlink == 0:
                self._close()
                lost = self.segments.pop().rows
            if self._descriptor is None:
                self._descriptor = self._open()
            self._write(self._descriptor, data)
        except OSError as error:
            _log.warning("cannot keep records on disk", reason=str(error))
            self._close()
            if self.segments and not self.segments[-1].size_bytes:
                self.drop(self.segments[-1])
            return lost + rows
        segment = self.segments[-1]
        segment.rows += rows
        segment.size_bytes += len(data)
        self._synced = False
        if segment.size_bytes >= SEGMENT_BYTES or segment.rows >= SEGMENT_ROWS:
            self.sync()
            self._close()
        return lost

    def sync(self) -> None:
        """Make the appended frames survive a power cut."""
        if self._descriptor is not None and not self._synced:
            with contextlib.suppress(OSError):  # the frames stay in the system's cache, and are tried again
                os.fdatasync(self._descriptor)
                fsync_folder(self._folder)
                self._synced = True

    def take_oldest(self) -> Segment | None:
        """The oldest segment; None without one. Nothing is appended to it any longer, and `trim` leaves it."""
        if not self.segments:
            return None
        if len(self.segments) == 1:
            self._close()
        self._taken = self.segments[0]
        return self._taken

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
                lost += self.drop(segment)
        return lost

    def drop(self, segment: Segment) -> int:
        """Delete a segment and return its number of records."""
        if segment is self.segments[-1]:
            self._close()
        self.segments.remove(segment)
        try:
            segment.path.unlink(missing_ok=True)
        except OSError:  # a disk that has become read-only; the next start writes files of the same names again
            _log.exception("cannot delete a segment of records", file=segment.path.name)
        return segment.rows

    def _open(self) -> int:
        path = private_folder(self._folder) / f"{self._ids.next()}{_SUFFIX}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.segments.append(Segment(path, since_s=time.monotonic()))
        return descriptor

    def _write(self, descriptor: int, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(descriptor, left) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, self.segments[-1].size_bytes)
            raise

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def frames(data: bytes) -> Iterator[tuple[memoryview, bool]]:
    """The payloads of a segment, each with whether it is whole. The last one may be cut off, by a kill while it was written."""
    start, view = 0, memoryview(data)
    while start + _HEAD.size <= len(data):
        length, checksum = _HEAD.unpack_from(data, start)
        if not length:
            return  # space that a power cut left without its bytes
        start += _HEAD.size
        payload = view[start : start + length]
        yield payload, len(payload) == length and crc32(payload) == checksum
        start += length


def frame_rows(payload: memoryview) -> int:
    """The number of records in a frame that may be damaged: what its head says, as far as that many fit into it."""
    return min(count_records(payload), len(payload) // _LEAST_BYTES + 1)
