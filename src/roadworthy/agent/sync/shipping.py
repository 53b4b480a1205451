"""Ships finished record files and telemetry frames to the control plane, without sending anything twice in vain.

A file is put into the blob store, named in a frame's manifest, and deleted here once the frame was accepted. While the control
plane is away, files stay on disk within their bound, and the frame that was not accepted is repeated unchanged.
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
from roadworthy.contract.evidence import MOST, BadUnit, RolloutCounts
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
from roadworthy.foundation.files import read_long
from roadworthy.foundation.slab import SlotWriter
from roadworthy.serving.metrics import Totals

TELEMETRY_EVERY_S = 1.0
SETTLE_S = 0.01
"""Changes within this many seconds travel in one frame."""
WORKER_LOST = "worker-lost"
"""The outcome that counts requests in flight in a worker that exited."""

NAMED_FOR_S = 600.0
"""How long frames report a rollout after the last snapshot that named it, so that late counts, and counts from a time without the
control plane, still arrive."""

_MANIFESTS_A_FRAME = 500
_PERMANENT = frozenset({400, 409, 413, 415, 422})
_COUNTED = ("rollouts", "run_times", "counts")
_PARTS = ("record_files", *_COUNTED)
"""The parts of a frame, in addition to the workers' reports."""
_LEFT_OUT_S = 60.0
_REASON_CHARACTERS = 300
_LOST_FOR_GOOD = frozenset({None, errno.ENOENT, errno.EISDIR})
"""Errors that mean that a file is lost; those without an errno come from the Parquet reader."""
_FRAMES = Backoff(0.1, 5.0, jitter=0.5)
_FILES = Backoff(0.2, 10.0, jitter=0.5)
_log = structlog.get_logger(__name__)


def count_requests(totals: Totals) -> tuple[RequestCount, ...]:
    """The request counts of a frame: answered, refused before a version was chosen, and lost in workers that exited. Folded runs
    have no digest and are left out: they were reported before they were folded."""
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
    return tuple(RequestCount(*key, min(count, MOST)) for key, count in merged.items())


class GatewayState(NamedTuple):
    """What frames need in addition to the slab.

    Attributes:
        snapshot: the one in force, or None.
        processes: by digest, the number of READY runner processes, and the bytes that the largest of them holds.
        memory_free_bytes, disk_free_bytes: what the machine has left; None when unknown.
    """

    snapshot: Snapshot | None = None
    processes: Mapping[str, tuple[int, int]] = {}
    memory_free_bytes: int | None = None
    disk_free_bytes: int | None = None


class Frames:
    """Makes telemetry frames. The sequence number is in the agent's slot, so that it continues after a restart within a boot.

    Every frame holds whole counts. Users with bad events are many and never withdrawn, so each is sent until a frame with it was
    accepted; a restarted agent, or one whose control plane went back to an older database, sends all of them again.

    Args:
        source: this gateway's id, and the slab's boot.
        slot: the agent's own slot.
        read: the totals of all slots.
        clock: for the frame's time.
        state: returns the gateway's state now.
    """

    def __init__(
        self,
        source: tuple[str, str],
        slot: SlotWriter,
        read: Callable[[], Totals],
        clock: Clock,
        state: Callable[[], GatewayState],
    ) -> None:
        self._gateway, self._boot = source
        self._slot = slot
        self._cell = slot.place("sequence")
        self._read = read
        self._clock = clock
        self._state = state
        self._named: dict[str, int] = {}
        self._epoch: str | None = None
        self._accepted: dict[str, set[BadUnit]] = {}

    def accepted(self, frame: Telemetry) -> None:
        """Note that the control plane accepted the frame: the users that it names need not be sent again."""
        for counts in frame.rollouts:
            self._accepted.setdefault(counts.rollout, set()).update(counts.units)

    def make(self, registry: WorkerRegistry, manifests: tuple[RecordFile, ...]) -> Telemetry:
        """The next frame, with the current counts and states."""
        self._slot.values[self._cell] += 1
        totals, state = self._read(), self._state()
        return Telemetry(
            gateway=self._gateway,
            boot=self._boot,
            sequence=self._slot.values[self._cell],
            at_us=self._clock.now_us(),
            workers=with_state(registry.reports(), totals, state),
            counts=count_requests(totals),
            record_files=manifests,
            lost_records=totals.records_lost,
            rollouts=self._rollouts(totals, state.snapshot),
            run_times=tuple(RunTimes(digest, tuple(counts)) for digest, counts in sorted(totals.run_times.items())),
        )

    def _rollouts(self, totals: Totals, snapshot: Snapshot | None) -> tuple[RolloutCounts, ...]:
        now_us = self._clock.now_us()
        for entry in () if snapshot is None else snapshot.endpoints:
            if entry.rollout is not None:
                self._named[entry.rollout.id] = now_us
        counted = totals.evidence.rollouts()
        for rollout in counted:
            self._named.setdefault(rollout, now_us)  # the agent restarted after the rollout's end
        until_us = now_us - int(NAMED_FOR_S * 1e6)
        epoch = None if snapshot is None else snapshot.epoch
        if epoch != self._epoch:  # an older copy of its database may lack what it had accepted
            self._epoch, self._accepted = epoch, {}
        return tuple(self._news(totals.evidence.counts(each)) for each in sorted(counted) if self._named[each] >= until_us)

    def _news(self, counts: RolloutCounts) -> RolloutCounts:
        known = self._accepted.get(counts.rollout, ())
        return msgspec.structs.replace(counts, units=tuple(unit for unit in counts.units if unit not in known))


