"""Loads, proves and unloads versions beside the requests. `gateway/serving.py` says what is wanted and hears what changed.

Loading runs in a thread, one package at a time. READY is published after the golden examples passed in this process; a version
that is no longer wanted goes out of reach at once and is closed when its last lease is given back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor

from roadworthy.contract.snapshot import PackageEntry
from roadworthy.contract.telemetry import VersionState
from roadworthy.foundation.errors import RoadworthyError
from roadworthy.runtime.batching import Batcher
from roadworthy.runtime.lease import Leases
from roadworthy.runtime.policy import Forget, Load, State, Unload, next_action
from roadworthy.runtime.runners.inline import InlineRunner
from roadworthy.runtime.runners.runner import Executable
from roadworthy.schema.signature import Signature

Loader = Callable[[PackageEntry], Executable]
"""Constructs a package and replays its golden examples. Runs in a thread; raises RoadworthyError with a safe message."""


class Version:
    """A loaded and proved package that answers requests.

    Attributes:
        digest, runtime, signature: what it is.
        leases: who holds it.
        batcher: answers batches.
    """

    __slots__ = ("batcher", "digest", "leases", "runtime", "signature")

    def __init__(self, digest: str, executable: Executable, loop: asyncio.AbstractEventLoop) -> None:
        self.digest = digest
        self.runtime: str = executable.runtime
        self.signature: Signature = executable.package.signature
        self.leases = Leases()
        self.batcher = Batcher(InlineRunner(executable), loop)


class Manager:
    """Holds the versions of this process. Event loop only.

    Args:
        load: constructs and proves.
        changed: called after any version's state changed.
        failed: called with the digest and the exception of a load that failed, for the log.
    """

    def __init__(
        self,
        load: Loader,
        changed: Callable[[], None],
        failed: Callable[[str, BaseException], None],
    ) -> None:
        self._load = load
        self._changed = changed
        self._failed = failed
        self._entries: dict[str, PackageEntry] = {}
        self._pinned: frozenset[str] = frozenset()
        self._states: dict[str, State] = {}
        self._faults: dict[str, tuple[str, str]] = {}
        self._versions: dict[str, Version] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load")

    def want(self, entries: Sequence[PackageEntry], pinned: Collection[str], *, retry: bool = False) -> None:
        """Hold exactly these packages, most urgent first, and whatever of `pinned` is loaded; `retry` loads what failed again."""
        self._entries = {entry.digest: entry for entry in entries}
        self._pinned = frozenset(pinned)
        if retry:
            for digest in [digest for digest, state in self._states.items() if state is State.FAILED]:
                del self._states[digest]
        self._act()

    def version(self, digest: str) -> Version | None:
        """The version of that digest if it is READY."""
        return self._versions.get(digest)

    def fault(self, digest: str) -> tuple[str, str] | None:
        """Code and safe reason of a FAILED digest."""
        return self._faults.get(digest) if self._states.get(digest) is State.FAILED else None

    def states(self) -> tuple[VersionState, ...]:
        """How far each known package is, for the report to the agent."""
        return tuple(self._describe(digest, state) for digest, state in self._states.items())

    def _describe(self, digest: str, state: State) -> VersionState:
        if state is State.READY:
            return VersionState(digest, state.value, runtime=self._versions[digest].runtime)
        if state is State.FAILED:
            code, reason = self._faults[digest]
            return VersionState(digest, state.value, code=code, reason=reason)
        return VersionState(digest, "LOADING" if state is State.LOADING else "UNLOADED")

    async def close(self) -> None:
        """Close every version once nobody holds it, and wait for a load that is under way."""
        self._entries, self._pinned = {}, frozenset()
        self._act()
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _act(self) -> None:
        while (action := next_action(tuple(self._entries), self._pinned, self._states)) is not None:
            if isinstance(action, Load):
                self._states[action.digest] = State.LOADING
                self._start(self._bring_in(self._entries[action.digest]))
            elif isinstance(action, Unload):
                self._states[action.digest] = State.UNLOADING
                self._start(self._take_out(self._versions.pop(action.digest)))
            elif isinstance(action, Forget):
                del self._states[action.digest]
                self._faults.pop(action.digest, None)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bring_in(self, entry: PackageEntry) -> None:
        loop = asyncio.get_running_loop()
        try:
            executable = await loop.run_in_executor(self._thread, self._load, entry)
        except RoadworthyError as error:
            self._note_failure(entry.digest, error, error.code, error.message)
        except BaseException as error:
            # Loading calls the model's own code: whatever it raises makes this version FAILED and nothing else.
            if isinstance(error, asyncio.CancelledError):
                raise
            self._note_failure(entry.digest, error, "load-failed", "the package could not be loaded here")
        else:
            self._versions[entry.digest] = Version(entry.digest, executable, loop)
            self._states[entry.digest] = State.READY
        self._changed()
        self._act()

    def _note_failure(self, digest: str, error: BaseException, code: str, reason: str) -> None:
        self._states[digest] = State.FAILED
        self._faults[digest] = (code, reason)
        self._failed(digest, error)

    async def _take_out(self, version: Version) -> None:
        self._changed()
        await version.leases.drained()
        with contextlib.suppress(Exception):  # a model's own clean-up may fail; it is gone either way
            version.batcher.close()
        del self._states[version.digest]
        self._changed()
        self._act()
