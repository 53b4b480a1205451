"""A prediction over HTTP, in order: `connection.py` calls `open` with each head and `run` when the body is there; what lies below
settles the call, and it answers through its connection. What is the same for every edge is in `serving/pipeline.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from roadworthy.codecs.codec import BoundProtocol, Chooser, Decoded
from roadworthy.codecs.compression import INLINE_BYTES, LEAST_ANSWER_BYTES, compress, decompress, is_compressed
from roadworthy.codecs.reading.bounds import ReadApart
from roadworthy.foundation.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelFault,
    RoadworthyError,
    Unavailable,
    let_go,
)
from roadworthy.gateway.http.messages import Reply, check_body
from roadworthy.gateway.http.problems import as_error, problem
from roadworthy.gateway.readers.pool import Read, Work
from roadworthy.runtime.pending import Answer, Outcome, PendingRequest
from roadworthy.serving.endpoint import Endpoint
from roadworthy.serving.pipeline import Instruments, Pipeline, Prediction
from roadworthy.serving.variant import Variant

_MOST_COMPRESSED_BYTES = 4 << 20
"""Compressing takes the event loop's time: about 3 ms a megabyte."""
TIMEOUT_HEADER = b"request-timeout-ms"
"""A caller's own limit, in milliseconds; it may only shorten the endpoint's."""


Aside = Callable[[PendingRequest, int, Work, Callable[[Decoded | Exception], None]], None]
"""Has a request's work on a body of so many bytes done where it holds up nobody; its result goes to a function on the loop."""


class Exchange(Protocol):
    """The connection's side of a call."""

    def answer(self, call: Call, reply: Reply) -> None:
        """Send the reply when it is its turn."""
        ...


class Call(Prediction):
    """A prediction that came over HTTP.

    Attributes:
        reply: set once there is one; the connection sends it when it is its turn. last: whether the connection ends with it.
    """

    __slots__ = (
        "body",
        "decoded",
        "exchange",
        "last",
        "output_json_bytes",
        "outputs",
        "predict",
        "protocol",
        "reply",
    )  # fmt: skip

    headers: dict[bytes, bytes]

    def __init__(self, predict: Predict, exchange: Exchange, headers: dict[bytes, bytes], ids: tuple[str, str]) -> None:
        super().__init__(headers, ids, predict.timeout_s)
        self.last = False
        self.predict = predict
        self.exchange = exchange
        self.body = b""
        self.decoded: Decoded | None = None
        self.output_json_bytes = -1
        self.outputs: bytes | None = None
        self.protocol: BoundProtocol = predict.unchosen
        self.reply: Reply | None = None

    def settled(self, outcome: Outcome) -> None:
        """Answer the request."""
        self.predict.finish(self, outcome)

    def drop(self) -> None:
        """The caller is gone: give back what the request holds, and count it."""
        if not self.done:
            self.done = True
            self.predict.abandon(self)


