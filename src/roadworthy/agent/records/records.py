"""Takes the workers' frames of records: keeps them on disk at once, and makes record files of them when a core is idle.

Frames go into the spool (`spool.py`) a moment after they arrive, without their private values, and survive the agent. Before each
row group of a file, `pacing.py` decides whether it is written now. Encoding and compression, the expensive part, run on a thread
that takes only idle time, unless records have waited long. `shipping.py` takes the finished files. Every buffer is bounded: what
does not fit is dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Container, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import structlog

from roadworthy.agent.records.files import FinishedFile, RecordFolder, SegmentFiles
from roadworthy.agent.records.pacing import Backlog, IdleCores, Pace, decide, yield_to_others
from roadworthy.agent.records.privacy import Scrubber, clear_records
from roadworthy.agent.records.spool import Spool
from roadworthy.contract.record import count_records

MAX_WAITING_BYTES = 64 << 20
GATHER_S = 0.25
"""Frames of this time go to the disk together: each handing over to the thread costs the loop about 0.2 ms."""
GATHER_BYTES = 8 << 20
SYNC_EVERY_S = 1.0
LOOK_S = 0.25
"""How often waiting records are looked at."""
AGAIN_S = 5.0
"""The pause after the disk refused a record file."""

_Result = TypeVar("_Result")
_log = structlog.get_logger(__name__)


class RecordSink:
    """Keeps records on disk, and makes files of them. Event loop only, except for the work on the disk.

    Args:
        folder: where finished files are kept, and the spool.
        lost: called with the number of records that were just dropped.
        max_waiting_bytes: bound of the records in memory.

    Attributes:
        spool: the records that wait to become files.
        finished: set whenever there are new files; the waiting task clears it.
    """

    def __init__(self, folder: RecordFolder, lost: Callable[[int], None], *, max_waiting_bytes: int = MAX_WAITING_BYTES) -> None:
        self.folder = folder
        self.spool = Spool(folder.folder)
        self.finished = asyncio.Event()
        self._lost = lost
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: list[bytes] = []
        self._fresh_bytes = self._held_bytes = 0
        self._some = asyncio.Event()
        self._full = asyncio.Event()
        self._spooled = asyncio.Event()
        self._scrubbers: dict[str, Scrubber] = {}
        self._cores = IdleCores()
        self._disk = ThreadPoolExecutor(1, "records")
        self._idle = ThreadPoolExecutor(1, "records-idle", yield_to_others)
        self._tasks: set[asyncio.Task[bool]] = set()
        self._hurry = False
        self._room = True
        self._refused = False

    def add_scrubbers(self, scrubbers: Mapping[str, Scrubber]) -> None:
        """Add the endpoints of a new snapshot. Those of earlier snapshots stay: their last records are still on the way."""
        self._scrubbers = {**self._scrubbers, **scrubbers}

    @property
    def endpoints(self) -> Container[str]:
        """The endpoints of this snapshot and of earlier ones."""
        return self._scrubbers

    def offer(self, payload: bytes, is_members: bool = False) -> None:
        """Buffer one payload of records, or drop and count it. `is_members`: it comes from an embedded endpoint. Those get half
        of the bound, so that they cannot displace the workers' records."""
        if self._held_bytes + len(payload) > self._max_waiting_bytes // (2 if is_members else 1):
            self._lost(count_records(payload))
            return
        self._waiting.append(payload)
        self._fresh_bytes += len(payload)
        self._held_bytes += len(payload)
        self._some.set()
        if self._fresh_bytes >= GATHER_BYTES:
            self._full.set()

    async def run(self) -> None:
        """Spool records and write files until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._spool_frames())
            group.create_task(self._write_files())
            group.create_task(self._sync_spool())

    async def flush(self, timeout_s: float) -> None:
        """Spool all records, and write as many of them to files as the time allows; the next start writes the others."""
        self._hurry = True
        await self._spool_waiting()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                if self._tasks:
                    await asyncio.wait(self._tasks)
                while self.spool.segments and await self._write_oldest():
                    pass
        await self._on_disk(self.spool.give_back)
        await self._on_disk(self.spool.sync)
        self._hurry = False

    async def _spool_frames(self) -> None:
        while True:
            await self._some.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GATHER_S):
                    await self._full.wait()
            await self._to_its_end(self._spool_waiting())

    async def _spool_waiting(self) -> bool:
        payloads, self._waiting = self._waiting, []
        size, self._fresh_bytes = self._fresh_bytes, 0
        self._some.clear()
        self._full.clear()
        if self._has_room():
            lost = await self._on_disk(self._append, payloads, self._scrubbers)
            lost += self.folder.trim(self.spool.size_bytes)
            if self.spool.size_bytes > self.folder.max_bytes:
                lost += await self._on_disk(self.spool.trim, self.folder.max_bytes)
        else:
            lost = sum(map(count_records, payloads))
        self._held_bytes -= size
        self._count_lost(lost)
        if self.spool.segments:
            self._spooled.set()
        return True

    def _append(self, payloads: Sequence[bytes], scrubbers: Mapping[str, Scrubber]) -> int:
        cleared = []
        lost = 0
        for payload in payloads:
            try:
                cleared.append(clear_records(payload, scrubbers))
            except ValueError:
                lost += count_records(payload)
            except Exception:  # noqa: BLE001 - whatever one frame does to the code that clears it, the next frames must be kept
                _log.exception("records could not be read")
                lost += count_records(payload)
        return lost + self.spool.append(cleared)

    async def _write_files(self) -> None:
        if self.spool.segments:
            self._spooled.set()
        while True:
            await self._spooled.wait()
            if not self.spool.segments:
                self._spooled.clear()
            elif self._pace() is not Pace.WAIT:
                if not await self._to_its_end(self._write_oldest()):
                    await asyncio.sleep(AGAIN_S)
            else:
                await asyncio.sleep(LOOK_S)

    async def _sync_spool(self) -> None:
        while True:
            await asyncio.sleep(SYNC_EVERY_S)
            if not self.spool.synced:
                await self._on_disk(self.spool.sync)

    def _pace(self) -> Pace:
        if self._hurry:
            return Pace.NOW
        return decide(Backlog(self.spool.age_s(), self.spool.size_bytes, self.folder.max_bytes), self._cores.look())

    async def _write_oldest(self) -> bool:
        """Make files of the oldest segment; whether it is gone. When the disk refuses it stays."""
        segment = await self._on_disk(self.spool.take_oldest)
        if segment is None:
            return True
        job = SegmentFiles(self.folder.folder, segment.path)
        try:
            await self._write(job)
            lost = job.lost
        except Exception as error:  # noqa: BLE001 - whatever failed in writing, the next segment must come
            await self._on_disk(job.abandon)
            if isinstance(error, OSError):
                await self._on_disk(self.spool.give_back)
                self._add(job.finished)
                self._note_refusal(error)
                return False
            _log.exception("records could not be written", file=segment.path.name)
            rows = await self._on_disk(self.spool.count, segment)
            lost = max(rows - sum(file.rows for file in job.finished), 0)
        self._refused = False
        await self._on_disk(self.spool.drop, segment)
        self._add(job.finished)
        self._count_lost(lost + self.folder.trim(self.spool.size_bytes))
        return True

    def _add(self, files: Sequence[FinishedFile]) -> None:
        for file in files:
            self.folder.add(file)
        self.finished.set()

    async def _write(self, job: SegmentFiles) -> None:
        loop = asyncio.get_running_loop()
        while (write := await self._on_disk(job.next_group)) is not None:
            while (pace := self._pace()) is Pace.WAIT:  # noqa: ASYNC110 - time and other processes change the answer
                await asyncio.sleep(LOOK_S)
            await loop.run_in_executor(self._idle if pace is Pace.IDLE else self._disk, write)
        await self._on_disk(job.finish)

    def _on_disk(self, work: Callable[..., _Result], *arguments: Any) -> asyncio.Future[_Result]:
        return asyncio.get_running_loop().run_in_executor(self._disk, work, *arguments)

    async def _to_its_end(self, work: Coroutine[Any, Any, bool]) -> bool:
        """Do this work even if the caller is cancelled; `flush` waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    def _count_lost(self, records: int) -> None:
        if records:
            _log.error("records were lost", records=records)
            self._lost(records)

    def _note_refusal(self, error: OSError) -> None:
        """Log once that the disk refuses a record file."""
        if not self._refused:
            self._refused = True
            _log.error("cannot write a record file now; it is tried again", reason=str(error))

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
