"""The embedded edge: hands an application's rows to the core, and takes the outcome in a sink. On the core's loop only."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from roadworthy.codecs.codec import too_many_rows
from roadworthy.foundation.errors import ModelFault, RoadworthyError, Unavailable, let_go
from roadworthy.gateway.http.problems import as_error, status_of
from roadworthy.runtime.collected import Collected
from roadworthy.runtime.pending import Answer, Outcome
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.rows import encode_rows
from roadworthy.schema.tables import to_batch
from roadworthy.serving.endpoint import Endpoint
from roadworthy.serving.pipeline import Instruments, Pipeline, Request
from roadworthy.serving.streaming import Sink, StreamedAnswer
from roadworthy.serving.variant import Variant

MOST_AHEAD = 8
"""So many parts of an answer may wait for the application."""
_FORM = "json"
_MOST_CELLS = 100_000
"""A record has the rows of a call, or of its answer, up to so many values: writing more would hold up the other calls."""
_MOST_PARTS = 1_000
_encode = msgspec.json.Encoder().encode


class OpenCall(Protocol):
    """A call in progress, of whatever kind."""

    def give_up(self, error: RoadworthyError) -> None:
        """End it with an error."""
        ...


class EmbeddedEdge(Pipeline):
    """One endpoint.

    Args:
        calls: the endpoint's calls in progress, which outlive a rebinding.
        next_id: makes prediction ids; from any thread.

    Attributes:
        pid: of its process. endpoint: the bound endpoint. layout: of the rows that it takes. most_rows: how many it takes.
        records: whether its calls are recorded.
    """

    def __init__(self, endpoint: Endpoint, instruments: Instruments, calls: set[OpenCall], next_id: Callable[[], str]) -> None:
        super().__init__(endpoint, instruments)
        self.next_id = next_id
        policy = endpoint.entry.policy
        self.pid = os.getpid()
        self.endpoint = endpoint
        self.layout = Layout(endpoint.signature.inputs, policy.timestamps.integers)
        self.most_rows = policy.max_rows
        self.records = self._recorder is not None
        self._calls = calls

    def read(self, data: Any) -> Batch:
        """The caller's rows in this edge's layout; from any thread.

        Raises:
            InvalidInput: they do not fit the signature.
        """
        return to_batch(self.layout, [data] if isinstance(data, Mapping) else data)

    def ask(self, call: EmbeddedRequest, batch: Batch, data: Any) -> None:
        """Take the call through the core, which settles it now or later. `data` is read again if the endpoint got another layout
        since the batch was made."""
        call.edge, call.rows = self, batch.rows
        self._calls.add(call)
        try:
            if batch.layout != self.layout:
                batch = self.read(data)
                call.rows = batch.rows
            if self.records:
                call.asked.append(batch)
            if batch.rows > self.most_rows:
                raise too_many_rows(self.most_rows)
            self.admit(call)
            self.enter(call)
            self.forward(call, batch)
        except Exception as error:  # noqa: BLE001 - the edge of a prediction: any fault ends this call alone
            call.settle(as_error(self.noted(call, error)))

    def answer(self, call: EmbeddedRequest, answer: Answer) -> None:
        """Pass the answer on, part by part."""
        call.source = answer.source
        if isinstance(answer.by, Variant):
            call.by = answer.by
        if answer.instead_of is not None:  # hidden from the caller, but not from the log and the version's counts
            call.failed = answer.instead_of.code
            self.noted(call, answer.instead_of)
            let_go(answer.instead_of)
        if answer.rest is None:
            call.start(answer)
            call.emit([answer.batch()])
            call.finish()
            return
        variant = call.by or call.variant
        if variant is None:
            raise ValueError("an answer came for a request that was not submitted")
        call.stream = StreamedAnswer(answer, call, self.stream_deadlines(call, call.own_s), variant.metrics.streams)
        call.stream.begin()

    def end(self, call: EmbeddedRequest, error: RoadworthyError | None) -> None:
        """Count a call that has ended, and free what it holds."""
        self._calls.discard(call)
        if error is not None:
            call.code = error.code
            if isinstance(error, ModelFault):
                self.noted(call, error)
        sent, answered = _body("instances", call.asked), _body("predictions", call.answered)
        content = (_FORM, call.rows, -1, -1, sent, answered)
        self.close(call, 200 if error is None else status_of(error), content, call.first_s)


class EmbeddedRequest(Request):
    """A prediction that the application asked for.

    Args:
        edge: that takes it.
        own_s: the caller's own timeout, in seconds, which can only shorten the endpoint's.

    Attributes:
        sink: takes the answer; a call without one is not asked.
        over: whether it has ended.
        asked, answered: the rows and the parts of the answer, for the record.
        first_s: when the first part came, monotonic clock, seconds.
    """

    __slots__ = ("answered", "asked", "edge", "first_s", "over", "own_s", "rows", "sink", "stream")

    def __init__(self, edge: EmbeddedEdge, own_s: float | None) -> None:
        own = edge.next_id()
        super().__init__({}, (own, own), edge.timeout_s if own_s is None else min(own_s, edge.timeout_s))
        self.own_s = own_s
        self.edge = edge
        self.sink: Sink
        self.stream: StreamedAnswer | None = None
        self.first_s: float | None = None
        self.rows = 0
        self.over = False
        self.asked: list[Batch] = []
        self.answered: list[Batch] = []

    # As the pending request of the core.

    def settled(self, outcome: Outcome) -> None:
        """See `PendingRequest`."""
        if isinstance(outcome, Answer):
            self.edge.answer(self, outcome)
        else:
            self.fail(outcome)

    # As the core's sink.

    def start(self, answer: Answer) -> None:
        """See `Sink`."""
        self.sink.start(answer)

    def emit(self, parts: Sequence[Batch]) -> bool:
        """See `PartSink`."""
        if self.first_s is None:
            self.first_s = time.monotonic()
        if self.edge.records and len(self.answered) < _MOST_PARTS:
            self.answered += parts
        return self.sink.emit(parts)

    def finish(self) -> None:
        """See `PartSink`."""
        self._end(None)
        self.sink.finish()

    def fail(self, error: RoadworthyError) -> None:
        """See `PartSink`."""
        let_go(error)  # before another thread raises it
        self._end(error)
        self.sink.fail(error)

    # As the application's.

    def drop(self) -> None:
        """The caller no longer waits."""
        self.code = "client-gone"
        self.stop(None)

    def give_up(self, error: RoadworthyError) -> None:
        """End with this error."""
        if self.stream is not None:
            self.stream.give_up(error)
        else:
            self.settle(error)

    def stop(self, error: RoadworthyError | None) -> None:
        """End without a word to the sink."""
        self.done = True
        if not self.over:
            if self.stream is not None:
                self.stream.close()
            self._end(error)

    def _end(self, error: RoadworthyError | None) -> None:
        if not self.over:
            self.over = True
            self.edge.end(self, error)


class WholeAnswer:
    """A sink that collects the answer. `then` gets it, or the error; nothing more is called after it."""

    def __init__(self, call: EmbeddedRequest, then: Callable[[Outcome], None], most_rows: int) -> None:
        self._call = call
        self._then = then
        self._collected = Collected(self._done, most_rows)
        self.start, self.emit, self.finish = self._collected.start, self._collected.emit, self._collected.finish

    def fail(self, error: RoadworthyError) -> None:
        """See `PartSink`."""
        self._then(error)

    def _done(self, outcome: Outcome) -> None:
        if isinstance(outcome, RoadworthyError):  # an answer that was too large is not over yet
            self._call.stop(outcome)
        self._then(outcome)


class PartQueue:
    """A sink whose parts another thread takes. It wants no more while MOST_AHEAD parts wait.

    Args:
        put: passes on a part, an error, or None at the end; any thread may take it. Raises RuntimeError when no one can any more.
    """

    def __init__(self, call: EmbeddedRequest, put: Callable[[Batch | RoadworthyError | None], object]) -> None:
        self._call = call
        self._put = put
        self._ahead = 0

    def start(self, answer: Answer) -> None:
        """See `Sink`. What layers say of the answer has no place between its parts."""

    def emit(self, parts: Sequence[Batch]) -> bool:
        """See `PartSink`."""
        self._ahead += len(parts)
        try:
            for part in parts:
                self._put(part)
        except RuntimeError:  # the event loop that waits for parts is closed
            self._call.drop()
            return False
        return self._ahead < MOST_AHEAD

    def taken(self) -> None:
        """The application has taken a part."""
        self._ahead -= 1
        if self._ahead < MOST_AHEAD and self._call.stream is not None and not self._call.over:
            self._call.stream.resume()

    def finish(self) -> None:
        """See `PartSink`."""
        self._last(None)

    def fail(self, error: RoadworthyError) -> None:
        """See `PartSink`."""
        self._last(error)

    def _last(self, item: RoadworthyError | None) -> None:
        try:
            self._put(item)
        except RuntimeError:  # as in `emit`; the call has ended
            return


def _body(name: str, parts: Sequence[Batch]) -> bytes:
    """Rows as a body of `:predict` has them; empty without rows, or where they are too many."""
    if not 0 < sum(block.values.size for part in parts for block in part.blocks) <= _MOST_CELLS:
        return b""
    try:
        return _encode({name: [row for part in parts for row in encode_rows(part)]})
    except ValueError:  # text without UTF-8
        return b""


def endpoint_closed(name: str) -> Unavailable:
    """The error for a call of an endpoint that was closed."""
    return Unavailable(
        f"the endpoint {name} was closed in this process",
        code="endpoint-closed",
        hint="open it again with serve_in_process, or close it after its last call",
    )
