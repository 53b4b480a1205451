"""An answer in parts over HTTP: writes each part as it comes, and keeps what the record gets.

The head leaves with the first part. What is written while another request's answer is first in line waits, bounded: no further
part is wanted before that answer has ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from roadworthy.codecs.codec import HeaderList, StreamForm
from roadworthy.foundation.errors import RoadworthyError
from roadworthy.gateway.http.wire import chunk
from roadworthy.runtime.pending import Answer
from roadworthy.schema.batch import Batch
from roadworthy.serving.stream_metrics import StreamMetrics
from roadworthy.serving.streaming import StreamDeadlines, StreamedAnswer

MOST_RECORDED_BYTES = 1 << 20
"""The record has the first parts that were sent, up to so many bytes together."""
_BEGIN, _END = b'{"predictions":[', b"]}"


class Wire(Protocol):
    """The connection, as a stream uses it."""

    def send(self, data: bytes) -> bool:
        """Send bytes of the body; whether more are wanted now. If not, `HttpStream.resume` is called later."""
        ...

    def end(self, data: bytes) -> None:
        """Send the last bytes of the body."""
        ...


class Line(Protocol):
    """The answers of a connection, in the order of their requests."""

    def write_stream(self, wire: StreamWire, data: bytes) -> bool:
        """Write bytes of an answer, or keep them in `unsent` until earlier requests are answered; whether more are wanted now."""
        ...

    def end_stream(self, wire: StreamWire) -> None:
        """The answer is complete."""
        ...


class StreamWire:
    """The place of one answer in parts among the answers of its connection.

    Attributes:
        unsent: its head until the first part, and what it wrote before it was first in line. ended: whether that is all.
        last: whether the connection closes then.
        resume: asks for further parts.
    """

    __slots__ = ("_chunked", "_line", "call", "ended", "last", "resume", "unsent")

    def __init__(self, line: Line, call: object, head: bytes, resume: Callable[[], None], *, chunked: bool, last: bool) -> None:
        self._line = line
        self._chunked = chunked
        self.call = call
        self.resume = resume
        self.last = last
        self.unsent = head
        self.ended = False

    def send(self, data: bytes) -> bool:
        """See `Wire`."""
        return self._line.write_stream(self, chunk(data) if self._chunked else data)

    def end(self, data: bytes) -> None:
        """See `Wire`."""
        if self._chunked:
            data = (chunk(data) if data else b"") + chunk(b"")
        if data:
            self._line.write_stream(self, data)
        self._line.end_stream(self)


class StreamSide(Protocol):
    """The request that a stream answers."""

    def begin(self, stream: HttpStream, answer: Answer, headers: HeaderList) -> Wire:
        """Begin the reply."""
        ...

    def end(self, stream: HttpStream, error: RoadworthyError | None) -> None:
        """The stream has ended: with an error, or with None when all parts were sent. With an error before the first part, the
        reply has not begun."""
        ...

    def problem(self, error: RoadworthyError) -> bytes:
        """The problem document of an error."""
        ...

    def fault(self, error: Exception) -> RoadworthyError:
        """The error to show for any exception, which is logged if it is not the caller's fault."""
        ...


class HttpStream:
    """The sink of one request.

    Args:
        form: in which the parts are sent.
        encode: writes a part as JSON. May raise.
        side: the request.

    Attributes:
        sent: parts sent so far. first_s: when the first part was sent, seconds on the monotonic clock.
    """

    def __init__(self, form: StreamForm, encode: Callable[[Batch], bytes], side: StreamSide) -> None:
        self._form = form
        self._encode = encode
        self._side = side
        self._wire: Wire | None = None
        self._stream: StreamedAnswer | None = None
        self._recorded: list[bytes] = []
        self._recorded_bytes = 0
        self._sent_at = 0.0
        self.sent = 0
        self.first_s = 0.0

    def run(self, answer: Answer, deadlines: StreamDeadlines, metrics: StreamMetrics) -> None:
        """Send the answer, now and as its parts come."""
        self._stream = StreamedAnswer(answer, self, deadlines, metrics)
        self._stream.begin()

    @property
    def recorded(self) -> bytes:
        """The parts that were sent, as the body of one answer, within the bound of records."""
        return b"%b%b%b" % (_BEGIN, b",".join(self._recorded), _END)

    # As the core's sink.

    def start(self, answer: Answer) -> None:
        """See `Sink`. The head is written with the first part, which may have no JSON."""

    def emit(self, parts: Sequence[Batch]) -> bool:
        """See `Sink`. The parts are written as one piece of the body."""
        bodies, fault = self._encoded(parts)
        wanted = self._send(bodies) if bodies else False
        if fault is not None:
            if self._stream is not None:
                self._stream.give_up(self._side.fault(fault), blame=True)
            return False
        return wanted

    def _encoded(self, parts: Sequence[Batch]) -> tuple[list[bytes], Exception | None]:
        """The parts as JSON, up to the first one that cannot be written, and that one's error."""
        bodies: list[bytes] = []
        try:
            bodies.extend(map(self._encode, parts))
        except Exception as error:  # noqa: BLE001 - as in `predict.py`: logged, and only this request fails
            return bodies, error
        return bodies, None

    def _send(self, bodies: list[bytes]) -> bool:
        for body in bodies:
            self._recorded_bytes += len(body)  # of all parts: after one that is left out, the record has no later ones
            if self._recorded_bytes <= MOST_RECORDED_BYTES:
                self._recorded.append(body[len(_BEGIN) : -len(_END)])
        self._sent_at = time.monotonic()
        if self._wire is None:
            if self._stream is None:
                raise ValueError("a part before the stream")
            self.first_s = self._sent_at
            self._wire = self._side.begin(self, self._stream.answer, self._form.headers)
        self.sent += len(bodies)
        return self._wire.send(b"".join(map(self._form.part, bodies)))

    def finish(self) -> None:
        """See `Sink`."""
        self._side.end(self, None)
        if self._wire is not None:
            self._wire.end(self._form.end(self.sent))

    def fail(self, error: RoadworthyError) -> None:
        """See `Sink`. Before the head has left, the error has its own status."""
        self._side.end(self, error)
        if self._wire is not None:
            self._wire.end(self._form.error(self._side.problem(error)))

    # As the connection's.

    def resume(self) -> None:
        """The connection has room for another part."""
        if self._stream is not None:
            self._stream.resume()

    def give_up(self, error: RoadworthyError) -> None:
        """End the stream with an error that is not the version's fault."""
        if self._stream is not None:
            self._stream.give_up(error)

    def close(self) -> None:
        """The caller is gone."""
        if self._stream is not None:
            self._stream.close()

    def keep_alive(self, now: float, after_s: float) -> None:
        """Send a comment if nothing was sent for `after_s` seconds."""
        if self._wire is not None and self._form.comment and now - self._sent_at >= after_s:
            self._sent_at = now
            self._wire.send(self._form.comment)