class Predict(Pipeline):
    """One endpoint in one protocol; `arm` is given where the path names the version.

    Attributes:
        unchosen: stands for the protocol until the head was judged.
        max_body_bytes: of the endpoint's policy.
    """

    def __init__(
        self, endpoint: Endpoint, protocol: Chooser, instruments: Instruments, aside: Aside, arm: Variant | None = None
    ) -> None:
        super().__init__(endpoint, instruments, arm)
        self._protocol = protocol
        self.unchosen = protocol.unchosen
        self._aside = aside
        self.max_body_bytes = endpoint.entry.policy.max_body_bytes

    def open(self, call: Call) -> None:
        """Judge the request by its head alone, and settle it when it is refused: then its body need not come."""
        headers = call.headers
        try:
            self._let_in(call)
            call.protocol = self._protocol.choose(headers)
            if b"content-encoding" in headers:
                is_compressed(headers[b"content-encoding"])
            check_body(headers, self.max_body_bytes)
        except RoadworthyError as error:
            call.settle(error)

    def reopen(self, call: Call, protocol: BoundProtocol) -> None:
        """As `open`, for a head that was judged before: `protocol` was chosen by it. What does not depend on the head alone is
        judged again."""
        call.protocol = protocol
        try:
            self._let_in(call)
        except RoadworthyError as error:
            call.settle(error)

    def _let_in(self, call: Call) -> None:
        self.let_in(call)
        if TIMEOUT_HEADER in call.headers:
            call.deadline = min(call.deadline, call.started + _own_timeout_s(call.headers[TIMEOUT_HEADER]))

    def run(self, call: Call, body: bytes) -> None:
        """Take a place, decode, choose a version, hold it, and hand the rows on."""
        if call.done:
            return
        try:
            self.enter(call)
            if len(body) > INLINE_BYTES and b"content-encoding" in call.headers:
                self._aside(call, len(body), partial(self._tried, call, body), partial(self._decoded, call))
                return
            try:
                decoded = _decode(call, body, self.max_body_bytes)
            except ReadApart:
                self._aside(call, len(call.body), partial(self._read_apart, call), partial(self._decoded, call))
            else:
                call.decoded = decoded
                self.hand_on(call, decoded.batch)
        except Exception as error:  # noqa: BLE001 - the border of a prediction: any fault is this request's and nobody else's
            call.settle(as_error(self.seen(call, error)))

    def _tried(self, call: Call, body: bytes, read: Read) -> Decoded | Exception:
        """Open a compressed body on another thread, and read it if that is short."""
        try:
            return _decode(call, body, self.max_body_bytes)
        except ReadApart:
            return self._read_apart(call, read)
        except Exception as error:  # noqa: BLE001 - handed to the event loop, which answers it
            return error

    def _read_apart(self, call: Call, read: Read) -> Decoded | Exception:
        """On another thread, unless nobody waits any more."""
        try:
            if call.done:
                return DeadlineExceeded("nobody waits any more")
            return read(self._protocol.spec, call.protocol, call.headers, call.body)
        except Exception as error:  # noqa: BLE001 - handed to the event loop too
            return error

    def _decoded(self, call: Call, result: Decoded | Exception) -> None:
        """Go on where `run` stopped, unless nobody waits any more."""
        if call.done:
            return
        if isinstance(result, Exception):
            call.settle(as_error(self.seen(call, result)))
            return
        try:
            call.decoded = result
            self.hand_on(call, result.batch)
        except Exception as error:  # noqa: BLE001 - as in `run`
            call.settle(as_error(self.seen(call, error)))

    def finish(self, call: Call, outcome: Outcome) -> None:
        """Encode the answer, or the error; count, record and send it. The only way out of a prediction that was opened."""
        if isinstance(outcome, Answer):
            try:
                reply = self._encode(call, outcome)
            except Exception as error:  # noqa: BLE001 - as in `run`
                reply = self._refuse(call, as_error(self.seen(call, error)))
        else:
            if isinstance(outcome, ModelFault):
                self.seen(call, outcome)
            reply = self._refuse(call, outcome)
        let_go(outcome.instead_of if isinstance(outcome, Answer) else outcome)
        self._end(call, reply)
        call.exchange.answer(call, reply)

    def abandon(self, call: Call) -> None:
        """Nobody is there to be answered."""
        call.code = "client-gone"
        self._end(call, Reply(499, b""))

    def _encode(self, call: Call, answer: Answer) -> Reply:
        decoded, arm = call.decoded, call.arm
        if decoded is None or arm is None:
            raise ValueError("an answer to a request that nobody asked")
        if isinstance(answer.by, Variant):
            arm = call.by = answer.by
        encoded = call.protocol.encode(answer, decoded, arm.number)
        call.output_json_bytes, call.form = encoded.json_bytes, encoded.form
        call.source = answer.source
        if answer.instead_of is not None:  # hidden from the caller, not from the log and the version's own counts
            call.failed = answer.instead_of.code
            self.seen(call, answer.instead_of)
        reply = Reply(200, encoded.body, encoded.headers, arm.head)
        if answer.notes:
            reply.headers = [*reply.headers, *answer.notes]
        if LEAST_ANSWER_BYTES <= len(encoded.body) <= _MOST_COMPRESSED_BYTES:
            call.outputs = encoded.body
            reply.body, more = compress(encoded.body, call.headers.get(b"accept-encoding"))
            reply.headers = [*reply.headers, *more]
        if decoded.ignored:
            reply.headers = [*reply.headers, (b"roadworthy-ignored-columns", b"%d" % decoded.ignored)]
        return reply

    def _refuse(self, call: Call, error: RoadworthyError) -> Reply:
        call.code = error.code
        reply = problem(error, call.id)
        if call.arm is not None:
            reply.head = call.arm.head
        return reply

    def _end(self, call: Call, reply: Reply) -> None:
        decoded = call.decoded
        rows, json_bytes = (0, -1) if decoded is None else (decoded.batch.rows, decoded.json_bytes)
        answered = reply.body if call.outputs is None else call.outputs
        content = (call.protocol.name, rows, json_bytes, call.output_json_bytes, call.body, answered)
        self.close(call, reply.status, content)


def _decode(call: Call, body: bytes, limit: int) -> Decoded:
    encodings = call.headers.get(b"content-encoding")
    if encodings is not None:
        body = decompress(body, encodings, limit)
    call.body = body
    return call.protocol.decode(call.headers, body)


def _own_timeout_s(text: bytes) -> float:
    if not text.isdigit() or len(text) > 9 or int(text) == 0:
        raise InvalidRequest(
            "the Request-Timeout-Ms header is not a number of milliseconds",
            code="invalid-timeout",
            hint="send a whole number from 1 on",
        )
    return int(text) / 1_000


def stopping() -> Unavailable:
    """The error of requests that are still open when a worker has to end."""
    return Unavailable("this gateway is stopping", code="stopping", hint="try again", retry_after_s=1)
