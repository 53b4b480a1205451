"""The worker's side of its reading processes. `predict.py` hands them the bodies whose reading the event loop would feel.

There are up to MOST, each started when the first body comes for it, with a thread that waits for it: copying a body into the file
that is handed over, waiting and copying the rows out all let the interpreter go.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from roadworthy.codecs.codec import BoundProtocol, Decoded, Headers
from roadworthy.foundation.errors import Unavailable
from roadworthy.gateway.readers import jobs
from roadworthy.runtime.pending import PendingRequest
from roadworthy.runtime.queue.request_queue import too_late
from roadworthy.runtime.queue.thread import ModelThread

MOST = 2
PATIENCE_S = 60.0
"""How long one body may take, on however busy a machine; then the process is killed and another takes its place. Its caller is
answered at the request's own deadline."""

MOST_WAITING_BYTES = 256 << 20
"""Bodies that wait to be read, together; those of one caller take half of it at most, unless it is a single one."""

Read = Callable[[bytes, BoundProtocol, Headers, bytes], Decoded]
"""Reads a body apart: the endpoint's spec, its protocol, the request's head and body."""
Work = Callable[[Read], Decoded | Exception]
_ENDED = (EOFError, BrokenPipeError, ConnectionResetError)


class Readers:
    """A worker's reading processes. Event loop only.

    Attributes:
        patience_s: how long one body may take.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, patience_s: float = PATIENCE_S) -> None:
        self._loop = loop
        self._lanes: list[_Lane] = []
        self._waiting: Counter[str] = Counter()
        self.patience_s = patience_s

    def __call__(
        self, ticket: PendingRequest, size: int, work: Work, then: Callable[[Decoded | Exception], None]
    ) -> None:
        """Do a request's `work`, which must not raise, on a thread that has a reading process; give its result to `then` on the
        loop. At its deadline the ticket is settled. `size` of the body, bytes.

        Raises:
            Unavailable: "overloaded": too much waits.
        """
        mine = self._waiting[ticket.caller]
        if mine and (mine + size > MOST_WAITING_BYTES // 2 or self._waiting.total() + size > MOST_WAITING_BYTES):
            raise _overloaded()
        self._waiting[ticket.caller] += size
        lane = min(self._lanes, key=lambda lane: lane.waiting, default=None)
        if lane is None or (lane.waiting and len(self._lanes) < MOST):
            lane = _Lane(self._loop, self)
            self._lanes.append(lane)
        lane.waiting += 1
        late = self._loop.call_later(max(0.0, ticket.deadline - time.monotonic()), _expire, ticket)
        lane.thread.call(partial(work, lane.read), partial(self._done, lane, late, (ticket.caller, size, then)))

    def processes(self) -> list[int]:
        """Process ids of those that run."""
        return [lane.process.pid for lane in self._lanes if lane.process is not None]

    def close(self) -> None:
        """End them, whatever they read."""
        for lane in self._lanes:
            lane.closing = True
            if lane.process is not None:
                lane.process.kill()
            lane.thread.close(lane.end)
        self._lanes = []

    def _done(
        self,
        lane: _Lane,
        late: asyncio.TimerHandle,
        job: tuple[str, int, Callable[[Decoded | Exception], None]],
        result: Decoded | Exception,
    ) -> None:
        caller, size, then = job
        late.cancel()
        lane.waiting -= 1
        self._waiting[caller] -= size
        if not self._waiting[caller]:
            del self._waiting[caller]
        then(result)


class _Lane:
    """A thread and its process.

    Attributes:
        waiting: bodies that it has been given and not returned.
        closing: no further process is started.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, readers: Readers) -> None:
        self.thread = ModelThread(loop)
        self.waiting = 0
        self.closing = False
        self.process: subprocess.Popen[bytes] | None = None
        self._readers = readers
        self._end: socket.socket | None = None

    def read(self, spec: bytes, protocol: BoundProtocol, headers: Headers, body: bytes) -> Decoded:
        """Have a body read. On the lane's own thread only.

        Raises:
            InvalidRequest: as the protocol raises it.
            Unavailable: "reading-failed": two processes ended, or one took too long.
        """
        try:
            try:
                message = self._ask(spec, headers, body)
            except _ENDED:  # perhaps by no fault of this body: another process tries it, and no third
                self.end()
                message = self._ask(spec, headers, body)
        except (*_ENDED, OSError, ValueError) as error:
            self.end()
            raise _failed() from error
        try:
            return jobs.read_result(protocol, headers, message)
        except (ValueError, BufferError) as error:  # that of a process that something took over
            self.end()
            raise _failed() from error
        finally:
            with contextlib.suppress(BufferError):
                message[1].close()

    def end(self) -> None:
        """End the process."""
        process, self.process = self.process, None
        if self._end is not None:
            self._end.close()
            self._end = None
        if process is not None:
            process.kill()
            process.wait()

    def _ask(self, spec: bytes, headers: Headers, body: bytes) -> tuple[bytes, mmap.mmap, int]:
        end = self._started()
        end.settimeout(self._readers.patience_s)
        jobs.send(end, *jobs.write_job(spec, headers, body))
        message = jobs.receive(end)
        if message is None:
            raise EOFError("it ended")
        return message

    def _started(self) -> socket.socket:
        """The socket of a process that runs."""
        if self._end is not None and self.process is not None and self.process.poll() is None:
            return self._end
        self.end()
        if self.closing:
            raise OSError("the worker stops")
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            with theirs:
                command = [sys.executable, "-P", "-m", "roadworthy.gateway.readers"]
                self.process = subprocess.Popen(command, stdin=theirs.fileno())  # noqa: S603 - a fixed command
            undo.pop_all()
        self._end = ours
        return ours


def _expire(ticket: PendingRequest) -> None:
    ticket.settle(too_late())


def _overloaded() -> Unavailable:
    return Unavailable(
        "too many long bodies are waiting to be read",
        code="overloaded",
        hint="try again, with growing pauses",
        retry_after_s=1,
    )


def _failed() -> Unavailable:
    return Unavailable(
        "the body could not be read here",
        code="reading-failed",
        hint="try again, with fewer rows at a time",
        retry_after_s=1,
    )
