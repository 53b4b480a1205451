"""Keeps the wanted runner processes running: orders them from the supervisor, watches them, counts their crashes.

`runtime/placement.py` decides which versions execute in isolation, for the agent and the workers alike. Rules that a policy names
always do. A runner stops only when no worker needs its version or rule any longer. A runner that hangs or outgrows its memory
bound is killed. A runner that comes near the bound, leaks, or should start with other settings is replaced warm: the new runner
takes over the address before the old one is asked to stop.

Runners are children of the supervisor and outlive the agent. Their names identify them, so that a restarted agent takes them over
while they run.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from roadworthy.agent.runners.quarantine import Quarantine, crash_reason
from roadworthy.agent.runners.watch import KILL, STILL, Growth, RunnerWatch
from roadworthy.contract.local import part_of, read_part
from roadworthy.contract.snapshot import PackageEntry, Snapshot
from roadworthy.foundation.confine.plan import Bounds
from roadworthy.foundation.errors import RoadworthyError
from roadworthy.foundation.files import private_folder
from roadworthy.runtime.placement import Place, Placed, policies_of, rules_of
from roadworthy.runtime.runners.isolated import state as states
from roadworthy.runtime.runners.isolated.launch import (
    LOAD_S,
    RunnerStart,
    confined_command,
    confinement,
    read_stem,
    runner_address,
    runner_document,
    runner_stem,
)

LOOK_EVERY_S = 0.5
REPLACE_EVERY_S = 10.0
"""The least time between two replacements of a copy, however fast it leaks."""
LINGER_S = 2.0
"""How long a runner must be unneeded before it is stopped."""
_FROM_OUTSIDE = "killed"
_PREFIX = "runner-"
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Runner:
    """One ordered process; `watch` is set while it runs."""

    name: str
    document: dict[str, Any]
    grace_s: float
    watch: RunnerWatch | None = None

    @property
    def kind(self) -> str:
        """Its name without the number: equal for runners with the same start document."""
        return self.name.rpartition(".")[0]


@dataclass(slots=True)
class _Copy:
    """One address and its runners: the current one, and during a replacement its successor. `rule` is "" for the version
    itself."""

    entry: PackageEntry
    rule: str
    number: int
    address: Path
    placed: Placed
    runners: list[_Runner] = field(default_factory=list)
    needed_at: float = 0.0
    replaced_at: float = float("-inf")


@dataclass(frozen=True, slots=True)
class RunnerFacts:
    """One runner process, for the metrics page and reports; `rule` is "" when it executes the version itself."""

    digest: str
    rule: str
    copy: int
    pid: int
    state: str
    resident_bytes: int


@dataclass(frozen=True, slots=True)
class Keeping:
    """The state of all runners, for the metrics page and reports.

    Attributes:
        runners: the processes at the last look.
        restarts: how often runners restarted after an exit or were replaced warm, by part and reason.
        workers: how often workers exited or were replaced warm, by reason.
        kept_out: why parts are quarantined, by part.
    """

    runners: tuple[RunnerFacts, ...] = ()
    restarts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    workers: Mapping[str, int] = field(default_factory=dict)
    kept_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """How runners start on this machine.

    Attributes:
        folder: the gateway's.
        growth: when a runner counts as leaking.
        command: of a runner. bounds: what its code may have.
        log_level: "debug" to "error".
    """

    folder: Path
    growth: Growth
    command: tuple[str, ...] = tuple(confined_command())
    bounds: Bounds = field(default_factory=Bounds)
    log_level: str = "info"


class Orders(Protocol):
    """Starts and ends runner processes: the channel to the supervisor (`orders.py`), or this process itself."""

    def order(self, children: list[dict[str, Any]]) -> None:
        """Run exactly these children."""
        ...

    def kill(self, name: str, pid: int, reason: str) -> None:
        """Kill process `pid` of a child at once."""
        ...


class Runners:
    """Keeps the wanted runner processes running. Event loop only.

    Args:
        settings: how runners start.
        place: decides where versions execute.
        quarantine: counts crashes.
        orders: starts and ends the processes.
        held: whether a worker still needs a part in its own process.
        keep_out: called with the reasons by part whenever they change.
        count_crash: called for each crash with the id of each rollout that it counts for.
    """

    def __init__(
        self,
        settings: RunnerSettings,
        place: Place,
        quarantine: Quarantine,
        orders: Orders,
        *,
        held: Callable[[str], bool],
        keep_out: Callable[[dict[str, str]], None],
        count_crash: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._place = place
        self._quarantine = quarantine
        self._orders = orders
        self._held = held
        self._keep_out = keep_out
        self._count_crash = count_crash
        self._shown: dict[str, str] = {}
        self._copies: dict[tuple[str, int], _Copy] = {}
        self._wanted: set[tuple[str, int]] = set()
        self._snapshot: Snapshot | None = None
        self._found: dict[str, int] | None = None
        self._number = 0
        self._changed = asyncio.Event()
        self._restarts: dict[tuple[str, str], int] = defaultdict(int)
        self._workers: dict[str, int] = defaultdict(int)

    def take_snapshot(self, snapshot: Snapshot) -> None:
        """Take a snapshot, or the same one again after packages have arrived."""
        self._quarantine.take_snapshot(snapshot)
        self._snapshot = snapshot
        self._changed.set()

    def handle(self, message: dict[str, Any]) -> None:
        """Handle a message from the supervisor."""
        if "started" in message:
            self._began(str(message["started"]), int(message["pid"]))
        elif "slot" in message:
            self._note_worker(message)
        elif "died" in message:
            self._died(message)
        elif "running" in message:
            self._found = {str(child["name"]): int(child["pid"]) for child in message["running"]}
            numbers = [name.rpartition(".")[2] for name in self._found]
            self._number = max([self._number, *(int(number) for number in numbers if number.isdigit())])
            self._changed.set()

    async def run(self) -> None:
        """Keep the wanted runners running, and watch them, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._changed.wait()
            if self._found is None:  # an order names everything, so the running ones must be known first
                self._changed.clear()
                continue
            if self._changed.is_set():
                self._changed.clear()
                await self._plan()
            self._let_go()
            for copy in self._copies.values():
                self._keep_folder(copy)
                self._look_after(copy)
            self._tell_kept_out()

    @property
    def revision(self) -> int:
        """The revision of the last snapshot; 0 before the first."""
        return 0 if self._snapshot is None else self._snapshot.revision

    def isolated(self) -> set[str]:
        """The parts that should execute in runner processes."""
        return {part for part, _ in self._wanted}

    def facts(self) -> Keeping:
        """The current state of all runners."""
        return Keeping(tuple(self._running()), dict(self._restarts), dict(self._workers), dict(self._shown))

    def _running(self) -> Iterator[RunnerFacts]:
        for copy in self._copies.values():
            for watch in (runner.watch for runner in copy.runners if runner.watch is not None):
                state = "STARTING" if watch.state is None else states.NAMES.get(watch.state.state, "")
                size = 0 if watch.memory is None else watch.memory.total
                yield RunnerFacts(copy.entry.digest, copy.rule, copy.number, watch.pid, state, size)

    def crashed(self, part: str, why: str) -> None:
        """Count a crash against a part, and for a version also in its rollouts. At the limit, quarantine the part and stop its
        runners."""
        for entry in () if self._snapshot is None else self._snapshot.packages:
            if entry.digest == part:
                for rollout in entry.rollouts:
                    self._count_crash(rollout)
        if self._quarantine.crashed(part, why, time.monotonic()):
            digest, rule = read_part(part)
            what = "rule" if rule else "version"
            _log.error(f"a {what} is quarantined because it crashes", digest=digest, rule=rule or None, reason=why)
            self._changed.set()

    def processes(self) -> dict[str, tuple[int, int]]:
        """For each version, the number of READY runner processes and the bytes that the largest of them holds."""
        found: dict[str, tuple[int, int]] = {}
        for each in self._running():
            if each.state == states.NAMES[states.READY] and not each.rule:
                number, largest = found.get(each.digest, (0, 0))
                found[each.digest] = (number + 1, max(largest, each.resident_bytes))
        return found

    # The wanted runners.

    async def _plan(self) -> None:
        """Order the runners that the snapshot needs."""
        snapshot = self._snapshot
        if snapshot is None:
            return
        policies, rules = policies_of(snapshot), rules_of(snapshot)
        wanted: set[tuple[str, int]] = set()
        unknown: set[str] = set()
        placements: list[tuple[PackageEntry, Placed]] = []
        for entry in snapshot.packages:
            try:
                placed = await asyncio.to_thread(self._place, entry, policies.get(entry.digest, ()))
            except (RoadworthyError, OSError):
                unknown.add(entry.digest)  # not here yet: the snapshot comes again when the package has arrived
            else:
                placements.append((entry, placed))
        kept_out = self._quarantine.kept_out(time.monotonic())
        for entry, of_version in placements:
            for rule, placed in _isolated(entry, of_version, rules[entry.digest]):
                part = part_of(entry.digest, rule)
                if part not in kept_out:
                    wanted |= {(part, number) for number in range(placed.copies)}
                    self._want(entry, rule, placed)
        self._wanted = wanted | {key for key in self._copies if read_part(key[0])[0] in unknown}
        for key in [key for key in self._copies if key[0] in kept_out]:
            del self._copies[key]
        self._order()

    def _want(self, entry: PackageEntry, rule: str, placed: Placed) -> None:
        for number in range(placed.copies):
            address = runner_address(self._settings.folder, entry.digest, number, rule)
            private_folder(address.parent)
            key = part_of(entry.digest, rule), number
            copy = self._copies.setdefault(key, _Copy(entry, rule, number, address, placed))
            copy.entry, copy.placed = entry, placed
            copy.needed_at = time.monotonic()
            next_one = self._runner(copy)
            if not copy.runners:
                copy.runners = self._adopted(next_one, copy.address) or [next_one]
            if copy.runners[-1].kind != next_one.kind:
                copy.runners.append(next_one)

    def _runner(self, copy: _Copy) -> _Runner:
        self._number += 1
        entry, settings = copy.entry, self._settings
        start = RunnerStart(
            folder=str(settings.folder),
            digest=entry.digest,
            address=str(copy.address),
            allowed_by=entry.leave,
            rule=copy.rule,
            copy=copy.number,
            threads=copy.placed.threads,
            hang_s=copy.placed.hang_s,
            max_rows=copy.placed.max_rows,
            log_level=settings.log_level,
            confine=confinement(settings.folder, entry.digest, copy.address, settings.bounds, entry.grants),
            runner=copy.placed.where,
        )
        document = runner_document(start)
        sign = hashlib.sha256(msgspec.json.encode(document, order="sorted")).hexdigest()[:8]
        name = f"{_PREFIX}{runner_stem(entry.digest, copy.rule)}-{copy.number}-{sign}.{self._number}"
        return _Runner(name, document, grace_s=copy.placed.hang_s + 5.0)

    def _adopted(self, like: _Runner, address: Path) -> list[_Runner]:
        """The runners of a copy that a previous agent ordered; those with the current start document come last."""
        same_copy = like.kind.rpartition("-")[0]
        found = {name: pid for name, pid in (self._found or {}).items() if name.rpartition("-")[0] == same_copy}
        adopted = [_Runner(name, like.document, like.grace_s, RunnerWatch(address, pid, LOAD_S)) for name, pid in found.items()]
        return sorted(adopted, key=lambda runner: (runner.kind == like.kind, int(runner.name.rpartition(".")[2])))

    def _order(self) -> None:
        command = list(self._settings.command)
        self._orders.order(
            [
                {"name": runner.name, "argv": command, "document": runner.document, "grace_s": runner.grace_s}
                for runner in self._all()
            ]
        )

    def _let_go(self) -> None:
        """Stop the runners of parts that no worker needs any longer, and those beyond the copies that a part has now."""
        now, wanted = time.monotonic(), self.isolated()
        for key, copy in self._copies.items():
            if key in self._wanted or (key[0] not in wanted and self._held(key[0])):
                copy.needed_at = now
        gone = [key for key, copy in self._copies.items() if now - copy.needed_at > LINGER_S]
        for key in gone:
            del self._copies[key]
        if gone:
            self._order()

    # The existing runners.

    def _keep_folder(self, copy: _Copy) -> None:
        """If the copy's folder was deleted, and the sockets of its runners with it, make it again and kill the runners."""
        if copy.address.parent.exists():
            return
        with contextlib.suppress(OSError):  # the disk may be full
            private_folder(copy.address.parent)
        for runner in copy.runners:
            if runner.watch is not None:
                self._kill(runner.name, runner.watch.pid, STILL)

    def _kill(self, name: str, pid: int, why: str) -> None:
        _log.error("killing a runner", runner=name, runner_pid=pid, reason=why)
        self._orders.kill(name, pid, why)

    def _look_after(self, copy: _Copy) -> None:
        for runner in copy.runners:
            if runner.watch is None:
                continue
            runner.watch.look()
            verdict = runner.watch.judge(copy.placed, self._settings.growth)
            if verdict is not None and verdict[0] == KILL:
                self._kill(runner.name, runner.watch.pid, verdict[1])
            elif verdict is not None:
                self._replace(copy, verdict[1])
        if len(copy.runners) > 1:
            self._finish_replacing(copy)

    def _replace(self, copy: _Copy, why: str) -> None:
        if len(copy.runners) > 1 or time.monotonic() - copy.replaced_at < REPLACE_EVERY_S:
            return
        _log.warning("replacing a runner", runner=copy.runners[0].name, reason=why)
        copy.replaced_at = time.monotonic()
        self._restarts[part_of(copy.entry.digest, copy.rule), why] += 1
        copy.runners.append(self._runner(copy))
        self._order()

    def _finish_replacing(self, copy: _Copy) -> None:
        """Stop the older runners once the newest holds the address. If the newest cannot be loaded, stop that one instead."""
        newest = copy.runners[-1]
        if newest.watch is None or newest.watch.state is None:
            return
        holder = states.RunnerState.read(copy.address)
        if holder is not None and holder.pid == newest.watch.pid and holder.state == states.READY:
            copy.runners = [newest]
            self._order()
        elif newest.watch.state.state == states.FAILED and holder is not None and holder.pid != newest.watch.pid:
            _log.error("a runner's replacement could not be loaded; the old runner stays", runner=newest.name)
            copy.runners.pop()
            copy.replaced_at = time.monotonic()
            self._order()

    def _began(self, name: str, pid: int) -> None:
        for copy in self._copies.values():
            for runner in copy.runners:
                if runner.name == name:
                    runner.watch = RunnerWatch(copy.address, pid, LOAD_S)

    def _died(self, message: dict[str, Any]) -> None:
        if message.get("next_start_s") is None:  # it was asked to stop
            return
        name, status = str(message["died"]), int(message["status"])
        part = self._part(name)
        if part is None:  # not a runner, or of a version that no snapshot names any longer
            return
        watch = None
        for runner in (runner for runner in self._all() if runner.name == name):
            watch, runner.watch = runner.watch, None
        hung = watch is not None and watch.pid == message["pid"] and watch.hung()
        why = message.get("reason") or ("hung" if hung else crash_reason(status))
        self._restarts[part, str(why or _FROM_OUTSIDE)] += 1
        if why not in (None, STILL):  # being still says nothing about the part it executes
            self.crashed(part, str(why))

    def _note_worker(self, message: dict[str, Any]) -> None:
        if "recycled" in message:
            self._workers[f"replaced: {message['reason']}"] += 1
        elif message.get("next_start_s") is not None:
            self._workers[str(message.get("reason") or crash_reason(int(message["status"])) or _FROM_OUTSIDE)] += 1

    def _tell_kept_out(self) -> None:
        kept_out = dict(self._quarantine.kept_out(time.monotonic()))
        if kept_out != self._shown:
            if set(self._shown) - set(kept_out):
                self._changed.set()
            self._shown = kept_out
            self._keep_out(kept_out)

    def _all(self) -> Iterator[_Runner]:
        for copy in self._copies.values():
            yield from copy.runners

    def _part(self, name: str) -> str | None:
        """The part that the runner with this name executes."""
        digits, rule = read_stem(name.removeprefix(_PREFIX).rsplit("-", 2)[0])
        packages = () if self._snapshot is None else self._snapshot.packages
        found = (entry.digest for entry in packages if runner_stem(entry.digest) == digits)
        return next((part_of(digest, rule) for digest in found), None)


def _isolated(entry: PackageEntry, placed: Placed, named: Collection[str]) -> Iterator[tuple[str, Placed]]:
    """The parts of the package that execute in isolation, and how: its named rules, and the version itself as ""."""
    if placed.isolated:
        yield "", placed
    if entry.leave is not None:
        yield from ((rule, placed.of_rule()) for rule in placed.rules if rule in named)
