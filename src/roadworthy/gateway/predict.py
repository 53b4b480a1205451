"""The walk of a prediction, in order: the only file that knows it. `connection.py` calls `open` with each head and `run` when the
body is there; the layers below settle the call, and it answers through its connection.

There is no task and no await in it: each step calls the next, because at tens of thousands of requests a second the hops through
the event loop would cost more than the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from roadworthy.contract.record import RecordKind
from roadworthy.foundation.errors import (
    DeadlineExceeded,
    InputRefused,
    InvalidRequest,
    ModelFault,
    RoadworthyError,
    Unavailable,
    let_go,
)
from roadworthy.gateway.encodings import INLINE_BYTES, LEAST_ANSWER_BYTES, compress, decompress, is_compressed
from roadworthy.gateway.endpoints import Arm, Endpoint
from roadworthy.gateway.http import Reply, check_body
from roadworthy.gateway.metrics import WorkerMetrics
from roadworthy.gateway.problems import as_error, problem
from roadworthy.gateway.protocols.bounds import ReadApart
from roadworthy.gateway.protocols.protocol import BoundProtocol, Chooser, Decoded
from roadworthy.gateway.readers.pool import Read, Work
from roadworthy.runtime.record import Recorder
from roadworthy.runtime.ticket import Answer, Outcome, Ticket

_MOST_COMPRESSED_BYTES = 4 << 20
"""Compressing takes the event loop's time: about 3 ms a megabyte."""
_MOST_KINDS = 4_096
_MOST_REFUSED_BYTES = 64 << 10
"""A refused body is recorded up to this length: who sends much that nobody reads shall not have it written down as well."""
TIMEOUT_HEADER = b"request-timeout-ms"
"""A caller's own limit, in milliseconds; it may only shorten the endpoint's."""


class Identified(Protocol):
    """What the log names."""

    id: str
    prediction_id: str


LogFault = Callable[[str, Identified, Exception], None]
"""Writes down an exception that is not the caller's doing: endpoint, request, exception."""


Aside = Callable[[Ticket, int, Work, Callable[[Decoded | Exception], None]], None]
"""Has a request's work on a body of so many bytes done where it holds up nobody; its result goes to a function on the loop."""


@dataclass(frozen=True, slots=True)
class Instruments:
    """What every prediction is counted, recorded and logged with.

    Attributes:
        log_access: writes a line for each request, or None.
        refusal: why nobody new can be let in now, whatever the endpoint, or None.
    """

    metrics: WorkerMetrics
    recorder: Recorder
    log_fault: LogFault
    aside: Aside
    log_access: Callable[[str, Call, int, float], None] | None = None
    refusal: Callable[[], RoadworthyError | None] = lambda: None


class Exchange(Protocol):
    """The connection's side of a call."""

    def answer(self, call: Call, reply: Reply) -> None:
        """Send the reply when it is its turn."""
        ...


class Call(Ticket):
    """One request on its way, with what is known of it so far.

    Attributes:
        headers: names in lower case.
        prediction_id: an id of our own. id: the caller's X-Request-Id, or the same.
        started: monotonic clock, seconds.
        arm: the version that was chosen. by: the one that answered in its place, or None.
        admitted: whether the caller may ask this endpoint; who may not leaves no record. entered: whether it holds a place.
        rollout, unit: as in PredictionRecord.
        reply: set once there is one; the connection sends it when it is its turn. last: whether the connection ends with it.
    """

    __slots__ = (
        "admitted",
        "arm",
        "at_us",
        "body",
        "by",
        "code",
        "decoded",
        "entered",
        "exchange",
        "failed",
        "form",
        "headers",
        "id",
        "last",
        "output_json_bytes",
        "outputs",
        "predict",
        "prediction_id",
        "protocol",
        "reply",
        "rollout",
        "source",
        "started",
        "unit",
    )  # fmt: skip

    def __init__(self, predict: Predict, exchange: Exchange, headers: dict[bytes, bytes], ids: tuple[str, str]) -> None:
        self.started = now = time.monotonic()
        self.deadline = now + predict.timeout_s
        self.caller = ""
        self.done = self.running = self.admitted = self.entered = self.last = False
        self.predict = predict
        self.exchange = exchange
        self.headers = headers
        self.prediction_id, self.id = ids
        self.at_us = time.time_ns() // 1_000
        self.body = b""
        self.decoded: Decoded | None = None
        self.arm: Arm | None = None
        self.by: Arm | None = None
        self.code = "ok"
        self.output_json_bytes = -1
        self.form = "json"
        self.outputs: bytes | None = None
        self.protocol: BoundProtocol = predict.unchosen
        self.source = self.rollout = ""
        self.unit = 0
        self.failed = ""
        self.reply: Reply | None = None

    def settled(self, outcome: Outcome) -> None:
        """Answer the request."""
        self.predict.finish(self, outcome)

    def drop(self) -> None:
        """The caller is gone: give back what the request holds, and count it."""
        if not self.done:
            self.done = True
            self.predict.abandon(self)


