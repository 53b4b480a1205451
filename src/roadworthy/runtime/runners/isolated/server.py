"""The runner's side of its connections: accepts workers, reads their messages, has `joining.py` run them, sends the answers.

The process's main thread does everything: a message needs no hand-over between threads, libraries that need the main thread have
it, and while the model runs, the kernel buffers what arrives. When that thread is stuck in the model, the watch (`watch.py`)
tells the workers from another thread.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from roadworthy.foundation.errors import ModelFault
from roadworthy.foundation.sockets import unix_address
from roadworthy.runtime.runners.isolated import frames
from roadworthy.runtime.runners.isolated.joining import Asked, Joining
from roadworthy.runtime.runners.isolated.memory import SharedMemory
from roadworthy.runtime.runners.isolated.state import STEP_S
from roadworthy.runtime.runners.isolated.streams import Streams
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.signature import MAX_PART_BYTES

STOP_S = 25.0
"""How long messages in flight may take after the order to stop, unless `Server.stop_s` says otherwise."""
_BLOCK_BYTES = 256 << 10
_opening = msgspec.json.Decoder(frames.Opening)
_encode = msgspec.json.Encoder().encode


class Server:
    """All connections of a runner.

    Args:
        address: where workers connect.
        greeting: the first message to each worker.
        inputs: layout of the rows that workers send.
        joining: runs their messages: `Streams` for a model that answers in parts. None for a version that could not be loaded.
        step: called in every iteration of the loop, at least every STEP_S.

    Attributes:
        stop_s: how long messages in flight may take after the order to stop, in seconds.
    """

    def __init__(
        self,
        address: Path,
        greeting: frames.Greeting,
        inputs: Layout,
        joining: Joining | Streams | None,
        step: Callable[[], None] = lambda: None,
    ) -> None:
        self._address = address
        self._greeting = frames.encode_message(frames.HELLO, 0, _encode(greeting))
        self._inputs = inputs
        self._joining = joining
        self._streams = joining if isinstance(joining, Streams) else None
        self._step = step
        self._selector = selectors.DefaultSelector()
        self._connections: set[_Connection] = set()
        self._listener: socket.socket | None = None
        self._woken, self._wake = socket.socketpair()
        self._stop_by: float | None = None
        self.stop_s = STOP_S
        self._asked_to_stop = False
        self._asked_to_retry = False

    def open(self, given: socket.socket | None = None) -> None:
        """Take the address: workers that connect to it from now on reach this process.

        Args:
            given: a socket that already listens next to the address; None makes one.

        Raises:
            OSError: the address cannot be taken.
        """
        private = self._address.with_name(f"{self._address.name}.{os.getpid()}")
        listener = given or _listen(private)
        listener.setblocking(False)
        self._listener = listener
        self._inode = private.stat().st_ino
        private.replace(self._address)
        for end in (self._woken, self._wake):
            end.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._woken, selectors.EVENT_READ, self._was_woken)
        if self._streams is not None:
            self._streams.wake = self._wake_up

    def serve(self) -> bool:
        """Answer messages until asked to stop and everything in flight is answered.

        Returns:
            Whether it stopped because a worker asked to load again.
        """
        while not self._is_over():
            self._step()
            waits = 0.0 if self._joining else STEP_S
            for key, events in self._selector.select(waits):
                key.data(events)
            if self._joining:
                self._joining.run_next()
            if (self._asked_to_stop or self._asked_to_retry) and self._stop_by is None:
                self._begin_to_stop()
        self.close()
        return self._asked_to_retry

    def stop(self) -> None:
        """Begin an orderly stop; from any thread or a signal handler."""
        self._asked_to_stop = True
        self._wake_up()

    def _wake_up(self) -> None:
        with contextlib.suppress(OSError):
            self._wake.send(b"s")

    def tell_hung(self) -> None:
        """Tell every worker that the model does not return; called by the watch, right before the process ends."""
        for connection in list(self._connections):
            connection.tell_hung()

    def forget(self) -> None:
        """Close every descriptor in a forked child, without unregistering: that would change what the parent waits for."""
        for connection in self._connections:
            connection.forget()
        for end in (self._listener, self._woken, self._wake):
            if end is not None:
                end.close()
        self._selector.close()

    def close(self) -> None:
        """Close everything."""
        self._leave_address()
        for connection in list(self._connections):
            self._drop(connection)
        self._selector.close()
        self._woken.close()
        self._wake.close()

    def _is_over(self) -> bool:
        if self._stop_by is None or (self._joining and self._streams is None):
            return False
        return not self._connections or time.monotonic() > self._stop_by

    def _begin_to_stop(self) -> None:
        self._stop_by = time.monotonic() + self.stop_s
        self._leave_address()
        for connection in list(self._connections):
            connection.send(frames.encode_message(frames.GOODBYE))

    def _leave_address(self) -> None:
        listener, self._listener = self._listener, None
        if listener is None:
            return
        with contextlib.suppress(OSError):
            if self._address.stat().st_ino == self._inode:  # no successor has taken it yet
                self._address.unlink()
        self._selector.unregister(listener)
        listener.close()

    def _accept(self, _events: int) -> None:
        if self._listener is None:
            return
        with contextlib.suppress(OSError):
            end, _ = self._listener.accept()
            end.setblocking(False)
            connection = _Connection(end, self._selector, self._drop)
            self._connections.add(connection)
            self._selector.register(end, selectors.EVENT_READ, partial(self._on_events, connection))
            connection.send(self._greeting)

    def _was_woken(self, _events: int) -> None:
        with contextlib.suppress(OSError):
            self._woken.recv(4096)

    def _on_events(self, connection: _Connection, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            connection.flush()
        if events & selectors.EVENT_READ:
            try:
                for kind, number, payload in connection.read():
                    self._take(connection, kind, number, payload)
            except (OSError, ValueError, EOFError):
                self._drop(connection)

    def _take(self, connection: _Connection, kind: int, number: int, payload: memoryview) -> None:
        if kind == frames.HELLO:
            connection.share(_opening.decode(payload))
        elif kind == frames.RETRY:
            self._asked_to_retry = self._joining is None
        elif kind == frames.RUN and self._joining is not None:
            ring = None if connection.memory is None else connection.memory.requests
            batch, counts, deadlines = frames.decode_run(payload, self._inputs, ring)
            self._joining.add(Asked(connection, number, batch, counts, deadlines))
        elif kind == frames.CREDIT and self._streams is not None:
            self._streams.credit((connection, number), frames.decode_credit(payload))
        elif kind == frames.CANCEL and self._streams is not None:
            self._streams.cancel((connection, number))

    def _drop(self, connection: _Connection) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            connection.close()
            if self._streams is not None:
                self._streams.cancel_all(connection)


def _listen(private: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | getattr(socket, "SOCK_CLOEXEC", 0))
    private.unlink(missing_ok=True)
    with unix_address(private) as path:
        listener.bind(path)
    private.chmod(0o600)
    listener.listen(128)
    return listener


def _part_too_large() -> ModelFault:
    return ModelFault("one part of the model's answer is larger than 1 MiB", code="part-too-large", hint="yield smaller parts")


class _Connection:
    """The connection of one worker."""

    def __init__(self, end: socket.socket, selector: selectors.BaseSelector, drop: Callable[[_Connection], None]) -> None:
        self._end = end
        self._selector = selector
        self._drop = drop
        self._reader = frames.MessageReader()
        self._unsent = bytearray()
        self._descriptors: list[int] = []
        self._opened = False
        self._closed = False
        self.memory: SharedMemory | None = None

    def read(self) -> list[tuple[int, int, memoryview]]:
        """The messages that have arrived.

        Raises:
            EOFError: the worker closed the connection. OSError, ValueError: the rest of the stream is unreadable.
        """
        if self._opened:
            data = self._end.recv(_BLOCK_BYTES)
        else:
            data, self._descriptors, _, _ = socket.recv_fds(self._end, _BLOCK_BYTES, 1)
        if not data:
            raise EOFError
        return list(self._reader.feed(data))

    def share(self, opening: frames.Opening) -> None:
        """Map the memory whose descriptor came with the opening.

        Raises:
            ValueError: the worker speaks another protocol version. OSError: the memory cannot be mapped.
        """
        self._opened = True
        if opening.protocol != frames.PROTOCOL:
            raise ValueError(f"expected protocol {frames.PROTOCOL}, got {opening.protocol}")
        if self._descriptors and opening.ring_bytes:
            self.memory = SharedMemory(self._descriptors[0], opening.ring_bytes)
        self._close_descriptors()

    def begin(self, number: int) -> None:
        """Note that message `number` is about to run."""
        if self.memory is not None:
            self.memory.begin(number)

    def answer(self, number: int, outcomes: frames.Outcomes) -> None:
        """Send the outcomes of message `number`."""
        if self._closed:
            return
        ring = None if self.memory is None else self.memory.answers
        try:
            message = frames.encode_answer(number, outcomes, ring)
        except ValueError:
            fault = ModelFault("the model's answer is too large to send", code="answer-too-large")
            statuses = [status or 1 for status in outcomes.statuses]
            message = frames.encode_answer(number, frames.Outcomes(statuses, (fault,), None), None)
        self.send(message)

    def part(self, number: int, part: Batch, seconds: float) -> int:
        """Send one part of the answer to message `number`, which took the model so many seconds; return its bytes.

        Raises:
            ModelFault: "part-too-large" or "wrong-output-type".
        """
        try:
            message = frames.encode_part(number, part, seconds)
        except ValueError as error:
            raise _part_too_large() from error
        if len(message) > MAX_PART_BYTES:
            raise _part_too_large()
        self.send(message)
        return len(message)

    def send(self, message: bytes) -> None:
        """Send a message now, or as soon as the worker reads."""
        if self._closed:
            return
        if self._unsent:
            self._unsent += message
            return
        try:
            sent = self._end.send(message)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(self)
            return
        if sent < len(message):
            self._unsent += memoryview(message)[sent:]
            self._selector.modify(self._end, selectors.EVENT_READ | selectors.EVENT_WRITE, self._selector.get_key(self._end).data)

    def flush(self) -> None:
        """Send buffered messages."""
        try:
            sent = self._end.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            self._drop(self)
            return
        del self._unsent[:sent]
        if not self._unsent:
            self._selector.modify(self._end, selectors.EVENT_READ, self._selector.get_key(self._end).data)

    def tell_hung(self) -> None:
        """Send HUNG, unless another message is half sent."""
        if not self._unsent:
            with contextlib.suppress(OSError):
                self._end.send(frames.encode_message(frames.HUNG))

    def close(self) -> None:
        """Close the socket; the shared memory goes with the last reference to it."""
        self._closed = True
        self._close_descriptors()
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(self._end)
        self._end.close()
        self.memory = None

    def forget(self) -> None:
        """Close the descriptors in a forked child."""
        self._close_descriptors()
        self._end.close()

    def _close_descriptors(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
