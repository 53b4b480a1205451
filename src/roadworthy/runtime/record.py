"""Buffers prediction records until the link to the agent takes them.

Records wait a few milliseconds to travel together. While the link takes nothing, they wait within a bound, and a timer tries the
link as long as any record waits. Records that do not fit are dropped and counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Protocol

from roadworthy.contract.record import RecordKind, RecordRow, encode_records

FLUSH_AFTER_S = 0.02
FLUSH_RECORDS = 1_024
MAX_HELD_BYTES = 16 << 20
_OVERHEAD_BYTES = 512
_FRAME_BYTES = 8 << 20


class Carrier(Protocol):
    """Takes encoded records to the agent."""

    def ready(self) -> bool:
        """Whether it takes a payload now: the link exists and is not full."""
        ...

    def carry(self, payload: bytearray) -> None:
        """Take bytes from `encode_records`. Only called when `ready`."""
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
        self._held_bytes = 0
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
        held = self._held
        held.append((kind, row))
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_AFTER_S, self.flush)
        elif len(held) == FLUSH_RECORDS:
            self.flush()

    def flush(self) -> None:
        """Hand buffered records to the link, as far as it takes them. The timer, a full frame, a new link and the end call it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._held and self._carrier.ready():
            count, size = self._next_frame()
            groups: dict[int, tuple[RecordKind, list[RecordRow]]] = {}
            for kind, row in islice(self._held, count):
                if (group := groups.get(id(kind))) is None:
                    group = groups[id(kind)] = (kind, [])
                group[1].append(row)
            self._carrier.carry(encode_records(groups.values()))
            for _ in range(count):
                self._held.popleft()
            self._held_bytes -= size
        if self._held:
            self._timer = self._loop.call_later(FLUSH_AFTER_S, self.flush)

    def _next_frame(self) -> tuple[int, int]:
        """The number of oldest records that travel together, and their bytes."""
        if len(self._held) <= FLUSH_RECORDS and self._held_bytes <= _FRAME_BYTES:
            return len(self._held), self._held_bytes
        count = size = 0
        for _, row in self._held:
            count += 1
            size += len(row[7]) + len(row[8]) + _OVERHEAD_BYTES
            if count >= FLUSH_RECORDS or size >= _FRAME_BYTES:
                break
        return count, size
