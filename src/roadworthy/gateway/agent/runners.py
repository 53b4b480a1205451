"""Keeps the runner processes that the snapshot asks for: orders them from the supervisor, watches them, counts their crashes.

`runtime/placement.py` says which versions execute apart; workers ask it too, and so agree. A runner is let go only when no worker
holds its version any more. One that hangs or outgrows its bound is killed; one that comes near the bound is replaced warm: the
new runner takes over the address before the old one is asked to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from roadworthy.contract.snapshot import PackageEntry, Snapshot
from roadworthy.foundation.errors import RoadworthyError
from roadworthy.foundation.resident import resident
from roadworthy.gateway.agent.quarantine import Quarantine, crash_reason
from roadworthy.runtime.apart import state as states
from roadworthy.runtime.apart.launch import RunnerStart, runner_address, runner_command, runner_document
from roadworthy.runtime.apart.state import RunnerState, state_file
from roadworthy.runtime.placement import PROCESS, Place, Placed, policies_of

LOOK_EVERY_S = 0.5
_WARN_SHARE = 0.9
"""Of the memory bound: a runner that has reached this is replaced before it has to be killed."""
_GRACE_S = 2.0
"""How much longer than its own watchdog a hanging runner is waited for."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Runner:
    """One ordered process. `pid` is known once the supervisor told; `killed` says why it was killed from here."""

    name: str
    document: dict[str, Any]
    grace_s: float
    pid: int | None = None
    killed: str | None = None


@dataclass(slots=True)
class _Copy:
    """One address, and who serves it: the present runner, and while it is replaced its successor."""

    digest: str
    address: Path
    placed: Placed
    runners: list[_Runner] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RunnerFacts:
    """One runner process, for the metrics page and reports."""

    digest: str
    copy: int
    pid: int
    state: str
    resident_bytes: int


@dataclass(frozen=True, slots=True)
class Around:
    """Whom the keeper of runners talks to.

    Attributes:
        order: has exactly these children run.
        held: whether a worker still holds a version apart.
        keep_out: is told the reasons by digest whenever they change.
    """

    order: Callable[[list[dict[str, Any]]], None]
    held: Callable[[str], bool]
    keep_out: Callable[[dict[str, str]], None]


