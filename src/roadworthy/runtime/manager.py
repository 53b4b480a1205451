"""Loads, proves and unloads versions while requests go on. `serving/reload.py` says which are wanted, and hears of changes.

A version is loaded in a thread of this process, one package at a time, unless its kind of runner isolates: then its runner
processes load it, and this process waits for them. A version is READY after its golden examples passed where it executes. A
version that is no longer wanted takes no new requests, and is closed when its last lease is given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from roadworthy.contract.policy import Batching, Policy
from roadworthy.contract.runners import INLINE
from roadworthy.contract.snapshot import PackageEntry
from roadworthy.contract.telemetry import VersionState, sentence
from roadworthy.foundation.errors import RoadworthyError, Unavailable
from roadworthy.runtime.lease import Leases
from roadworthy.runtime.loading import Loader, run_by
from roadworthy.runtime.pending import PendingRequest
from roadworthy.runtime.placement import LEAST_HANG_S, Place, Placed
from roadworthy.runtime.policy import Forget, Load, State, Unload, next_action
from roadworthy.runtime.queue.batching import Batcher
from roadworthy.runtime.runners.inline import InlineRunner
from roadworthy.runtime.runners.isolated.client import ProcessBatcher
from roadworthy.runtime.runners.isolated.launch import LOAD_S, runner_address
from roadworthy.schema.batch import Batch
from roadworthy.schema.signature import Signature

KEPT_OUT = "version-quarantined"
_HERE = Placed(INLINE, "no runner processes here")


@dataclass(frozen=True, slots=True)
class Isolation:
    """How versions are placed.

    Attributes:
        folder: the gateway's; runners have their sockets below it.
        place: decides where a version executes; called in the loading thread.
        ready_within_s: a version is FAILED when none of its runners is ready after this many seconds; it still becomes READY
            when one is ready later.
    """

    folder: Path
    place: Place
    ready_within_s: float = LOAD_S + 10.0


class Version:
    """A loaded and proved package that answers requests.

    Attributes:
        digest, runtime, signature: of the package.
        placed: where it executes.
        leases: the requests that hold it.
        batcher: answers batches.
        barred: why the loaded version may not execute now; None when it may.
    """

    __slots__ = ("barred", "batcher", "digest", "leases", "placed", "runtime", "signature")

    def __init__(
        self, digest: str, runtime: str, signature: Signature, placed: Placed, batcher: Batcher | ProcessBatcher
    ) -> None:
        self.digest = digest
        self.runtime = runtime
        self.signature = signature
        self.placed = placed
        self.leases = Leases()
        self.batcher = batcher
        self.barred: RoadworthyError | None = None

    def __repr__(self) -> str:
        return f"Version({self.digest[:15]}, {self.placed}, {self.batcher!r})"

    @property
    def waiting(self) -> int:
        """Requests that have not begun to run."""
        return self.batcher.waiting

    def bar(self, reason: str | None) -> None:
        """Refuse waiting and new requests for a reason; None admits them again."""
        self.barred = _barred(reason)
        self.batcher.bar(None if reason is None else partial(_barred_for, reason))

    def submit(self, batch: Batch, request: PendingRequest) -> None:
        """Answer `batch`, or refuse it at once while the version is barred."""
        if self.barred is None:
            self.batcher.submit(batch, request)
        else:
            request.settle(self.barred)

    @property
    def hangs(self) -> bool:
        """Whether a long request has been running in this process for longer than the placement allows one run, and for at least
        LEAST_HANG_S. The run cannot be ended, and the next long requests wait for it."""
        since = self.batcher.long_since if isinstance(self.batcher, Batcher) else None
        return since is not None and time.monotonic() - since > max(self.placed.hang_s, LEAST_HANG_S)


class Manager:
    """Holds the versions of this process. Event loop only.

    Args:
        load: constructs and proves a package; called in a thread.
        changed: called after any version's state changed.
        failed: called with the digest and the exception of a failed load, for the log.
        isolation: how versions are placed; None executes all of them inline.
    """

    def __init__(
        self,
        load: Loader,
        changed: Callable[[], None],
        failed: Callable[[str, BaseException], None],
        isolation: Isolation | None = None,
    ) -> None:
        self._load = load
        self._changed = changed
        self._failed = failed
        self._isolation = isolation
        self._entries: dict[str, PackageEntry] = {}
        self._policies: Mapping[str, tuple[Policy, ...]] = {}
        self._pinned: frozenset[str] = frozenset()
        self._states: dict[str, State] = {}
        self._faults: dict[str, tuple[str, str]] = {}
        self._versions: dict[str, Version] = {}
        self._awaited: dict[str, _Awaited] = {}
        self._placed_for: dict[str, tuple[Policy, ...]] = {}
        self._kept_out: Mapping[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load")

    def want(
        self,
        entries: Sequence[PackageEntry],
        pinned: Collection[str],
        *,
        policies: Mapping[str, tuple[Policy, ...]] | None = None,
        retry: bool = False,
    ) -> None:
        """Hold exactly these packages, most urgent first, and the loaded ones of `pinned`.

        Args:
            entries: the packages.
            pinned: digests that requests use now.
            policies: by digest, the policies that place it (`placement.policies_of`). A version whose placement changes is loaded
                at its new place before the old one is closed.
            retry: load failed packages again.
        """
        self._entries = {entry.digest: entry for entry in entries}
        self._policies = policies or {}
        self._pinned = frozenset(pinned)
        for digest, version in self._versions.items():
            version.batcher.configure(_batching(self._policies.get(digest, ())))
        if retry:
            for digest in [digest for digest, state in self._states.items() if state is State.FAILED]:
                awaited = self._awaited.get(digest)
                if awaited is None:
                    del self._states[digest]
                else:
                    awaited.batcher.try_again()
        self._act()

    def keep_out(self, reasons: Mapping[str, str]) -> None:
        """Quarantine exactly these digests, because they crash their processes. Reasons by digest."""
        self._kept_out = reasons
        for digest, version in self._versions.items():
            version.bar(reasons.get(digest))
        self._changed()
        self._act()

    def version(self, digest: str) -> Version | None:
        """The version with that digest if it is READY, else None."""
        return self._versions.get(digest)

    def hanging(self) -> frozenset[str]:
        """The digests of the versions in service with a run in this process that hangs."""
        return frozenset(digest for digest, version in self._versions.items() if version.hangs)

    def states(self) -> tuple[VersionState, ...]:
        """The state of each known package, for the report to the agent."""
        kept_out = {digest: State.FAILED for digest in self._kept_out if digest in self._entries}
        return tuple(self._describe(digest, state) for digest, state in (kept_out | self._states).items())

    def _describe(self, digest: str, state: State) -> VersionState:
        if digest in self._kept_out:
            return VersionState(digest, State.FAILED.value, code=KEPT_OUT, reason=sentence(self._kept_out[digest]))
        if state is State.READY:
            version = self._versions[digest]
            return VersionState(digest, state.value, runtime=version.runtime, placement=sentence(version.placed.summary()))
        if state is State.FAILED:
            code, reason = self._faults[digest]
            return VersionState(digest, state.value, code=code, reason=sentence(reason))
        return VersionState(digest, "LOADING" if state is State.LOADING else "UNLOADED")

    async def close(self) -> None:
        """Close every version once no request holds it, and wait for a load under way."""
        self._entries, self._pinned = {}, frozenset()
        self._act()
        while self._tasks:
            await asyncio.wait(self._tasks)
        for awaited in self._awaited.values():
            awaited.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _act(self) -> None:
        self._forget_what_is_awaited_in_vain()
        self._move_what_is_placed_otherwise()
        while (action := next_action(tuple(self._entries), self._pinned, self._local_states())) is not None:
            if isinstance(action, Load):
                self._states[action.digest] = State.LOADING
                self._start(self._bring_in(self._entries[action.digest]))
            elif isinstance(action, Unload):
                self._states[action.digest] = State.UNLOADING
                self._start(self._take_out(self._versions.pop(action.digest)))
            elif isinstance(action, Forget):
                self._forget(action.digest)

    def _forget(self, digest: str) -> None:
        del self._states[digest]
        self._faults.pop(digest, None)
        self._placed_for.pop(digest, None)

    def _local_states(self) -> dict[str, State]:
        """The states for `next_action`. A version that loads in runners does not delay loading here;
        `_forget_what_is_awaited_in_vain` gives it up. A quarantined version is not loaded."""
        kept_out = {d: State.UNLOADING for d in self._kept_out if d not in self._states}
        return kept_out | {d: State.UNLOADING if d in self._awaited else state for d, state in self._states.items()}

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bring_in(self, entry: PackageEntry) -> None:
        """Decide where the version executes, then load it here or wait for its runners."""
        policies = self._policies.get(entry.digest, ())
        self._placed_for[entry.digest] = policies
        try:
            placed = await asyncio.get_running_loop().run_in_executor(self._thread, self._place, entry, policies)
        except (RoadworthyError, OSError) as error:
            code = error.code if isinstance(error, RoadworthyError) else "load-failed"
            self._note_failure(entry.digest, error, code, getattr(error, "message", "the package could not be read"))
            self._changed()
            self._act()
        else:
            await self._bring_in_at(entry, placed, policies)

    async def _bring_in_at(self, entry: PackageEntry, placed: Placed, policies: tuple[Policy, ...]) -> None:
        if placed.isolated and self._isolation is not None:
            self._await_runners(entry, placed, self._isolation)
            return
        loop = asyncio.get_running_loop()
        try:
            load = run_by(self._load, placed.where, placed.threads)
            executable = await loop.run_in_executor(self._thread, load, entry)
        except RoadworthyError as error:
            self._note_failure(entry.digest, error, error.code, error.message)
        except BaseException as error:
            # Loading calls the model's own code: whatever it raises only makes this version FAILED.
            if isinstance(error, asyncio.CancelledError):
                raise
            self._note_failure(entry.digest, error, "load-failed", "the package could not be loaded here")
        else:
            batcher = Batcher(InlineRunner(executable), loop)
            version = Version(entry.digest, executable.runtime, executable.package.signature, placed, batcher)
            if self._placed_for.get(entry.digest) is policies and self._states.get(entry.digest) is not State.UNLOADING:
                self._ready(version)
            else:  # it was moved meanwhile, or is no longer wanted
                await _close_when_free(version)
        self._changed()
        self._act()

    def _place(self, entry: PackageEntry, policies: tuple[Policy, ...]) -> Placed:
        return _HERE if self._isolation is None else self._isolation.place(entry, policies)

    def _await_runners(self, entry: PackageEntry, placed: Placed, isolation: Isolation) -> None:
        loop = asyncio.get_running_loop()
        addresses = [runner_address(isolation.folder, entry.digest, copy) for copy in range(placed.copies)]
        batcher = ProcessBatcher(entry.digest, addresses, loop, lambda: self._look_at_runners(entry.digest))
        alarm = loop.call_later(isolation.ready_within_s, self._not_ready_in_time, entry.digest)
        self._awaited[entry.digest] = _Awaited(batcher, placed, alarm)
        batcher.connect()
        self._act()

    def _look_at_runners(self, digest: str) -> None:
        """Act on the greeting of a runner of an awaited version."""
        awaited = self._awaited.get(digest)
        if awaited is None:
            return
        greeting, refusal = awaited.batcher.ready, awaited.batcher.refusal
        if greeting is not None and greeting.runner == awaited.placed.where:  # not of a process that is being replaced
            awaited.alarm.cancel()
            del self._awaited[digest]
            signature = Signature.from_document(greeting.signature)
            self._ready(Version(digest, greeting.runtime, signature, awaited.placed, awaited.batcher))
        elif refusal is not None and refusal.code is not None:
            reason = refusal.reason or "the package could not be loaded"
            error = RoadworthyError(reason, code=refusal.code)
            self._note_failure(digest, error, refusal.code, reason)
        else:
            return
        self._changed()
        self._act()

    def _not_ready_in_time(self, digest: str) -> None:
        if self._states.get(digest) is State.LOADING:
            reason = "no runner process became ready in time"
            error = Unavailable(reason, code="runner-not-ready", hint="read the log of the runner process")
            self._note_failure(digest, error, error.code, reason)
            self._changed()

    def _forget_what_is_awaited_in_vain(self) -> None:
        for digest in [d for d in self._awaited if d not in self._entries and d not in self._pinned]:
            self._awaited.pop(digest).close()
            if digest not in self._versions:
                self._forget(digest)

    def _move_what_is_placed_otherwise(self) -> None:
        """Load versions whose policies changed at their new place; they serve from the old place meanwhile."""
        for digest in [d for d in self._entries if d in self._versions or d in self._awaited]:
            policies = self._policies.get(digest, ())
            if self._isolation is not None and policies != self._placed_for.get(digest):
                self._placed_for[digest] = policies
                self._start(self._move(self._entries[digest], policies))

    async def _move(self, entry: PackageEntry, policies: tuple[Policy, ...]) -> None:
        digest = entry.digest
        try:
            placed = await asyncio.get_running_loop().run_in_executor(self._thread, self._place, entry, policies)
        except (RoadworthyError, OSError) as error:
            self._failed(digest, error)
            return
        if digest not in self._entries or self._placed_for.get(digest) is not policies:
            return
        version, awaited = self._versions.get(digest), self._awaited.get(digest)
        if awaited is not None and awaited.placed.same_place(placed):
            awaited.placed = placed
            return
        if awaited is not None:
            self._awaited.pop(digest).close()
            if version is None:
                self._states[digest] = State.LOADING
        elif version is None:
            return
        if version is not None and version.placed.same_place(placed):
            version.placed = placed
        else:
            await self._bring_in_at(entry, placed, policies)

    def _ready(self, version: Version) -> None:
        """Put a version into service, replacing an earlier one with its digest."""
        before = self._versions.get(version.digest)
        version.bar(self._kept_out.get(version.digest))
        version.batcher.configure(_batching(self._policies.get(version.digest, ())))
        self._versions[version.digest] = version
        self._states[version.digest] = State.READY
        self._faults.pop(version.digest, None)
        if before is not None:
            self._start(_close_when_free(before))

    def _note_failure(self, digest: str, error: BaseException, code: str, reason: str) -> None:
        if digest not in self._versions:  # a version that only failed to move stays in service
            self._states[digest] = State.FAILED
            self._faults[digest] = (code, reason)
        self._failed(digest, error)

    async def _take_out(self, version: Version) -> None:
        self._changed()
        await _close_when_free(version)
        self._forget(version.digest)
        self._changed()
        self._act()


def _batching(policies: Sequence[Policy]) -> Batching:
    """How requests for a version are joined. Where endpoints that share it differ, the smaller numbers hold."""
    asked = [policy.batching for policy in policies]
    return Batching(
        max_rows=min((batching.max_rows for batching in asked if batching.max_rows is not None), default=None),
        max_wait_ms=min((batching.max_wait_ms for batching in asked), default=0.0),
    )


def _barred(reason: str | None) -> RoadworthyError | None:
    return None if reason is None else _barred_for(reason)


def _barred_for(reason: str) -> RoadworthyError:
    return Unavailable(
        f"this version is quarantined: {reason}",
        code=KEPT_OUT,
        hint="roll back to another version; the log of its runner has the crashes",
        retry_after_s=60,
    )


class _Awaited:
    """A version whose runners are not ready yet."""

    __slots__ = ("alarm", "batcher", "placed")

    def __init__(self, batcher: ProcessBatcher, placed: Placed, alarm: asyncio.TimerHandle) -> None:
        self.batcher = batcher
        self.placed = placed
        self.alarm = alarm

    def close(self) -> None:
        """Stop waiting."""
        self.alarm.cancel()
        self.batcher.close()


async def _close_when_free(version: Version) -> None:
    await version.leases.drained()
    with contextlib.suppress(Exception):  # a model's own clean-up may fail; the version is gone either way
        version.batcher.close()
