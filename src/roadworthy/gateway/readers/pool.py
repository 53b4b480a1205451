"""The worker's pool of reader processes. `predict.py` gives it the bodies that would hold the event loop for too long.

There are up to MOST processes, each started with its first body, and each with a thread that waits for it. Copying a body into
the message, waiting, and copying the rows out all release the interpreter's lock. One more thread, without a process, reads what
takes milliseconds and releases the lock.
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
from roadworthy.foundation import plugins
from roadworthy.foundation.errors import Unavailable
from roadworthy.gateway.readers import jobs
from roadworthy.runtime.pending import PendingRequest
from roadworthy.runtime.queue.request_queue import too_late
from roadworthy.runtime.queue.thread import ModelThread

MOST = 2
BODY_TIMEOUT_S = 60.0
"""How long one body may take, even on a busy machine; then its process is killed and replaced. The caller is answered at the
request's own deadline."""

MOST_WAITING_BYTES = 256 << 20
"""Bound of all bodies that wait to be read. Those of one caller may take half of it; a single body may take all."""

Read = Callable[[bytes, BoundProtocol, Headers, bytes], Decoded]
"""Reads a body in a reader process: the endpoint's spec, its protocol, the request's headers and body."""
Work = Callable[[Read], Decoded | Exception]
Then = Callable[[Decoded | Exception], None]


class Readers:
    """A worker's reader processes. Event loop only.

    Attributes:
        timeout_s: how long one body may take.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float = BODY_TIMEOUT_S) -> None:
        self._loop = loop
        self._readers: list[_Reader] = []
        self._thread: ModelThread | None = None
        self._waiting: Counter[str] = Counter()
        self.timeout_s = timeout_s

    def __call__(self, request: PendingRequest, size: int, work: Work, then: Then) -> None:
        """Run `work` on a thread that has a reader process, and pass its result to `then` on the event loop. The request is
        settled at its deadline.

        Args:
            request: the request that has the body.
            size: of the body, bytes.
            work: must not raise.
            then: takes the result, on the event loop.

        Raises:
            Unavailable: "overloaded": too many bodies wait.
        """
        self._admit(request.caller, size)
        reader = min(self._readers, key=lambda reader: reader.waiting, default=None)
        if reader is None or (reader.waiting and len(self._readers) < MOST):
            reader = _Reader(self._loop, self)
            self._readers.append(reader)
        reader.waiting += 1
        self._run(reader.thread, request, size, partial(work, reader.read), partial(_returned, reader, then))

    def on_thread(self, request: PendingRequest, size: int, work: Callable[[], Decoded | Exception], then: Then) -> None:
        """The same on the thread that has no process: for work that takes milliseconds, most of them without the interpreter's
        lock. It does not wait for bodies that the processes read."""
        self._admit(request.caller, size)
        if self._thread is None:
            self._thread = ModelThread(self._loop)
        self._run(self._thread, request, size, work, then)

    def processes(self) -> list[int]:
        """The process ids of the running processes."""
        return [reader.process.pid for reader in self._readers if reader.process is not None]

    def close(self) -> None:
        """Kill all processes, whatever they read."""
        for reader in self._readers:
            reader.closing = True
            if reader.process is not None:
                reader.process.kill()
            reader.thread.close(reader.end)
        self._readers = []
        if self._thread is not None:
            self._thread.close(lambda: None)
            self._thread = None

    def _admit(self, caller: str, size: int) -> None:
        mine = self._waiting[caller]
        if mine and (mine + size > MOST_WAITING_BYTES // 2 or self._waiting.total() + size > MOST_WAITING_BYTES):
            raise _overloaded()
        self._waiting[caller] += size

    def _run(
        self, thread: ModelThread, request: PendingRequest, size: int, work: Callable[[], Decoded | Exception], then: Then
    ) -> None:
        late = self._loop.call_later(max(0.0, request.deadline - time.monotonic()), _expire, request)
        thread.call(work, partial(self._done, late, request.caller, size, then))

    def _done(self, late: asyncio.TimerHandle, caller: str, size: int, then: Then, result: Decoded | Exception) -> None:
        late.cancel()
        self._waiting[caller] -= size
        if not self._waiting[caller]:
            del self._waiting[caller]
        then(result)


class _Reader:
    """A thread with its reader process.

    Attributes:
        waiting: bodies that it was given and has not returned.
        closing: whether no further process may be started.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, readers: Readers) -> None:
        self.thread = ModelThread(loop)
        self.waiting = 0
        self.closing = False
        self.process: subprocess.Popen[bytes] | None = None
        self._pool = readers
        self._end: socket.socket | None = None

    def read(self, spec: bytes, protocol: BoundProtocol, headers: Headers, body: bytes) -> Decoded:
        """Have the process read a body. On this reader's own thread only.

        Raises:
            InvalidRequest: as the protocol raises it.
            Unavailable: "reading-failed": two processes ended or could not be reached, or one took too long.
        """
        try:
            try:
                message = self._ask(spec, headers, body)
            except TimeoutError:
                raise
            except (EOFError, OSError):  # perhaps not because of this body: a second process tries it, but no third
                self.end()
                message = self._ask(spec, headers, body)
        except (EOFError, OSError, ValueError) as error:
            self.end()
            raise _failed() from error
        try:
            return jobs.read_result(protocol, headers, message)
        except (ValueError, BufferError) as error:  # an invalid message, as of a process that a body took over
            self.end()
            raise _failed() from error
        finally:
            with contextlib.suppress(BufferError):
                message[1].close()

    def end(self) -> None:
        """Kill the process."""
        process, self.process = self.process, None
        if self._end is not None:
            self._end.close()
            self._end = None
        if process is not None:
            process.kill()
            process.wait()

    def _ask(self, spec: bytes, headers: Headers, body: bytes) -> tuple[bytes, mmap.mmap, int]:
        end = self._started()
        end.settimeout(self._pool.timeout_s)
        jobs.send(end, *jobs.write_job(spec, headers, body))
        message = jobs.receive(end)
        if message is None:
            raise EOFError("the reader process ended")
        return message

    def _started(self) -> socket.socket:
        """The socket of the process, which is started if it does not run."""
        if self._end is not None and self.process is not None and self.process.poll() is None:
            return self._end
        self.end()
        if self.closing:
            raise OSError("the worker is stopping")
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            with theirs:
                command = [sys.executable, "-P", "-m", "roadworthy.gateway.readers", *plugins.allowed()]
                self.process = subprocess.Popen(command, stdin=theirs.fileno())  # noqa: S603 - a fixed command
            undo.pop_all()
        self._end = ours
        return ours


def _returned(reader: _Reader, then: Then, result: Decoded | Exception) -> None:
    reader.waiting -= 1
    then(result)


def _expire(request: PendingRequest) -> None:
    request.settle(too_late())


def _overloaded() -> Unavailable:
    return Unavailable(
        "too many long bodies are waiting to be read",
        code="overloaded",
        hint="try again with increasing delays",
        retry_after_s=1,
    )


def _failed() -> Unavailable:
    return Unavailable(
        "reading the body failed on this gateway",
        code="reading-failed",
        hint="try again with fewer rows at a time",
        retry_after_s=1,
    )