class Predict:
    """One endpoint in one protocol; `arm` is given where the path names the version.

    Attributes:
        unchosen: stands for the protocol until the head was judged.
        timeout_s, max_body_bytes: of the endpoint's policy.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        protocol: Chooser,
        instruments: Instruments,
        arm: Arm | None = None,
    ) -> None:
        policy = endpoint.entry.policy
        self._endpoint = endpoint
        self._admission = endpoint.admission
        self._protocol = protocol
        self.unchosen = protocol.unchosen
        self._metrics = instruments.metrics
        self._recorder = instruments.recorder if policy.record else None
        self._log_fault = instruments.log_fault
        self._aside = instruments.aside
        self._log_access = instruments.log_access
        self._refusal = instruments.refusal
        self._arm = arm
        # Who names the version is asked by nobody's draw. Bound here, so that requests without a rollout pay nothing for it.
        self._hand_on = self._submit if endpoint.trial is None or arm is not None else self._draw
        self.max_body_bytes = policy.max_body_bytes
        self.timeout_s = policy.timeout_ms / 1_000
        self._kinds: dict[tuple[str, int, str, int, str, str, str, str, str], RecordKind] = {}

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
        headers = call.headers
        call.caller = self._admission.identify(headers)
        call.admitted = True
        refusal = self._refusal()
        if refusal is not None:
            raise refusal
        if TIMEOUT_HEADER in headers:
            call.deadline = min(call.deadline, call.started + _own_timeout_s(headers[TIMEOUT_HEADER]))

    def run(self, call: Call, body: bytes) -> None:
        """Take a place, decode, choose a version, hold it, and hand the rows on."""
        if call.done:
            return
        try:
            self._admission.enter(call)
            call.entered = True
            if len(body) > INLINE_BYTES and b"content-encoding" in call.headers:
                self._aside(call, len(body), partial(self._tried, call, body), partial(self._decoded, call))
                return
            try:
                decoded = _decode(call, body, self.max_body_bytes)
            except ReadApart:
                self._aside(call, len(call.body), partial(self._read_apart, call), partial(self._decoded, call))
            else:
                self._hand_on(call, decoded)
        except Exception as error:  # noqa: BLE001 - the border of a prediction: any fault is this request's and nobody else's
            call.settle(as_error(self._seen(call, error)))

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
            call.settle(as_error(self._seen(call, result)))
            return
        try:
            self._hand_on(call, result)
        except Exception as error:  # noqa: BLE001 - as in `run`
            call.settle(as_error(self._seen(call, error)))

    def _submit(self, call: Call, decoded: Decoded) -> None:
        call.decoded = decoded
        arm = self._arm or self._endpoint.split.choose(call.prediction_id)
        arm.version.leases.take()
        call.arm = arm
        arm.metrics.in_flight.add(1)
        arm.submit(decoded.batch, call)

    def _draw(self, call: Call, decoded: Decoded) -> None:
        """As `_submit`, for an endpoint in a rollout."""
        trial = self._endpoint.trial
        if trial is None:
            raise ValueError("nothing to draw")
        call.decoded = decoded
        arm, drawn = trial.draw(call, call.headers, call.prediction_id, decoded.batch)
        if drawn.eligible:
            call.rollout, call.unit = trial.id, drawn.unit or 0
        arm.version.leases.take()
        call.arm = arm
        arm.metrics.in_flight.add(1)
        arm.submit(decoded.batch, drawn)

    def finish(self, call: Call, outcome: Outcome) -> None:
        """Encode the answer, or the error; count, record and send it. The only way out of a prediction that was opened."""
        if isinstance(outcome, Answer):
            try:
                reply = self._encode(call, outcome)
            except Exception as error:  # noqa: BLE001 - as in `run`
                reply = self._refuse(call, as_error(self._seen(call, error)))
        else:
            if isinstance(outcome, ModelFault):
                self._seen(call, outcome)
            reply = self._refuse(call, outcome)
        let_go(outcome.instead_of if isinstance(outcome, Answer) else outcome)
        self._give_back(call)
        self._note(call, reply)
        call.exchange.answer(call, reply)

    def abandon(self, call: Call) -> None:
        """Nobody is there to be answered."""
        call.code = "client-gone"
        self._give_back(call)
        self._note(call, Reply(499, b""))

    def _encode(self, call: Call, answer: Answer) -> Reply:
        decoded, arm = call.decoded, call.arm
        if decoded is None or arm is None:
            raise ValueError("an answer to a request that nobody asked")
        if isinstance(answer.by, Arm):
            arm = call.by = answer.by
        encoded = call.protocol.encode(answer, decoded, arm.number)
        call.output_json_bytes, call.form = encoded.json_bytes, encoded.form
        call.source = answer.source
        if answer.instead_of is not None:  # hidden from the caller, not from the log and the version's own counts
            call.failed = answer.instead_of.code
            self._seen(call, answer.instead_of)
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

    def _seen(self, call: Call, error: Exception) -> Exception:
        """Write down what is not the caller's doing."""
        if isinstance(error, InputRefused):
            return error
        if isinstance(error, ModelFault) or not isinstance(error, RoadworthyError):
            self._log_fault(self._endpoint.entry.name, call, error)
        return error

    def _give_back(self, call: Call) -> None:
        arm = call.arm
        if arm is not None:
            arm.metrics.in_flight.add(-1)
            arm.version.leases.give_back()
        if call.entered:
            self._admission.leave(call)

    def _note(self, call: Call, reply: Reply) -> None:
        """Count the request and hand its record on."""
        latency_s = time.monotonic() - call.started
        arm, decoded, entry = call.arm, call.decoded, self._endpoint.entry
        rows = 0 if decoded is None else decoded.batch.rows
        if arm is not None:
            arm.metrics.observe(call.failed or call.code, latency_s, rows)
        else:
            self._metrics.refused(entry.name, call.code)
        if self._log_access is not None:
            self._log_access(entry.name, call, reply.status, latency_s)
        if self._recorder is None or not call.admitted:
            return
        body = b"" if arm is None and len(call.body) > _MOST_REFUSED_BYTES else call.body
        self._recorder.append(
            self._kind(call, reply.status),
            (
                call.prediction_id,
                call.at_us,
                call.id,
                int(latency_s * 1e6),
                rows,
                -1 if decoded is None else decoded.json_bytes,
                call.output_json_bytes,
                body,
                reply.body if call.outputs is None else call.outputs,
                call.unit,
            ),
        )

    def _kind(self, call: Call, status: int) -> RecordKind:
        """What the record has in common with others; one object for all of them, as far as that goes."""
        arm = call.by or call.arm
        model, number = ("", 0) if arm is None else (arm.model, arm.number)
        key = (model, number, call.caller, status, call.code, call.protocol.name, call.form, call.source, call.rollout)
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= _MOST_KINDS:
                self._kinds.clear()
            entry = self._endpoint.entry
            digest, runtime = ("", "") if arm is None else (arm.version.digest, arm.version.runtime)
            which = (entry.name, entry.generation, model, number, digest, runtime)
            how = (call.code, call.protocol.name, call.form, call.source, call.rollout)
            kind = self._kinds[key] = RecordKind(*which, call.caller, status, *how)
        return kind


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
