"""Buffers prediction records until the link to the agent takes them.

Records wait a few milliseconds to travel together. While the link takes nothing, they wait within a bound, and a timer tries the
link as long as any record waits. Records that do not fit are dropped and counted.

Encoding holds the event loop, so a frame takes a millisecond or two, one frame is encoded in an iteration of the loop, and long
bodies travel without being copied.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from roadworthy.contract.record import RecordKind, RecordRow, encode_long_record, encode_records

FLUSH_AFTER_S = 0.02
FLUSH_RECORDS = 512
"""Their bodies still lie in the processor's cache when they are encoded. Twice as many cost a third more each."""
MAX_HELD_BYTES = 16 << 20
_OVERHEAD_BYTES = 512
_FRAME_BYTES = 1 << 20
_LONG_BYTES = 64 << 10
"""A record of this size travels alone."""


class Carrier(Protocol):
    """Takes encoded records to the agent."""

    def ready(self) -> bool:
        """Whether it takes a payload now: the link exists and is not full."""
        ...

    def carry(self, payload: Sequence[bytes | bytearray | memoryview]) -> None:
        """Take the parts of one payload of encoded records. Only called when `ready`."""
        ...


class _Frame:
    """Records that travel together, by kind.

    Attributes:
        kind, rows: the kind of the newest record and the rows of that kind.
        count, size: number of records, and their bytes. room: the bytes that still fit, for other than the first record.
    """

    __slots__ = ("count", "groups", "kind", "room", "rows", "size")

    def __init__(self) -> None:
        self.groups: dict[int, tuple[RecordKind, list[RecordRow]]] = {}
        self.kind: RecordKind | None = None
        self.rows: list[RecordRow] = []
        self.count = self.size = 0
        self.room = _FRAME_BYTES

    def turn_to(self, kind: RecordKind) -> list[RecordRow]:
        """The rows of a kind, which the next records are likely to have too."""
        self.kind = kind
        _, self.rows = self.groups.setdefault(id(kind), (kind, []))
        return self.rows

    def encode(self) -> Sequence[bytes | bytearray | memoryview]:
        """The parts of the payload."""
        if self.count == 1 and self.size >= _LONG_BYTES and self.kind is not None:
            return encode_long_record(self.kind, self.rows[0])
        return [encode_records(self.groups.values())]


class Recorder:
    """A bounded buffer of records. Event loop only; `append` is in the path of every request. While records wait, a timer sends
    them on, without a further record or a signal from the link.

    Args:
        carrier: the link to the agent.
        lost: called with the number of records that were just dropped.

    Attributes:
        dropped: number of records dropped so far.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, carrier: Carrier, lost: Callable[[int], None]) -> None:
        self._loop = loop
        self._carrier = carrier
        self._lost = lost
        self.dropped = 0
        self._newest = _Frame()
        self._frames = deque([self._newest])
        self._held_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return sum(frame.count for frame in self._frames)

    def append(self, kind: RecordKind, row: RecordRow) -> None:
        """Buffer a record for the next frame, or drop and count it at the bound. Use one object for each kind: rows of the same
        object are encoded together."""
        size = len(row[7]) + len(row[8]) + _OVERHEAD_BYTES
        if self._held_bytes + size > MAX_HELD_BYTES:
            self.dropped += 1
            self._lost(1)
            return
        self._held_bytes += size
        frame = self._newest
        if frame.count and (size > frame.room or size >= _LONG_BYTES):
            frame = self._newest = _Frame()
            self._frames.append(frame)
        (frame.rows if frame.kind is kind else frame.turn_to(kind)).append(row)
        frame.size += size
        frame.count = count = frame.count + 1
        frame.room = 0 if size >= _LONG_BYTES or count >= FLUSH_RECORDS else frame.room - size
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_AFTER_S, self._send)
        elif count == FLUSH_RECORDS:
            self._send()

    def extend(self, kind: RecordKind, rows: Sequence[RecordRow]) -> None:
        """Append records of a kind, together if they are short and the newest frame has room for more than them."""
        frame, count = self._newest, len(rows)
        sizes = [len(row[7]) + len(row[8]) for row in rows]
        size = sum(sizes) + count * _OVERHEAD_BYTES
        fits = size < frame.room and frame.count + count < FLUSH_RECORDS and self._held_bytes + size <= MAX_HELD_BYTES
        if not fits or max(sizes) >= _LONG_BYTES - _OVERHEAD_BYTES or self._timer is None:
            for row in rows:
                self.append(kind, row)
            return
        self._held_bytes += size
        (frame.rows if frame.kind is kind else frame.turn_to(kind)).extend(rows)
        frame.size += size
        frame.room -= size
        frame.count += count

    def flush(self) -> None:
        """Hand all buffered records to the link, as far as it takes them. A new link and the end call it."""
        while self._held_bytes and self._carrier.ready():
            self._send_frame()
        self._wait()

    def clear(self) -> int:
        """Drop all buffered records; return how many they were."""
        count = len(self)
        self._newest = _Frame()
        self._frames = deque([self._newest])
        self._held_bytes = 0
        return count

    def _send(self) -> None:
        """Hand the oldest frame to the link. The timer and a full frame call it."""
        if self._held_bytes and self._carrier.ready():
            self._send_frame()
        self._wait()

    def _wait(self) -> None:
        """Send what is still held in the next iteration of the loop, or later while the link takes nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._held_bytes:
            delay_s = 0.0 if self._carrier.ready() else FLUSH_AFTER_S
            self._timer = self._loop.call_later(delay_s, self._send)

    def _send_frame(self) -> None:
        frame = self._frames.popleft()
        if not self._frames:
            self._newest = _Frame()
            self._frames.append(self._newest)
        self._held_bytes -= frame.size
        try:
            payload = frame.encode()
        except Exception:  # noqa: BLE001 - an error code of a plug-in's layer may be a text without UTF-8; the timer must go on
            self.dropped += frame.count
            self._lost(frame.count)
            return
        self._carrier.carry(payload)
