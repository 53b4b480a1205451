"""The life of a runner process: load and prove, take the address, answer, stop in order."""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
from dataclasses import replace
from pathlib import Path

import structlog

from roadworthy.contract.snapshot import PackageEntry
from roadworthy.foundation.child import watch_parent
from roadworthy.foundation.confine.launcher import LISTENER
from roadworthy.foundation.errors import RoadworthyError
from roadworthy.foundation.host import end_at_once, end_descendants, end_fork, forget_in_forks, hear_stop
from roadworthy.runtime.loading import Loader
from roadworthy.runtime.logs import write_out
from roadworthy.runtime.runners.inline import InlineRunner
from roadworthy.runtime.runners.isolated import isolation, state
from roadworthy.runtime.runners.isolated.frames import Greeting
from roadworthy.runtime.runners.isolated.joining import Joining, Watched
from roadworthy.runtime.runners.isolated.launch import EXIT_LOAD_FAILED, RunnerStart
from roadworthy.runtime.runners.isolated.server import STOP_S, Server
from roadworthy.runtime.runners.isolated.state import RunnerState, StateWriter
from roadworthy.runtime.runners.isolated.streams import Streams
from roadworthy.runtime.runners.isolated.watch import Watch
from roadworthy.runtime.runners.runner import Executable
from roadworthy.schema.batch import Layout

FAILED_S = 30.0
"""How long a runner whose load did not end reports that before it exits; its loading thread still uses a processor."""
_STILL_S = 5.0
_GC_THRESHOLDS = (50_000, 20, 100)
_NOTHING = Layout(())


class RunnerProcess:
    """One runner; the main thread loads and runs the model."""

    def __init__(self, start: RunnerStart, load: Loader) -> None:
        self._start = start
        self._load = load
        self._address = Path(start.address)
        self._state = StateWriter(self._address)
        what = {"digest": start.digest} | ({"rule": start.rule} if start.rule else {})
        self._log = structlog.get_logger("runner").bind(**what, copy=start.copy)
        self._watch = Watch(self._state, (start.load_s, start.hang_s), self._load_timeout, self._hung)
        self._server: Server | None = None
        self._listener = None if start.confine is None else socket.socket(fileno=LISTENER)
        if self._listener is not None:
            self._listener.set_inheritable(False)
        self._stopping = threading.Event()

    def run(self) -> int:
        """Serve until asked to stop; return the exit status."""
        forget_in_forks(self._forget)
        self._keep_signals()
        watch_parent(self._stop)
        self._watch.start()
        try:
            executable = self._construct()
        except RoadworthyError as error:
            return self._refuse(error.code, error.message, error)
        except BaseException as error:  # noqa: BLE001 - loading calls the model's own code, which may raise anything
            return self._refuse("load-failed", "the package could not be loaded here", error)
        if self._state.state != state.LOADING:  # too late: the watch has reported it, and ends this process
            threading.Event().wait()
        return self._answer(executable)

    def _construct(self) -> Executable:
        pid = os.getpid()
        try:
            return self._load(self._entry())
        finally:
            end_fork(pid)

    def _answer(self, executable: Executable) -> int:
        signature = executable.package.signature
        start = self._start
        in_parts = executable.parts is not None  # a rule answers at once, whatever its package does
        document = replace(signature, parts=in_parts).to_document()
        greeting = Greeting(start.digest, os.getpid(), executable.runtime, document, runner=start.runner)
        runner = InlineRunner(executable)
        joining = (
            Streams(runner, self._state, self._keep_signals)
            if in_parts
            else Joining(Watched(runner, self._state), start.max_rows, self._keep_signals)
        )
        self._state.move(state.READY)
        self._keep_signals()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        self._serve(greeting, Layout(signature.inputs), joining)
        self._state.move(state.DRAINING)
        executable.close()
        return 0

    def _refuse(self, code: str, reason: str, error: BaseException | None) -> int:
        """Tell the workers that the package cannot be loaded, until asked to stop or to try again."""
        self._state.move(state.FAILED)
        self._log.error("load-failed", code=code, reason=reason, exc_info=error)
        while self._is_served():  # let an earlier runner of this version answer, as long as it does
            if self._stopping.wait(1.0):
                return 0
        again = self._serve(Greeting(self._start.digest, os.getpid(), code=code, reason=reason), _NOTHING, None)
        return EXIT_LOAD_FAILED if again else 0

    def _serve(self, greeting: Greeting, inputs: Layout, joining: Joining | Streams | None) -> bool:
        server = self._server = Server(self._address, greeting, inputs, joining, self._state.step)
        if isinstance(joining, Streams):
            server.stop_s = max(STOP_S, self._start.hang_s)
        server.open(self._listener)
        self._state.take_address()
        if joining is not None:
            self._log.info("ready", runtime=greeting.runtime)
        if self._stopping.is_set():
            server.stop()
        return server.serve()

    def _is_served(self) -> bool:
        """Whether an earlier runner makes progress: it takes steps, and its run is not too long. Confined code cannot ask it."""
        seen = RunnerState.read(self._address)
        if seen is None or seen.pid == os.getpid() or seen.state != state.READY:
            return False
        return seen.still_s < _STILL_S and seen.busy_s < self._start.hang_s + _STILL_S

    def _load_timeout(self) -> None:
        """Report a load timeout; runs in the watch's thread, because the main thread is stuck in the load."""
        threading.Timer(FAILED_S, end_at_once, (EXIT_LOAD_FAILED,)).start()
        reason = f"loading took more than {self._start.load_s:g} s"
        status = self._refuse("load-timeout", reason, None)
        self._state.remove()
        write_out()
        end_at_once(status)

    def _hung(self) -> None:
        """Report a hanging run and end; runs in the watch's thread, because the main thread is stuck in the run."""
        self._state.move(state.HUNG)
        if self._server is not None:
            self._server.tell_hung()
        self._log.error("runner-hung", limit_s=self._start.hang_s)
        write_out()
        end_descendants()
        os.kill(os.getpid(), signal.SIGKILL)

    def _stop(self) -> None:
        self._stopping.set()
        if self._server is not None:
            self._server.stop()

    def _keep_signals(self) -> None:
        hear_stop(self._stop)

    def _forget(self) -> None:
        """Release the parent's connections; called in a forked child."""
        if self._server is not None:
            self._server.forget()

    def _entry(self) -> PackageEntry:
        return PackageEntry(self._start.digest, "", 0, 0, self._start.allowed_by)

    def close(self) -> None:
        """Stop the watch and delete the state file."""
        self._watch.stop()
        self._state.remove()


def serve(start: RunnerStart, load: Loader) -> int:
    """Run a runner until it is asked to stop; return the exit status. Call in the main thread.

    Raises:
        OSError: the address cannot be used.
    """
    address = Path(start.address)
    address.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    place = isolation.private_place(address) if start.confine is None else isolation.settled_place(address)
    process = RunnerProcess(start, load)
    try:
        return process.run()
    finally:
        process.close()
        isolation.leave_place(place)
