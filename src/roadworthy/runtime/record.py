"""Keeps what was predicted until the agent has taken it. `gateway/predict.py` appends, the link to the agent carries.

Records wait a few milliseconds to travel together. Without a link they wait within a bound; what does not fit is dropped and
counted, never silently.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from roadworthy.contract.record import PredictionRecord, encode_records

FLUSH_AFTER_S = 0.01
FLUSH_RECORDS = 256
MAX_HELD_BYTES = 16 << 20
_OVERHEAD_BYTES = 512
_FRAME_BYTES = 8 << 20


class Carrier(Protocol):
    """What takes encoded records towards the agent."""

    def ready(self) -> bool:
        """Whether it takes a payload now: there is a link, and it is not full."""
        ...

    def carry(self, payload: bytes) -> None:
        """Take `encode_records`' bytes. Only called when `ready`."""
        ...


class Recorder:
    """A bounded buffer of records. Event loop only; `append` is in the path of every request.

    Args:
        carrier: the link to the agent.
        lost: called with the number of records that were just dropped.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, carrier: Carrier, lost: Callable[[int], None]) -> None:
        self._loop = loop
        self._carrier = carrier
        self._lost = lost
        self._held: deque[PredictionRecord] = deque()
        self._held_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._held)

    def append(self, record: PredictionRecord) -> None:
        """Keep `record` for the next frame, or drop and count it when the bound is reached."""
        size = len(record.inputs) + len(record.outputs) + _OVERHEAD_BYTES
        if self._held_bytes + size > MAX_HELD_BYTES:
            self._lost(1)
            return
        self._held_bytes += size
        held = self._held
        held.append(record)
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_AFTER_S, self.flush)
        elif len(held) == FLUSH_RECORDS:
            self.flush()

    def flush(self) -> None:
        """Hand over what is held, as far as the link takes it. Called by the timer, a full frame, a new link and at the end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._held and self._carrier.ready():
            records, size = self._next_frame()
            self._carrier.carry(encode_records(records))
            for _ in records:
                self._held.popleft()
            self._held_bytes -= size

    def _next_frame(self) -> tuple[list[PredictionRecord], int]:
        records: list[PredictionRecord] = []
        size = 0
        for record in self._held:
            records.append(record)
            size += len(record.inputs) + len(record.outputs) + _OVERHEAD_BYTES
            if len(records) >= FLUSH_RECORDS or size >= _FRAME_BYTES:
                break
        return records, size