def with_state(reports: Iterable[WorkerReport], totals: Totals, state: GatewayState) -> tuple[WorkerReport, ...]:
    """The workers' reports, completed with what only the agent knows: for each version open breakers and memory of runner
    processes, and what the machine has left."""
    refused = set() if state.snapshot is None else not_closed(totals, state.snapshot)

    def completed(version: VersionState) -> VersionState:
        if version.digest not in refused | state.processes.keys():
            return version
        processes, memory = state.processes.get(version.digest, (0, None))
        return msgspec.structs.replace(version, breaker_open=version.digest in refused, processes=processes, memory_bytes=memory)

    return tuple(
        msgspec.structs.replace(
            report,
            versions=tuple(completed(version) for version in report.versions),
            memory_free_bytes=state.memory_free_bytes,
            disk_free_bytes=state.disk_free_bytes,
            log_lines_dropped=totals.log_lines_lost,
        )
        for report in reports
    )


class Shipping:
    """Ships frames and files. Event loop only.

    Args:
        gateway: this gateway's id.
        sink: has the finished files.
        lost: called with the number of records that were given up.

    Attributes:
        refused: number of frames that the control plane refused permanently.
    """

    def __init__(self, gateway: str, control: ControlLink, frames: Frames, sink: RecordSink, lost: Callable[[int], None]) -> None:
        self._gateway = gateway
        self._control = control
        self._frames = frames
        self._sink = sink
        self._lost = lost
        self._shipped: dict[str, RecordFile] = {}
        self._kick = asyncio.Event()
        self.refused = 0
        self._logged: set[str] = set()
        self._left_out: dict[str, float] = {}

    def kick(self) -> None:
        """Send a frame in a moment, because of an urgent change."""
        self._kick.set()

    async def run(self, registry: WorkerRegistry) -> None:
        """Ship files and frames until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send_frames(registry))
            group.create_task(self._ship_files())

    async def finish(self, registry: WorkerRegistry) -> None:
        """Try a last time to ship all files and a frame.

        Raises:
            httpx.HTTPError: the control plane does not answer.
        """
        while await self._ship_all():
            await self._control.post_telemetry(encode_telemetry(self._make(registry, _PARTS)))
            self._forget(tuple(self._shipped.values()))
        await self._control.post_telemetry(encode_telemetry(self._make(registry, _PARTS)))

    async def _send_frames(self, registry: WorkerRegistry) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TELEMETRY_EVERY_S):
                    await self._kick.wait()
                await asyncio.sleep(SETTLE_S)
            self._kick.clear()
            self._left_out = {name: until for name, until in self._left_out.items() if until > time.monotonic()}
            frame = self._make(registry, set(_PARTS) - self._left_out.keys())
            if not await self._send(frame):
                await self._send_in_parts(registry, frame)
            elif not self._left_out:
                self._logged.clear()

    async def _send(self, frame: Telemetry) -> bool:
        """Send a frame until it is accepted or refused permanently; whether it was accepted."""
        if not await self._deliver(encode_telemetry(frame)):
            return False
        self._frames.accepted(frame)
        self._forget(frame.record_files)
        return True

    async def _send_in_parts(self, registry: WorkerRegistry, refused: Telemetry) -> None:
        """After a permanent refusal, send the frame's parts in separate frames, so that a bad part costs no other. A bad part is
        dropped: a record file for good, counts for a minute. When even a frame without parts is refused, the parts are not to
        blame and stay."""
        if not await self._send(self._make(registry)):
            return
        for file in refused.record_files:
            if not await self._send(msgspec.structs.replace(self._make(registry), record_files=(file,))):
                self._log_refusal(f"the control plane refuses the record file {file.blob}; deleted it")
                self._lost(file.rows)
                self._forget((file,))
        for name in _COUNTED:
            part = {name: getattr(refused, name)}
            if part[name] and not await self._send(msgspec.structs.replace(self._make(registry), **part)):
                self._log_refusal(f"the control plane refuses the part {name}; left it out for {_LEFT_OUT_S:.0f} s")
                self._left_out[name] = time.monotonic() + _LEFT_OUT_S

    async def _deliver(self, frame: bytes) -> bool:
        """Send one frame until it is accepted; False when it is refused permanently."""
        pauses = _FRAMES.delays(random.random)
        while True:
            try:
                await self._control.post_telemetry(frame)
            except httpx.HTTPStatusError as error:
                if error.response.status_code in _PERMANENT:
                    self.refused += 1
                    self._log_refusal(f"{error.response.status_code} {error.response.text[:_REASON_CHARACTERS]}")
                    return False
            except httpx.HTTPError:
                pass  # sync.py logs that the control plane is away
            else:
                return True
            await asyncio.sleep(next(pauses))

    def _log_refusal(self, reason: str) -> None:
        """Log a refusal once, until frames are accepted whole again."""
        if reason not in self._logged:
            self._logged.add(reason)
            _log.error("telemetry was refused", reason=reason)

    def _make(self, registry: WorkerRegistry, parts: Collection[str] = ()) -> Telemetry:
        """The next frame, with only these of its parts."""
        frame = self._frames.make(registry, tuple(self._shipped.values())[:_MANIFESTS_A_FRAME])
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
        """Put every file that is not in the blob store yet; return whether any manifest waits for its frame."""
        for name in self._sink.folder.names():
            if name not in self._shipped:
                await self._ship(name)
        return bool(self._shipped)

    async def _ship(self, name: str) -> None:
        folder = self._sink.folder
        try:
            about = folder.describe(name)
            data = await asyncio.to_thread(read_long, folder.folder / name)
            if len(data) != about.size_bytes:
                raise ValueError(f"expected {about.size_bytes} bytes, got {len(data)}")
        except (OSError, ValueError) as error:
            if name not in folder.names():
                return  # deleted meanwhile to keep the bound
            if isinstance(error, OSError) and error.errno not in _LOST_FOR_GOOD:
                _log.warning("cannot read a record file now; it is tried again", file=name, reason=str(error))
                return
            lost = folder.give_up(name)
            _log.error("gave up a damaged or deleted record file", file=name, records=lost or None, reason=str(error))
            self._lost(lost)
            return
        try:
            await self._control.put_records(name, data)
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in _PERMANENT:
                raise
            _log.exception("the control plane refused a record file; deleted it", file=name, records=about.rows)
            self._lost(about.rows)
            folder.remove(name)
            return
        blob = f"records/{self._gateway}/{name}"
        self._shipped[name] = RecordFile(blob, about.endpoint, about.rows, about.size_bytes, about.first_us, about.last_us)
