"""Collects record payloads from the workers for about a second, and writes them as Parquet files in a thread.

The buffer is bounded: records that do not fit are dropped and counted. `shipping.py` takes the finished files.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Container, Mapping
from concurrent.futures import ThreadPoolExecutor

import structlog

from roadworthy.agent.records.files import RecordFolder, RecordWriter
from roadworthy.agent.records.privacy import Scrubber
from roadworthy.contract.record import count_records

MAX_WAITING_BYTES = 64 << 20
ROTATE_AFTER_S = 1.0
ROTATE_BYTES = 32 << 20
ROTATE_ROWS = 200_000
"""A file costs the agent and the control plane about ten milliseconds, so only seconds with very many records make several."""

_log = structlog.get_logger(__name__)


class RecordSink:
    """Buffers records and writes them to files. Event loop only, except for the writing.

    Args:
        folder: where finished files are kept.
        lost: called with the number of records that were just dropped.
        max_waiting_bytes: bound of the waiting records and of those being written, together.

    Attributes:
        finished: set whenever there are new files; the waiting task clears it.
    """

    def __init__(self, folder: RecordFolder, lost: Callable[[int], None], *, max_waiting_bytes: int = MAX_WAITING_BYTES) -> None:
        self.folder = folder
        self.finished = asyncio.Event()
        self._writer = RecordWriter(folder.folder)
        self._lost = lost
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: list[bytes] = []
        self._waiting_rows = 0
        self._fresh_bytes = 0
        self._held_bytes = 0
        self._some = asyncio.Event()
        self._full = asyncio.Event()
        self._scrubbers: dict[str, Scrubber] = {}
        self._thread = ThreadPoolExecutor(1, "records")
        self._writing = asyncio.Lock()
        self._room = True

    def add_scrubbers(self, scrubbers: Mapping[str, Scrubber]) -> None:
        """Add the endpoints of a new snapshot. Those of earlier snapshots stay: their last records are still on the way."""
        self._scrubbers = {**self._scrubbers, **scrubbers}

    @property
    def endpoints(self) -> Container[str]:
        """The endpoints of this snapshot and of earlier ones."""
        return self._scrubbers

    def offer(self, payload: bytes) -> None:
        """Buffer one payload of records, or drop and count it."""
        rows = count_records(payload)
        if self._held_bytes + len(payload) > self._max_waiting_bytes:
            self._lost(rows)
            return
        self._waiting.append(payload)
        self._waiting_rows += rows
        self._fresh_bytes += len(payload)
        self._held_bytes += len(payload)
        self._some.set()
        if self._fresh_bytes >= ROTATE_BYTES or self._waiting_rows >= ROTATE_ROWS:
            self._full.set()

    async def run(self) -> None:
        """Write files about every second until cancelled."""
        while True:
            await self._some.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROTATE_AFTER_S):
                    await self._full.wait()
            await self.flush()

    async def flush(self) -> None:
        """Write all buffered records; called at each rotation and at the end."""
        async with self._writing:
            payloads, self._waiting = self._waiting, []
            size, self._fresh_bytes = self._fresh_bytes, 0
            self._waiting_rows = 0
            self._some.clear()
            self._full.clear()
            if payloads:
                await self._write(payloads)
                self._held_bytes -= size
                self.finished.set()

    async def _write(self, payloads: list[bytes]) -> None:
        loop = asyncio.get_running_loop()
        if not self._has_room():
            self._lost(sum(count_records(payload) for payload in payloads))
            return
        try:
            files, lost = await loop.run_in_executor(self._thread, self._writer.write, payloads, self._scrubbers)
        except Exception:  # noqa: BLE001 - whatever failed in writing, the next rotation must come
            _log.exception("records could not be written")
            files, lost = [], sum(count_records(payload) for payload in payloads)
        for file in files:
            lost += self.folder.add(file)
        if lost:
            _log.error("records were lost", records=lost)
            self._lost(lost)

    def _has_room(self) -> bool:
        """Whether the disk has room for records; a change is logged once."""
        room = self.folder.has_room()
        if room != self._room:
            self._room = room
            if room:
                _log.info("the disk has room again; records are kept")
            else:
                _log.error("the disk is nearly full; records are dropped and counted until it has room")
        return room
