"""The part of this process in the gateway of its home folder: a slot in the slab and a link to the agent, as a worker has them.

A file lock shows which process has which slot. It ends with the process, however that ends. The slot's counts stay: the next
process in the slot continues them. While the agent is away the slot is kept, and records wait within their bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from roadworthy.contract.snapshot import Snapshot
from roadworthy.contract.telemetry import WorkerReport
from roadworthy.foundation.backoff import Backoff
from roadworthy.foundation.slab import EMBEDDED, SlabReader
from roadworthy.gateway.link import AgentLink
from roadworthy.serving.metrics import WorkerMetrics, open_member_metrics

ALONE_AFTER_S = 5.0
"""How long the agent may be away before a rollout is left to its stable version: longer than it takes to start another."""
_ANSWER_S = 2.0
"""How long an endpoint that is being opened waits for the agent."""
NO_AGENT = "no gateway runs in the home folder of this machine"
_DISCONNECTED = "the gateway's agent disconnected this process; its log has the reason"
_SILENT = "the gateway's agent does not answer"
_AWAY = "the gateway's agent has gone; this process joins again when it is back"
_RETRIES = Backoff(0.1, 1.0)
_log = logging.getLogger("roadworthy.embedded")


@dataclass(frozen=True, slots=True)
class _Slot:
    """A slot of the slab, held by this process.

    Attributes:
        slab: device and inode of the slab. lock: the descriptor that holds the lock.
    """

    number: int
    slab: tuple[int, int]
    lock: int
    metrics: WorkerMetrics


class Membership:
    """Joins, and joins again after the agent was away. Event loop only.

    Args:
        folder: the gateway's, in the home folder.
        report: fills the report of a slot, a process id and a boot.
        changed: called when `snapshot` or `reason` has changed.
        keep_out: takes the parts that must not execute on this machine, each with the reason.
        linked: called when records can be sent.

    Attributes:
        folder: the gateway's.
        snapshot: the gateway's own, as its agent handed it out; None while this process has not joined.
        reason: why no agent takes part; None while one does, and before the first attempt to join.
        tried: whether there was such an attempt.
    """

    def __init__(
        self,
        folder: Path,
        report: Callable[[int, str], WorkerReport],
        changed: Callable[[], None],
        keep_out: Callable[[dict[str, str]], None],
        linked: Callable[[], None],
    ) -> None:
        self.folder = folder
        self.snapshot: Snapshot | None = None
        self.reason: str | None = None
        self.tried = False
        self._refusal = ""
        self._fill = report
        self._changed = changed
        self._slot: _Slot | None = None
        self._lost = 0
        self._timer: asyncio.TimerHandle | None = None
        self._link = AgentLink(folder / "run" / "agent.sock", self._report, self._offer, keep_out, linked, self._prepare)

    @property
    def metrics(self) -> WorkerMetrics | None:
        """What counts in the slab; None before this process has joined."""
        return None if self._slot is None else self._slot.metrics

    async def run(self) -> None:
        """Join, and join again, until cancelled."""
        self._timer = asyncio.get_running_loop().call_later(_ANSWER_S, self._too_late)
        pauses = _RETRIES.delays()
        while True:
            self._refusal = NO_AGENT
            linked = await self._link.attend()
            if linked and self.tried and self.reason is None:
                pauses = _RETRIES.delays()
                self._apart(_AWAY)
                self._timer = asyncio.get_running_loop().call_later(ALONE_AFTER_S, self._part)
            else:
                self._apart(_DISCONNECTED if linked else self._refusal)
            await asyncio.sleep(next(pauses))

    # As the recorder's carrier.

    def ready(self) -> bool:
        """See `Carrier`."""
        return self._link.ready()

    def carry(self, payload: Sequence[bytes | bytearray | memoryview]) -> None:
        """See `Carrier`."""
        self._link.carry(payload)

    def lost_records(self, count: int) -> None:
        """Count records that were dropped. While the agent is away they are noted for the slab of the next one."""
        self._lost += count
        if self.reason is None:
            self._count_lost()

    def _count_lost(self) -> None:
        if self._slot is not None:
            self._slot.metrics.lost_records(self._lost)
            self._lost = 0

    def report(self) -> None:
        """Tell the agent the state of this process, because it has changed."""
        if self._slot is not None:
            self._link.report()

    def beat(self) -> None:
        """Show that this process is alive; about once a second."""
        if self._slot is not None:
            self._slot.metrics.heartbeat()

    async def close(self) -> None:
        """Hand over what was sent, and release the slot."""
        await self._link.close()
        if self._timer is not None:
            self._timer.cancel()
        self.snapshot, self.reason, self.tried = None, None, False
        self._count_lost()
        self._release()

    def forget(self) -> None:
        """Release in a fork what it inherited: the connection and the slot are the parent's."""
        self._link.forget()
        if self._slot is not None:
            os.close(self._slot.lock)
            self._slot = None

    # The link.

    def _report(self) -> WorkerReport:
        slot = self._slot
        if slot is None:
            raise AssertionError("a link has a slot")
        return self._fill(slot.number, slot.metrics.boot)

    def _offer(self, snapshot: Snapshot) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.reason is not None or not self.tried:
            _log.info("joined the gateway of %s; it counts, records and judges what this process answers", self.folder.parent)
        self.snapshot, self.reason, self.tried = snapshot, None, True
        self._changed()

    def _part(self) -> None:
        """Serve without the agent: it can no longer call off a canary."""
        self.snapshot = None
        self._changed()

    def _apart(self, reason: str) -> None:
        """Note why no agent takes part. The log has a reason once, and only that of an agent that has gone."""
        known, self.tried = self.tried, True
        if known and (reason == self.reason or (self.reason == _AWAY and reason == NO_AGENT)):
            return
        self.reason = reason
        if known:
            _log.warning("what this process answers is neither counted nor recorded: %s", reason)
        self._changed()

    def _too_late(self) -> None:
        if not self.tried:
            self._apart(_SILENT)

    # The slot.

    def _prepare(self) -> bool:
        """Take a slot for a new connection, or keep the one that this process has."""
        try:
            refusal = self._take_slot()
        except (OSError, ValueError) as error:
            refusal = f"the slab of its gateway cannot be used: {error}"
        self._refusal = refusal or ""
        if refusal is None:
            self._count_lost()
        return refusal is None

    def _take_slot(self) -> str | None:
        """Why there is no slot; None with one.

        Raises:
            OSError, ValueError: the slab cannot be used.
        """
        path = self.folder / "run" / "slab"
        found = path.stat()
        slab = found.st_dev, found.st_ino
        if self._slot is not None and self._slot.slab == slab:
            return None
        self._release()  # its slab was replaced
        with contextlib.closing(SlabReader(path)) as reader:
            for number in reader.members:
                lock = _locked(path.with_name(f"embedded-{number}.lock"), found)
                if lock is None:
                    continue
                status = reader.status(number)
                if status.alive and status.pid != os.getpid():  # although its lock was deleted
                    os.close(lock)
                    continue
                try:
                    metrics = open_member_metrics(path, number)
                except BaseException:
                    os.close(lock)
                    raise
                metrics.state(EMBEDDED)
                self._slot = _Slot(number, slab, lock, metrics)
                return None
            most = len(reader.members)
        return f"the {most} places of its gateway for such processes are taken (gateway.embedded_processes)"

    def _release(self) -> None:
        if self._slot is not None:
            self._slot.metrics.close()
            os.close(self._slot.lock)
            self._slot = None


def _locked(path: Path, slab: os.stat_result) -> int | None:
    """A descriptor that holds the lock of a slot; None if another process has it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(lock).st_uid != slab.st_uid:  # root has made it; the gateway's user must be able to open it
            os.fchown(lock, slab.st_uid, slab.st_gid)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock
