"""A prediction over HTTP, step by step. `connection.py` calls `open` with the head and `run` with the body; the layers below
settle the prediction, which answers through its connection. The steps that every edge shares are in `serving/pipeline.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol, cast

from roadworthy.codecs.answers import Accepting
from roadworthy.codecs.codec import BoundProtocol, Chooser, Decoded, Encoded, HeaderList, StreamingProtocol, Writing
from roadworthy.codecs.compression import (
    INLINE_BYTES,
    LEAST_ANSWER_BYTES,
    STEP_BYTES,
    compress,
    decompress,
    is_compressed,
)
from roadworthy.codecs.json_answers import JSON_HEADERS
from roadworthy.codecs.reading.bounds import NeedsReader, NeedsThread
from roadworthy.codecs.steps import at_once
from roadworthy.foundation.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelFault,
    RoadworthyError,
    Unavailable,
    let_go,
)
from roadworthy.gateway.http.messages import TIMEOUT_HEADER, Reply, check_body
from roadworthy.gateway.http.problems import ErrorKeys, as_error, problem
from roadworthy.gateway.http.scheduler import StepScheduler
from roadworthy.gateway.http.streaming import HttpStream, Wire
from roadworthy.gateway.readers.pool import Read, Then, Work
from roadworthy.runtime.collected import Collected
from roadworthy.runtime.pending import Answer, Outcome, PendingRequest
from roadworthy.schema.batch import Batch
from roadworthy.serving.endpoint import Endpoint
from roadworthy.serving.pipeline import Instruments, Pipeline, Request
from roadworthy.serving.stream_metrics import FAILED, StreamMetrics
from roadworthy.serving.streaming import StreamedAnswer
from roadworthy.serving.variant import Variant

_MOST_COMPRESSED_BYTES = 4 << 20
"""Compressing takes the worker's time: up to 13 ms a megabyte."""
_OWN_STEP_BYTES = 64 << 10
"""Reading a longer body takes up to 5 ms. It waits for an iteration of the event loop with time for it, so that many that arrive
together do not hold the loop for as long as all of them take."""


class Offload(Protocol):
    """Runs work on a body off the event loop, as `Readers` does."""

    def __call__(self, request: PendingRequest, size: int, work: Work, then: Then) -> None:
        """Run work that may ask a reader process."""
        ...

    def on_thread(self, request: PendingRequest, size: int, work: Callable[[], Decoded | Exception], then: Then) -> None:
        """Run work that takes milliseconds."""
        ...


class Exchange(Protocol):
    """The connection, as a prediction uses it."""

    def answer(self, call: HttpPrediction, reply: Reply) -> None:
        """Send the reply after those to earlier requests."""
        ...

    def begin(self, call: HttpPrediction, reply: Reply, resume: Callable[[], None]) -> Wire:
        """Begin a reply whose body is sent in pieces. `resume` is called when further ones are wanted."""
        ...


class HttpPrediction(Request):
    """A prediction that came over HTTP.

    Attributes:
        reply: None until the prediction is answered. last: whether the connection closes after the reply.
        writing: what writes its long answer, or sends or collects its answer in parts; None before and after.
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
        "writing",
    )  # fmt: skip

    headers = Request.attributes  # type: ignore[misc]  # the same slot, under the name that HTTP has for it

    def __init__(self, predict: Predict, exchange: Exchange, headers: dict[bytes, bytes], ids: tuple[str, str]) -> None:
        Request.__init__(self, headers, ids, predict.timeout_s)  # `super` makes an object, for each request
        self.last = False
        self.predict = predict
        self.exchange = exchange
        self.body = b""
        self.decoded: Decoded | None = None
        self.output_json_bytes = -1
        self.outputs: bytes | None = None
        self.protocol: BoundProtocol = predict.unchosen
        self.reply: Reply | None = None
        self.writing: Generator[None, None, Reply] | StreamedAnswer | HttpStream | None = None

    def settle(self, outcome: Outcome) -> None:
        """As in PendingRequest; its two steps as one call, since every request is settled."""
        if not self.done:
            self.done = True
            self.predict.finish(self, outcome)

    def settle_run(self, members: Sequence[tuple[Batch, PendingRequest]], joined: Batch) -> None:
        """See `PendingRequest`. Work for a whole run pays only where several requests share it, and most have one row."""
        bodies = self.predict.bodies(self, joined) if 1 < len(members) > joined.rows / 2 else None
        if bodies is None:
            PendingRequest.settle_run(self, members, joined)
        else:
            self.predict.finish_run(self, members, joined, bodies)

    def drop(self) -> None:
        """The caller is gone: release what the request holds, and count it."""
        stream = self.writing if isinstance(self.writing, HttpStream) else None
        if not self.done or self.stop_writing():
            self.done = True
            self.predict.abandon(self, stream)

    def give_up(self, error: RoadworthyError) -> None:
        """Answer with this error, also if the answer is being written."""
        if isinstance(self.writing, (HttpStream, StreamedAnswer)):
            self.writing.give_up(error)
        elif self.stop_writing():
            self.predict.finish(self, error)
        else:
            self.settle(error)

    def stop_writing(self) -> bool:
        """Whether an answer was being written; it no longer is."""
        writing, self.writing = self.writing, None
        if writing is not None:
            writing.close()
        return writing is not None


class Predict(Pipeline):
    """One endpoint in one protocol. `variant` is set where the path names the version; `error_keys` as in `problem`.

    Attributes:
        max_body_bytes: of the endpoint's policy.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        protocol: Chooser,
        instruments: Instruments,
        offload: Offload,
        scheduler: StepScheduler,
        *,
        variant: Variant | None = None,
        error_keys: ErrorKeys | None = None,
    ) -> None:
        super().__init__(endpoint, instruments, variant)
        self.error_keys = error_keys
        self._protocol = protocol
        self._offload = offload
        self._scheduler = scheduler
        self.max_body_bytes = endpoint.entry.policy.max_body_bytes
        self._max_rows = endpoint.entry.policy.max_rows

    @cached_property
    def unchosen(self) -> BoundProtocol:
        """The protocol named in records until the head has been checked. Made with the first request: many endpoints never get
        one in each protocol."""
        return self._protocol.unchosen

    def open(self, call: HttpPrediction) -> None:
        """Check the request by its head alone. A refused request is settled before its body arrives."""
        headers = call.headers
        try:
            self.admit(call)
            if TIMEOUT_HEADER in headers:
                _shorten(call)
            call.protocol = self._protocol.choose(headers)
            if b"content-encoding" in headers:
                is_compressed(headers[b"content-encoding"])
            check_body(headers, self.max_body_bytes)
        except RoadworthyError as error:
            call.settle(error)

    def rerun(self, call: HttpPrediction, protocol: BoundProtocol, body: bytes, *, plain: bool) -> None:
        """The same as `open` and `run` for a cached head, by which `protocol` was chosen: only checks that depend on more than
        the head are repeated. `plain`: see `CachedHead`."""
        call.protocol = protocol
        try:
            self.admit(call)
            if plain:
                self.enter(call)
                call.body = body
                call.decoded = decoded = protocol.decode(call.headers, body)
                self.forward(call, decoded.batch)
                return
            if TIMEOUT_HEADER in call.headers:
                _shorten(call)
        except NeedsReader as long:
            self._leave_to_reader(call, long)
        except Exception as error:  # noqa: BLE001 - as in `run`
            call.settle(as_error(self.noted(call, error)))
        else:
            self.run(call, body)

    def run(self, call: HttpPrediction, body: bytes) -> None:
        """Take a place, decode the body, and forward the rows to a version."""
        if call.done:
            return
        try:
            self.enter(call)
            if len(body) > INLINE_BYTES and b"content-encoding" in call.headers:
                work = partial(_read, call, partial(_decode, call, body, self.max_body_bytes))
                self._offload.on_thread(call, len(body), work, partial(self._decoded, call))
            elif len(body) > _OWN_STEP_BYTES:
                self._scheduler.read(partial(self._read_long, call, body), partial(self._decoded, call))
            else:
                call.decoded = decoded = _decode(call, body, self.max_body_bytes)
                self.forward(call, decoded.batch)
        except NeedsReader as long:
            self._leave_to_reader(call, long)
        except Exception as error:  # noqa: BLE001 - the edge of a prediction: any fault ends this request alone
            call.settle(as_error(self.noted(call, error)))

    def _read_long(self, call: HttpPrediction, body: bytes) -> Decoded | None:
        """Read a long body. None if a reader reads it, or the request is already settled."""
        if not call.done:
            try:
                return _decode(call, body, self.max_body_bytes)
            except NeedsReader as long:
                self._leave_to_reader(call, long)
        return None

    def _leave_to_reader(self, call: HttpPrediction, long: NeedsReader) -> None:
        """Have another thread read the body if that releases the interpreter's lock, else a reader process."""
        then = partial(self._decoded, call)
        try:
            if isinstance(long, NeedsThread):
                self._offload.on_thread(call, len(call.body), partial(_read, call, long.read), then)
            else:
                self._offload(call, len(call.body), partial(self._read_in_process, call), then)
        except Exception as error:  # noqa: BLE001 - as in `run`
            call.settle(as_error(self.noted(call, error)))

    def _read_in_process(self, call: HttpPrediction, read: Read) -> Decoded | Exception:
        """Have a reader process read the body; on another thread."""
        return _read(call, lambda: read(self._protocol.spec, call.protocol, call.headers, call.body))

    def _decoded(self, call: HttpPrediction, result: Decoded | Exception | None) -> None:
        """Continue where `run` stopped, unless the request is already settled, or its body is still to be read."""
        if call.done or result is None:
            return
        if isinstance(result, NeedsReader):
            self._leave_to_reader(call, result)
            return
        if isinstance(result, Exception):
            call.settle(as_error(self.noted(call, result)))
            return
        try:
            call.decoded = result
            self.forward(call, result.batch)
        except Exception as error:  # noqa: BLE001 - as in `run`
            call.settle(as_error(self.noted(call, error)))

    def finish(self, call: HttpPrediction, outcome: Outcome) -> None:
        """Encode the answer or the error; count, record and send it. A long answer is written in steps, while others are served.
        Every opened prediction ends here, in `_written`, or in `abandon`."""
        fault: RoadworthyError | None
        if isinstance(outcome, Answer):
            fault = outcome.instead_of
            try:
                decoded, variant = call.decoded, call.variant
                if decoded is None or variant is None:
                    raise ValueError("an answer came for a request that was not submitted")
                if isinstance(outcome.by, Variant):
                    variant = call.by = outcome.by
                if self.in_parts and self._send_parts(call, outcome, variant.metrics.streams):
                    return
                encode = getattr(call.protocol, "encode_in_steps", None) or call.protocol.encode
                encoded: Encoded | Writing = encode(outcome, decoded, variant.number)
                if not isinstance(encoded, Encoded) or len(encoded.body) > STEP_BYTES:
                    call.writing = self._write(call, outcome, encoded)
                    self._scheduler(call.writing, partial(self._written, call, outcome), call.deadline)
                    return
                reply = self._complete(call, outcome, encoded)
                if len(encoded.body) >= LEAST_ANSWER_BYTES:
                    at_once(self._compress(call, reply))
            except Exception as error:  # noqa: BLE001 - as in `run`
                reply = self._refuse(call, as_error(self.noted(call, error)))
        else:
            fault = outcome
            if isinstance(outcome, ModelFault):
                self.noted(call, outcome)
            reply = self._refuse(call, outcome)
        if fault is not None:
            let_go(fault)
        self._end(call, reply)
        call.exchange.answer(call, reply)

    def finish_run(
        self, first: HttpPrediction, members: Sequence[tuple[Batch, PendingRequest]], joined: Batch, bodies: Sequence[bytes]
    ) -> None:
        """Finish the requests of a run, of which `first` is one. Those like it that get one row as JSON are counted and recorded
        together, then answered; `bodies` are those of the rows."""
        variant, protocol, start = first.variant, first.protocol, 0
        ended: list[tuple[HttpPrediction, bytes, bytes]] = []
        for batch, call in members:
            stop = start + batch.rows
            if (
                stop == start + 1
                and isinstance(call, HttpPrediction)
                and call.variant is variant
                and call.protocol is protocol
                and not call.done
                and (decoded := call.decoded) is not None
                and decoded.reply is None
                and not decoded.ignored
            ):
                call.done = True
                ended.append((call, call.body, bodies[start]))
            else:
                call.settle(Answer(joined, start, stop))
            start = stop
        if ended and variant is not None:
            self.close_run(variant, ended, protocol.name)
            for call, _, body in ended:
                call.exchange.answer(call, Reply(200, body, JSON_HEADERS, variant.head))

    def bodies(self, first: HttpPrediction, joined: Batch) -> Sequence[bytes] | None:
        """A short answer in JSON for each row of a run, or None if that is not what `first` and those like it get."""
        protocol = first.protocol
        if self.in_parts or self._log_access is not None or first.variant is None or not isinstance(protocol, Accepting):
            return None
        try:
            bodies = protocol.encode_rows(joined)
        except Exception:  # noqa: BLE001 - each request that it concerns fails alone
            return None
        return None if bodies is None or max(map(len, bodies)) >= LEAST_ANSWER_BYTES else bodies

    def _write(self, call: HttpPrediction, answer: Answer, encoded: Encoded | Writing) -> Generator[None, None, Reply]:
        """The steps that write a long answer, and compress it."""
        if not isinstance(encoded, Encoded):
            encoded = yield from encoded
        reply = self._complete(call, answer, encoded)
        yield from self._compress(call, reply)
        return reply

    def _written(self, call: HttpPrediction, answer: Answer, result: Reply | Exception) -> None:
        """Continue where `finish` stopped, unless the answer is no longer wanted."""
        if call.writing is None:
            return
        call.writing = None
        if isinstance(result, Exception):
            result = self._refuse(call, as_error(self.noted(call, result)))
        let_go(answer.instead_of)
        self._end(call, result)
        call.exchange.answer(call, result)

    def abandon(self, call: HttpPrediction, stream: HttpStream | None = None) -> None:
        """End a prediction whose caller is gone; `stream`: its answer in parts, if that had begun."""
        call.code = "client-gone"
        if stream is None:
            self._end(call, Reply(499, b""))
        else:
            self._end(call, Reply(499, stream.recorded), stream.first_s)

    def _send_parts(self, call: HttpPrediction, answer: Answer, metrics: StreamMetrics) -> bool:
        """Send an answer part by part to a caller that wants it so; collect the parts for others. False: it is whole."""
        form = cast(StreamingProtocol, call.protocol).choose_stream(call.headers) if call.protocol.streams else None
        if form is None and answer.rest is None:
            return False
        own = call.headers.get(TIMEOUT_HEADER)
        deadlines = self.stream_deadlines(call, None if own is None else _own_timeout_s(own))
        if form is None:
            sink = Collected(partial(self._collected, call), self._max_rows)
            call.writing = collecting = StreamedAnswer(answer, sink, deadlines, metrics)
            collecting.begin()
        else:
            call.writing = stream = HttpStream(form, cast(StreamingProtocol, call.protocol).encode_part, HttpSide(self, call))
            stream.run(answer, deadlines, metrics)
        return True

    def _collected(self, call: HttpPrediction, outcome: Outcome) -> None:
        if isinstance(call.writing, StreamedAnswer):
            call.writing.close(FAILED)  # an answer that was too large is not over yet
        call.writing = None
        self.finish(call, outcome)

    def begin_parts(self, call: HttpPrediction, stream: HttpStream, answer: Answer, headers: HeaderList) -> Wire:
        """Begin the reply with an answer in parts."""
        reply = self._complete(call, answer, Encoded(b"", headers))
        let_go(answer.instead_of)
        return call.exchange.begin(call, reply, stream.resume)

    def end_parts(self, call: HttpPrediction, stream: HttpStream, error: RoadworthyError | None) -> None:
        """Count and record an answer in parts that has ended. An error before the first part is answered as any other."""
        call.writing = None
        if error is not None and not stream.sent:
            self.finish(call, error)
            return
        if error is not None:
            call.code = error.code
            if isinstance(error, ModelFault):
                self.noted(call, error)
            let_go(error)
        self._end(call, Reply(200, stream.recorded), stream.first_s)

    def _complete(self, call: HttpPrediction, answer: Answer, encoded: Encoded) -> Reply:
        """The reply with an encoded answer."""
        call.output_json_bytes, call.form = encoded.json_bytes, encoded.form
        call.source = answer.source
        if answer.instead_of is not None:  # hidden from the caller, but not from the log and the version's counts
            call.failed = answer.instead_of.code
            self.noted(call, answer.instead_of)
        variant, decoded = call.by or call.variant, call.decoded
        reply = Reply(200, encoded.body, encoded.headers, b"" if variant is None else variant.head)
        if answer.notes:
            reply.headers = [*reply.headers, *answer.notes]
        if decoded is not None and decoded.ignored:
            reply.headers = [*reply.headers, (b"roadworthy-ignored-columns", b"%d" % decoded.ignored)]
        return reply

    def _compress(self, call: HttpPrediction, reply: Reply) -> Generator[None, None, None]:
        """Compress the body if the caller accepts that; the record has it uncompressed."""
        if LEAST_ANSWER_BYTES <= len(reply.body) <= _MOST_COMPRESSED_BYTES:
            call.outputs = reply.body
            reply.body, more = yield from compress(reply.body, call.headers.get(b"accept-encoding"))
            reply.headers = [*reply.headers, *more]

    def problem(self, call: HttpPrediction, error: RoadworthyError) -> Reply:
        """The reply with an error, as clients of this protocol read it."""
        return problem(error, call.id, self.error_keys)

    def _refuse(self, call: HttpPrediction, error: RoadworthyError) -> Reply:
        call.code = error.code
        reply = self.problem(call, error)
        if call.variant is not None:
            reply.head = call.variant.head
        return reply

    def _end(self, call: HttpPrediction, reply: Reply, first_s: float | None = None) -> None:
        decoded = call.decoded
        rows, json_bytes = (0, -1) if decoded is None else (decoded.batch.rows, decoded.json_bytes)
        answered = reply.body if call.outputs is None else call.outputs
        content = (call.protocol.name, rows, json_bytes, call.output_json_bytes, call.body, answered)
        self.close(call, reply.status, content, first_s)


@dataclass(frozen=True, slots=True)
class HttpSide:
    """A request, as the stream of its answer sees it."""

    predict: Predict
    call: HttpPrediction

    def begin(self, stream: HttpStream, answer: Answer, headers: HeaderList) -> Wire:
        """See `StreamSide`."""
        return self.predict.begin_parts(self.call, stream, answer, headers)

    def end(self, stream: HttpStream, error: RoadworthyError | None) -> None:
        """See `StreamSide`."""
        self.predict.end_parts(self.call, stream, error)

    def problem(self, error: RoadworthyError) -> bytes:
        """See `StreamSide`. The document has the status that the reply can no longer have."""
        reply = self.predict.problem(self.call, error)
        return b'{"status":%d,%b' % (reply.status, reply.body[1:])

    def fault(self, error: Exception) -> RoadworthyError:
        """See `StreamSide`."""
        return as_error(self.predict.noted(self.call, error))


def _decode(call: HttpPrediction, body: bytes, limit: int) -> Decoded:
    encodings = call.headers.get(b"content-encoding")
    if encodings is not None:
        body = decompress(body, encodings, limit)
    call.body = body
    return call.protocol.decode(call.headers, body)


def _read(call: HttpPrediction, decode: Callable[[], Decoded]) -> Decoded | Exception:
    """Read a body on another thread. Skipped when the request is already settled."""
    try:
        if call.done:
            return DeadlineExceeded("the request was settled before its body was read")
        return decode()
    except Exception as error:  # noqa: BLE001 - returned to the event loop, which answers with it
        return error


def _shorten(call: HttpPrediction) -> None:
    """Bring the deadline forward to the caller's own."""
    call.deadline = min(call.deadline, call.started + _own_timeout_s(call.headers[TIMEOUT_HEADER]))


def _own_timeout_s(text: bytes) -> float:
    if not text.isdigit() or len(text) > 9 or int(text) == 0:
        raise InvalidRequest(
            "the Request-Timeout-Ms header must be a whole number of milliseconds, 1 to 999999999",
            code="invalid-timeout",
            hint="send for example Request-Timeout-Ms: 500",
        )
    return int(text) / 1_000


def stopping() -> Unavailable:
    """The error for requests that are still open when a worker must stop."""
    return Unavailable("this gateway is stopping", code="stopping", hint="try again", retry_after_s=1)
