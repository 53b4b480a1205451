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
from itertools import islice
from typing import Protocol

from roadworthy.contract.record import RecordKind, RecordRow, encode_long_record, encode_records

FLUSH_AFTER_S = 0.02
FLUSH_RECORDS = 1_024
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
        self._held: deque[tuple[RecordKind, RecordRow]] = deque()
        self._held_bytes = self._held_long = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._held)

    def append(self, kind: RecordKind, row: RecordRow) -> None:
        """Buffer a record for the next frame, or drop and count it at the bound. Use one object for each kind: rows of the same
        object are encoded together."""
        size = len(row[7]) + len(row[8]) + _OVERHEAD_BYTES
        if self._held_bytes + size > MAX_HELD_BYTES:
            self.dropped += 1
            self._lost(1)
            return
        self._held_bytes += size
        if size >= _LONG_BYTES:
            self._held_long += 1
        held = self._held
        held.append((kind, row))
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_AFTER_S, self._send)
        elif len(held) == FLUSH_RECORDS:
            self._send()

    def flush(self) -> None:
        """Hand all buffered records to the link, as far as it takes them. A new link and the end call it."""
        while self._held and self._carrier.ready():
            self._send_frame()
        self._wait()

    def _send(self) -> None:
        """Hand the next frame to the link. The timer and a full frame call it."""
        if self._held and self._carrier.ready():
            self._send_frame()
        self._wait()

    def _wait(self) -> None:
        """Send what is still held in the next iteration of the loop, or later while the link takes nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._held:
            delay_s = 0.0 if self._carrier.ready() else FLUSH_AFTER_S
            self._timer = self._loop.call_later(delay_s, self._send)

    def _send_frame(self) -> None:
        count, size = self._next_frame()
        if count == 1 and size >= _LONG_BYTES:
            self._carrier.carry(encode_long_record(*self._held[0]))
            self._held_long -= 1
        else:
            groups: dict[int, tuple[RecordKind, list[RecordRow]]] = {}
            for kind, row in islice(self._held, count):
                if (group := groups.get(id(kind))) is None:
                    group = groups[id(kind)] = (kind, [])
                group[1].append(row)
            self._carrier.carry([encode_records(groups.values())])
        for _ in range(count):
            self._held.popleft()
        self._held_bytes -= size

    def _next_frame(self) -> tuple[int, int]:
        """The number of oldest records that travel together, and their bytes."""
        if len(self._held) <= FLUSH_RECORDS and self._held_bytes <= _FRAME_BYTES and not self._held_long:
            return len(self._held), self._held_bytes
        count = size = 0
        for _, row in self._held:
            own = len(row[7]) + len(row[8]) + _OVERHEAD_BYTES
            if count and (own >= _LONG_BYTES or size + own > _FRAME_BYTES):
                break
            count += 1
            size += own
            if count == FLUSH_RECORDS or own >= _LONG_BYTES:
                break
        return count, size