class Runners:
    """Event loop only; `run` goes on until cancelled.

    Args:
        folder: the gateway's. place: where versions execute.
        quarantine: of crashing versions.
        around: the supervisor and the workers.

    Attributes:
        deaths: of runners, by digest and reason.
    """

    def __init__(self, folder: Path, place: Place, quarantine: Quarantine, around: Around) -> None:
        self._folder = folder
        self._place = place
        self._quarantine = quarantine
        self._around = around
        self._shown: dict[str, str] = {}
        self._copies: dict[tuple[str, int], _Copy] = {}
        self._snapshot: Snapshot | None = None
        self._number = 0
        self._unwanted: set[tuple[str, int]] = set()
        self._changed = asyncio.Event()
        self.deaths: dict[tuple[str, str], int] = defaultdict(int)

    def know(self, snapshot: Snapshot) -> None:
        """Take a snapshot, or the same one again when packages have arrived."""
        before = set() if self._snapshot is None else {entry.digest for entry in self._snapshot.packages}
        self._quarantine.forget(before - {entry.digest for entry in snapshot.packages})
        self._snapshot = snapshot
        self._changed.set()

    def told(self, message: dict[str, Any]) -> None:
        """Take a message of the supervisor's."""
        if "started" in message:
            self._began(str(message["started"]), int(message["pid"]))
        elif "died" in message:
            self._died(message)
        elif "running" in message:
            self._changed.set()

    async def run(self) -> None:
        """Keep what is wanted running, and look after it, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LOOK_EVERY_S)
            if self._changed.is_set():
                self._changed.clear()
                await self._plan()
            self._let_go()
            for copy in self._copies.values():
                self._look_after(copy)
            self._tell_kept_out()

    def facts(self) -> list[RunnerFacts]:
        """What runs now."""
        found = []
        for (digest, number), copy in self._copies.items():
            for runner in copy.runners:
                seen = None if runner.pid is None else RunnerState.read(copy.address, runner.pid)
                if runner.pid is not None and seen is not None:
                    memory = resident(runner.pid)
                    size = 0 if memory is None else memory.total
                    found.append(RunnerFacts(digest, number, runner.pid, states.NAMES.get(seen.state, ""), size))
        return found

    async def _plan(self) -> None:
        """Order what the snapshot wants."""
        snapshot = self._snapshot
        if snapshot is None:
            return
        policies = policies_of(snapshot)
        kept_out = self._quarantine.kept_out(time.monotonic())
        wanted: set[tuple[str, int]] = set()
        for entry in snapshot.packages:
            if entry.digest in kept_out:
                continue
            try:
                placed = await asyncio.to_thread(self._place, entry, policies.get(entry.digest, ()))
            except (RoadworthyError, OSError):
                continue  # not here yet: the snapshot comes again when it is
            if placed.where == PROCESS:
                wanted |= {(entry.digest, number) for number in range(placed.copies)}
                self._want(entry, placed)
        self._unwanted = set(self._copies) - wanted
        for key in [key for key in self._unwanted if key[0] in kept_out]:
            del self._copies[key]
        self._send()

    def _want(self, entry: PackageEntry, placed: Placed) -> None:
        for number in range(placed.copies):
            key = (entry.digest, number)
            if key not in self._copies:
                address = runner_address(self._folder, entry.digest, number)
                address.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._copies[key] = _Copy(entry.digest, address, placed)
            copy = self._copies[key]
            if not copy.runners or copy.placed != placed:
                copy.placed = placed
                copy.runners.append(self._runner(entry, placed, number, copy.address))

    def _runner(self, entry: PackageEntry, placed: Placed, number: int, address: Path) -> _Runner:
        self._number += 1
        start = RunnerStart(
            folder=str(self._folder),
            digest=entry.digest,
            address=str(address),
            allowed_by=entry.allowed_by,
            copy=number,
            threads=placed.threads,
            hang_s=placed.hang_s,
            max_rows=placed.max_rows,
        )
        name = f"runner-{entry.digest.removeprefix('sha256:')[:12]}-{number}-{os.getpid()}.{self._number}"
        return _Runner(name, runner_document(start), grace_s=placed.hang_s + 5.0)

    def _send(self) -> None:
        self._around.order(
            [
                {"name": runner.name, "argv": runner_command(), "document": runner.document, "grace_s": runner.grace_s}
                for copy in self._copies.values()
                for runner in copy.runners
            ]
        )

    def _let_go(self) -> None:
        """Stop the runners of versions that nobody holds any more."""
        gone = [key for key in self._unwanted if key in self._copies and not self._around.held(key[0])]
        for key in gone:
            del self._copies[key]
            self._unwanted.discard(key)
        if gone:
            self._send()

    def _look_after(self, copy: _Copy) -> None:
        for runner in copy.runners:
            if runner.pid is None or runner.killed is not None:
                continue
            seen = RunnerState.read(copy.address, runner.pid)
            patience_s = copy.placed.hang_s if seen is None or seen.state != states.LOADING else _load_s(runner)
            if seen is not None and seen.busy_s > patience_s + _GRACE_S:
                self._kill(runner, "hung")
            self._bound_memory(copy, runner)
        if len(copy.runners) > 1:
            self._finish_replacing(copy)

    def _bound_memory(self, copy: _Copy, runner: _Runner) -> None:
        most = copy.placed.memory_mb
        memory = None if runner.pid is None else resident(runner.pid)
        if most is None or memory is None:
            return
        if memory.total > most << 20:
            self._kill(runner, "memory limit")
        elif memory.total > _WARN_SHARE * (most << 20) and len(copy.runners) == 1:
            entry = self._entry(copy.digest)
            if entry is not None:
                _log.warning("a runner has grown near its bound; replacing it", digest=copy.digest, pid=runner.pid)
                number = int(runner.document["copy"])
                copy.runners.append(self._runner(entry, copy.placed, number, copy.address))
                self._send()

    def _finish_replacing(self, copy: _Copy) -> None:
        """Once the newest runner holds the address, the others may go."""
        holder = RunnerState.read(copy.address)
        newest = copy.runners[-1]
        if holder is not None and holder.pid == newest.pid and holder.state == states.READY:
            copy.runners = [newest]
            self._send()

    def _kill(self, runner: _Runner, why: str) -> None:
        _log.error("killing a runner", runner=runner.name, pid=runner.pid, reason=why)
        runner.killed = why
        if runner.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(runner.pid, signal.SIGKILL)

    def _began(self, name: str, pid: int) -> None:
        _, runner = self._find(name)
        if runner is not None:
            runner.pid = pid

    def _died(self, message: dict[str, Any]) -> None:
        pid, status = int(message["pid"]), int(message["status"])
        copy, runner = self._find(str(message["died"]))
        if copy is None or runner is None:
            return
        last = RunnerState.read(copy.address, pid)
        hung = last is not None and last.state == states.HUNG
        why = runner.killed or ("hung" if hung else crash_reason(status))
        runner.pid, runner.killed = None, None
        state_file(copy.address, pid).unlink(missing_ok=True)
        self.deaths[copy.digest, why or "ended from outside"] += 1
        if why is not None:
            self.crashed(copy.digest, why)

    def crashed(self, digest: str, why: str) -> None:
        """Count a crash against a version; past the limit it is kept out and its runners are stopped."""
        if self._quarantine.crashed(digest, why, time.monotonic()):
            _log.error("a version is kept out because it crashes", digest=digest, reason=why)
            self._changed.set()

    def _tell_kept_out(self) -> None:
        kept_out = self._quarantine.kept_out(time.monotonic())
        if kept_out != self._shown:
            if set(self._shown) - set(kept_out):
                self._changed.set()
            self._shown = kept_out
            self._around.keep_out(kept_out)

    def _find(self, name: str) -> tuple[_Copy | None, _Runner | None]:
        for copy in self._copies.values():
            for runner in copy.runners:
                if runner.name == name:
                    return copy, runner
        return None, None

    def _entry(self, digest: str) -> PackageEntry | None:
        packages = () if self._snapshot is None else self._snapshot.packages
        return next((entry for entry in packages if entry.digest == digest), None)


def _load_s(runner: _Runner) -> float:
    return float(runner.document["load_s"])
