"""Pending requests, which travel with a batch through the layers that answer it, and the interface of those layers.

The pipeline makes a `PendingRequest` for each request; cache, fallback, breaker and batcher each are a `Submitter` around the
next one. There are no futures: an outcome is passed on by a plain call, because at tens of thousands of requests a second each
hop through the event loop costs as much as the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from roadworthy.foundation.errors import RoadworthyError
from roadworthy.runtime.parts import Parts
from roadworthy.schema.batch import Batch

Notes = tuple[tuple[bytes, bytes], ...]
"""Headers that a layer adds to the reply."""


class Answer(msgspec.Struct, eq=False):
    """The answer to one request: rows `start` to `stop` (exclusive) of a run that it may share with other requests.

    Codecs that encode row by row may encode `joined` once and cut; the others use `batch()`.

    Attributes:
        source: what answered: "" the chosen version; "cache"; or a fallback: "version", "rule", "cached", "static".
        notes: headers that layers add to the reply.
        by: the variant that answered instead of the chosen one; else None.
        instead_of: the error of the chosen version when a fallback answered; else None. No caller sees it, but it is logged and
            counts against that version.
        rest: the parts that follow this one, in an answer that comes in parts; else None.
    """

    joined: Batch
    start: int
    stop: int
    source: str = ""
    notes: Notes = ()
    by: object = None
    instead_of: RoadworthyError | None = None
    rest: Parts | None = None

    def batch(self) -> Batch:
        """The rows of this request alone, as views."""
        if self.stop - self.start == self.joined.rows:
            return self.joined
        return self.joined.slice(self.start, self.stop)

    def noted(
        self,
        notes: Notes,
        *,
        source: str | None = None,
        by: object = None,
        instead_of: RoadworthyError | None = None,
    ) -> Answer:
        """The same answer with additional notes, and with the source and facts that are given."""
        return Answer(
            self.joined,
            self.start,
            self.stop,
            self.source if source is None else source,
            (*self.notes, *notes),
            self.by if by is None else by,
            instead_of,
            self.rest,
        )


Outcome = Answer | RoadworthyError
"""An error is a ModelFault (the version's fault), DeadlineExceeded, Unavailable, or another error that the caller may see."""


class PendingRequest:
    """One waiting request. Event loop only.

    Attributes:
        deadline: seconds on the monotonic clock; after it the caller no longer waits for the answer.
        caller: id of the caller's key, or "".
        done: settled, or dropped because the caller is gone: it must not run any longer, and settling it does nothing.
        running: whether the model has begun with it.
    """

    __slots__ = ("caller", "deadline", "done", "running")

    def __init__(self, deadline: float, caller: str = "") -> None:
        self.deadline = deadline
        self.caller = caller
        self.done = False
        self.running = False

    def settle(self, outcome: Outcome) -> None:
        """Take the outcome, unless `done`. Only the first call counts."""
        if not self.done:
            self.done = True
            self.settled(outcome)

    def settled(self, outcome: Outcome) -> None:
        """Handle the outcome; called at most once. Must not raise."""
        raise NotImplementedError

    def settle_run(self, members: Sequence[tuple[Batch, PendingRequest]], joined: Batch) -> None:
        """Answer all requests of a run, of which this is the first, each with its rows of `joined`. An edge can do once for the
        run what it would otherwise do for each request."""
        start = 0
        for batch, request in members:
            stop = start + batch.rows
            request.settle(Answer(joined, start, stop))
            start = stop

    def drop(self) -> None:
        """Give the request up: the caller no longer waits, so what has not begun does not begin."""
        self.done = True


class ForwardedRequest(PendingRequest):
    """The request that a layer passes down instead of the one that it got, its `outer` request.

    It is done when the outer request is: a request whose caller is gone does not run. Its `running` sets that of the outer one.
    """

    __slots__ = ("_settled", "outer")

    def __init__(self, outer: PendingRequest) -> None:
        self.outer = outer
        self.caller = outer.caller
        self._settled = False

    @property
    def deadline(self) -> float:
        """As in PendingRequest; it may move while more callers wait for the same answer."""
        return self.outer.deadline

    @deadline.setter
    def deadline(self, value: float) -> None:
        self.outer.deadline = value

    @property
    def done(self) -> bool:
        """As in PendingRequest."""
        return self._settled or self.outer.done

    @done.setter
    def done(self, value: bool) -> None:
        self._settled = value

    @property
    def running(self) -> bool:
        """As in PendingRequest."""
        return self.outer.running

    @running.setter
    def running(self, value: bool) -> None:
        self.outer.running = value


class AlwaysSettled(ForwardedRequest):
    """A ForwardedRequest that is settled in any case, even when its caller is gone, for layers that hold something meanwhile."""

    __slots__ = ()

    @property
    def done(self) -> bool:
        """Whether it is settled."""
        return self._settled

    @done.setter
    def done(self, value: bool) -> None:
        self._settled = value


class Submitter(Protocol):
    """A layer: answers batches itself or through the layer below."""

    def submit(self, batch: Batch, request: PendingRequest) -> None:
        """Settle `request` exactly once, now or later; at the latest at its deadline, with DeadlineExceeded."""
        ...
