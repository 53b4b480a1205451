"""Sends what the gateway has to tell: finished record files, then telemetry frames that name them. Nothing is sent twice in vain.

A file is put into the blob store, named in a frame's manifest, and deleted here when the frame was accepted. With the control
plane away files stay on disk under their bound, and the frame that was not accepted is repeated as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import httpx
import msgspec
import structlog

from roadworthy.agent.metrics.layer_metrics import not_closed
from roadworthy.agent.records.records import RecordSink
from roadworthy.agent.sync.control import ControlLink
from roadworthy.agent.worker_registry import WorkerRegistry
from roadworthy.contract.evidence import BadUnit, RolloutCounts
from roadworthy.contract.snapshot import Snapshot
from roadworthy.contract.telemetry import (
    RecordFile,
    RequestCount,
    RunTimes,
    Telemetry,
    VersionState,
    WorkerReport,
    encode_telemetry,
)
from roadworthy.foundation.backoff import Backoff
from roadworthy.foundation.clock import Clock
from roadworthy.foundation.slab import SlotWriter
from roadworthy.serving.metrics import Totals

TELEMETRY_EVERY_S = 1.0
SETTLE_S = 0.01
"""Changes that come this close together travel in one frame."""
WORKER_LOST = "worker-lost"
"""The outcome under which requests are counted that were in flight in a worker that died."""

NAMED_FOR_S = 600.0
"""A rollout is told of for so long after the last snapshot that named it: what was counted late, or while the control plane was
away, is still to arrive."""

_MANIFESTS_A_FRAME = 500
_PERMANENT = frozenset({400, 409, 413, 415, 422})
_COUNTED = ("rollouts", "run_times", "counts")
_PARTS = ("record_files", *_COUNTED)
"""Of a frame, beside what workers report."""
_LEFT_OUT_S = 60.0
_REASON_CHARACTERS = 300
_LOST_FOR_GOOD = frozenset({None, errno.ENOENT, errno.EISDIR})
"""Of errors while reading a file; those without a number come from the reader of Parquet."""
_FRAMES = Backoff(0.1, 5.0, jitter=0.5)
_FILES = Backoff(0.2, 10.0, jitter=0.5)
_log = structlog.get_logger(__name__)


def count_requests(totals: Totals) -> tuple[RequestCount, ...]:
    """The totals as a frame tells them: answered, refused before a version was chosen, and lost in workers that died. What was
    folded, and so has no digest any more, was told while it was apart."""
    answered = [
        RequestCount(bound.endpoint, bound.generation, bound.digest, outcome, count)
        for (bound, outcome), count in totals.requests.items()
        if bound.digest
    ]
    refused = [RequestCount(endpoint, 0, "", code, count) for (endpoint, code), count in totals.refused.items()]
    lost = [
        RequestCount(bound.endpoint, bound.generation, bound.digest, WORKER_LOST, count)
        for bound, count in totals.lost.items()
        if count and bound.digest
    ]
    merged: dict[tuple[str, int, str, str], int] = {}
    for item in (*answered, *refused, *lost):
        key = (item.endpoint, item.generation, item.digest, item.outcome)
        merged[key] = merged.get(key, 0) + item.count
    return tuple(RequestCount(*key, count) for key, count in merged.items())


class Known(NamedTuple):
    """What frames need beside the slab: the snapshot in force, of each digest how many runner processes are READY with the bytes
    that the largest holds, and what the machine has left."""

    snapshot: Snapshot | None = None
    processes: Mapping[str, tuple[int, int]] = {}
    memory_free_bytes: int | None = None
    disk_free_bytes: int | None = None


class Frames:
    """Makes telemetry frames. The sequence lives in the agent's slot, so that it goes on after a restart within the same boot.

    Counts are told whole each time. Users with bad events are many and never taken back, so each is told until a frame with it
    was accepted, and all of them again by an agent that was started anew, or to a control plane that was set back.

    Args:
        source: this gateway's id, and the slab's boot.
        slot: the agent's own slot.
        read: the totals of all slots.
        clock: for the frame's time.
        known: what the agent knows besides.
    """

    def __init__(
        self,
        source: tuple[str, str],
        slot: SlotWriter,
        read: Callable[[], Totals],
        clock: Clock,
        known: Callable[[], Known],
    ) -> None:
        self._gateway, self._boot = source
        self._slot = slot
        self._cell = slot.place("sequence")
        self._read = read
        self._clock = clock
        self._known = known
        self._named: dict[str, int] = {}
        self._epoch: str | None = None
        self._accepted: dict[str, set[BadUnit]] = {}

    def accepted(self, frame: Telemetry) -> None:
        """The control plane has taken it: the users that it names need not be told again."""
        for counts in frame.rollouts:
            self._accepted.setdefault(counts.rollout, set()).update(counts.units)

    def make(self, hub: WorkerRegistry, manifests: tuple[RecordFile, ...]) -> Telemetry:
        """The next frame: how things are now."""
        self._slot.values[self._cell] += 1
        totals, known = self._read(), self._known()
        return Telemetry(
            gateway=self._gateway,
            boot=self._boot,
            sequence=self._slot.values[self._cell],
            at_us=self._clock.now_us(),
            workers=with_known(hub.reports(), totals, known),
            counts=count_requests(totals),
            record_files=manifests,
            lost_records=totals.records_lost,
            rollouts=self._rollouts(totals, known.snapshot),
            run_times=tuple(RunTimes(digest, tuple(counts)) for digest, counts in sorted(totals.run_times.items())),
        )

    def _rollouts(self, totals: Totals, snapshot: Snapshot | None) -> tuple[RolloutCounts, ...]:
        now_us = self._clock.now_us()
        for entry in () if snapshot is None else snapshot.endpoints:
            if entry.rollout is not None:
                self._named[entry.rollout.id] = now_us
        counted = totals.evidence.rollouts()
        for rollout in counted:
            self._named.setdefault(rollout, now_us)  # the agent was started anew after the rollout's end
        until_us = now_us - int(NAMED_FOR_S * 1e6)
        epoch = None if snapshot is None else snapshot.epoch
        if epoch != self._epoch:  # an older copy of its store may know less than it has accepted
            self._epoch, self._accepted = epoch, {}
        return tuple(
            self._news(totals.evidence.counts(each)) for each in sorted(counted) if self._named[each] >= until_us
        )

    def _news(self, counts: RolloutCounts) -> RolloutCounts:
        known = self._accepted.get(counts.rollout, ())
        return msgspec.structs.replace(counts, units=tuple(unit for unit in counts.units if unit not in known))


def with_known(reports: Iterable[WorkerReport], totals: Totals, known: Known) -> tuple[WorkerReport, ...]:
    """The reports with what only the agent knows: of their versions breakers that are open and memory of runner processes, and
    what the machine has left."""
    refused = set() if known.snapshot is None else not_closed(totals, known.snapshot)

    def told(state: VersionState) -> VersionState:
        if state.digest not in refused | known.processes.keys():
            return state
        processes, memory = known.processes.get(state.digest, (0, None))
        return msgspec.structs.replace(
            state, breaker_open=state.digest in refused, processes=processes, memory_bytes=memory
        )

    return tuple(
        msgspec.structs.replace(
            report,
            versions=tuple(told(state) for state in report.versions),
            memory_free_bytes=known.memory_free_bytes,
            disk_free_bytes=known.disk_free_bytes,
            log_lines_dropped=totals.log_lines_lost,
        )
        for report in reports
    )


class Shipping:
    """Event loop only.

    Args:
        gateway: this gateway's id.
        sink: has the finished files.
        lost: called with the number of records that were given up.

    Attributes:
        refused: frames that the control plane refused for good.
    """

    def __init__(
        self, gateway: str, control: ControlLink, frames: Frames, sink: RecordSink, lost: Callable[[int], None]
    ) -> None:
        self._gateway = gateway
        self._control = control
        self._frames = frames
        self._sink = sink
        self._lost = lost
        self._shipped: dict[str, RecordFile] = {}
        self._kick = asyncio.Event()
        self.refused = 0
        self._told: set[str] = set()
        self._left_out: dict[str, float] = {}

    def kick(self) -> None:
        """Something changed that should be known at once: send a frame in a moment."""
        self._kick.set()

    async def run(self, hub: WorkerRegistry) -> None:
        """Ship files and frames until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send_frames(hub))
            group.create_task(self._ship_files())

    async def finish(self, hub: WorkerRegistry) -> None:
        """One last attempt for all files and a frame; raises httpx.HTTPError when the control plane does not answer."""
        while await self._ship_all():
            await self._control.post_telemetry(encode_telemetry(self._make(hub, _PARTS)))
            self._forget(tuple(self._shipped.values()))
        await self._control.post_telemetry(encode_telemetry(self._make(hub, _PARTS)))

    async def _send_frames(self, hub: WorkerRegistry) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TELEMETRY_EVERY_S):
                    await self._kick.wait()
                await asyncio.sleep(SETTLE_S)
            self._kick.clear()
            self._left_out = {name: until for name, until in self._left_out.items() if until > time.monotonic()}
            frame = self._make(hub, set(_PARTS) - self._left_out.keys())
            if not await self._send(frame):
                await self._send_in_parts(hub, frame)
            elif not self._left_out:
                self._told.clear()

    async def _send(self, frame: Telemetry) -> bool:
        """Whether the frame was accepted; False when it never will be."""
        if not await self._deliver(encode_telemetry(frame)):
            return False
        self._frames.accepted(frame)
        self._forget(frame.record_files)
        return True

    async def _send_in_parts(self, hub: WorkerRegistry, refused: Telemetry) -> None:
        """After a frame that was refused for good: send its parts in frames of their own, so that one that is bad costs no other,
        and drop that one: a record file for good, what is counted for a minute. When even a frame without parts is refused, they
        are not to blame."""
        if not await self._send(self._make(hub)):
            return
        for file in refused.record_files:
            if not await self._send(msgspec.structs.replace(self._make(hub), record_files=(file,))):
                self._tell(f"the record file {file.blob} is refused and deleted")
                self._lost(file.rows)
                self._forget((file,))
        for name in _COUNTED:
            part = {name: getattr(refused, name)}
            if part[name] and not await self._send(msgspec.structs.replace(self._make(hub), **part)):
                self._tell(f"{name} are refused and left out")
                self._left_out[name] = time.monotonic() + _LEFT_OUT_S

    async def _deliver(self, frame: bytes) -> bool:
        """Repeat one frame until it is accepted; False when it never will be."""
        pauses = _FRAMES.delays(random.random)
        while True:
            try:
                await self._control.post_telemetry(frame)
            except httpx.HTTPStatusError as error:
                if error.response.status_code in _PERMANENT:
                    self.refused += 1
                    self._tell(f"{error.response.status_code} {error.response.text[:_REASON_CHARACTERS]}")
                    return False
            except httpx.HTTPError:
                pass  # sync.py says in the log that the control plane is away
            else:
                return True
            await asyncio.sleep(next(pauses))

    def _tell(self, reason: str) -> None:
        """Write it into the log, once until all goes well again."""
        if reason not in self._told:
            self._told.add(reason)
            _log.error("telemetry was refused", reason=reason)

    def _make(self, hub: WorkerRegistry, parts: Collection[str] = ()) -> Telemetry:
        """The next frame, with these of its parts."""
        frame = self._frames.make(hub, tuple(self._shipped.values())[:_MANIFESTS_A_FRAME])
        return msgspec.structs.replace(frame, **{name: () for name in _PARTS if name not in parts})

    def _forget(self, accepted: tuple[RecordFile, ...]) -> None:
        for manifest in accepted:
            name = manifest.blob.rpartition("/")[2]
            self._shipped.pop(name, None)
            self._sink.folder.remove(name)

    async def _ship_files(self) -> None:
        pauses = _FILES.delays(random.random)
        while True:
            self._sink.finished.clear()
            try:
                await self._ship_all()
            except httpx.HTTPError:
                await asyncio.sleep(next(pauses))
                continue
            pauses = _FILES.delays(random.random)
            await self._sink.finished.wait()

    async def _ship_all(self) -> bool:
        """Put every file that is not there yet; whether any manifest is waiting for its frame afterwards."""
        for name in self._sink.folder.names():
            if name not in self._shipped:
                await self._ship(name)
        return bool(self._shipped)

    async def _ship(self, name: str) -> None:
        folder = self._sink.folder
        try:
            about = folder.describe(name)
            data = await asyncio.to_thread((folder.folder / name).read_bytes)
            if len(data) != about.size_bytes:
                raise ValueError(f"{len(data)} bytes instead of {about.size_bytes}")
        except (OSError, ValueError) as error:
            if name not in folder.names():
                return  # the bound on the disk took it
            if isinstance(error, OSError) and error.errno not in _LOST_FOR_GOOD:
                _log.warning("a record file cannot be read now; it is tried again", file=name, reason=str(error))
                return
            lost = folder.give_up(name)
            _log.error("a record file is damaged or gone; given up", file=name, records=lost or None, reason=str(error))
            self._lost(lost)
            return
        try:
            await self._control.put_records(name, data)
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in _PERMANENT:
                raise
            _log.exception("a record file was refused; deleted", file=name, records=about.rows)
            self._lost(about.rows)
            folder.remove(name)
            return
        blob = f"records/{self._gateway}/{name}"
        self._shipped[name] = RecordFile(
            blob, about.endpoint, about.rows, about.size_bytes, about.first_us, about.last_us
        )
