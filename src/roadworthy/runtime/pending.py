"""What travels with a batch through the layers that answer it, and the interface of those layers.

`predict.py` makes a ticket for each request; cache, fallback, breaker and batcher each are a `Submitter` around the next
one. No futures: an outcome is handed on by a plain call, because at tens of thousands of requests a second each hop through the
event loop costs as much as the model.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from roadworthy.foundation.errors import RoadworthyError
from roadworthy.schema.batch import Batch

Notes = tuple[tuple[bytes, bytes], ...]
"""Headers that a layer wants the reply to have."""


class Answer(msgspec.Struct, eq=False):
    """The answer to one request: rows `start` to `stop` (exclusive) of a run that it shared with others.

    Protocols that encode row by row may encode `joined` once and cut; the others take `batch()`.

    Attributes:
        source: what gave it: "" the version that was chosen; "cache"; or a fallback: "version", "rule", "cached", "static".
        notes: headers that layers want the reply to have.
        by: what stands for the version that answered in the place of the chosen one, as the gateway bound it; else None.
        instead_of: the error of the chosen version that a fallback answered for, else None: it is no caller's to see, but still
            to be logged and counted against that version.
    """

    joined: Batch
    start: int
    stop: int
    source: str = ""
    notes: Notes = ()
    by: object = None
    instead_of: RoadworthyError | None = None

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
        """The same with what a layer has to tell of it."""
        return Answer(
            self.joined,
            self.start,
            self.stop,
            self.source if source is None else source,
            (*self.notes, *notes),
            self.by if by is None else by,
            instead_of,
        )


Outcome = Answer | RoadworthyError
"""An error is a ModelFault (the version's doing), DeadlineExceeded, Unavailable, or another the caller may see."""


class PendingRequest:
    """One waiting request. Event loop only.

    Attributes:
        deadline: on the monotonic clock, seconds; after it nobody waits for the answer any more.
        caller: id of the caller's key, or "".
        done: settled, or dropped because the caller is gone: it must not be run any more, and settling it does nothing.
        running: the model has begun with it.
    """

    __slots__ = ("caller", "deadline", "done", "running")

    def __init__(self, deadline: float, caller: str = "") -> None:
        self.deadline = deadline
        self.caller = caller
        self.done = False
        self.running = False

    def settle(self, outcome: Outcome) -> None:
        """Take the outcome, unless `done`; called by the event loop's thread. The first call counts."""
        if not self.done:
            self.done = True
            self.settled(outcome)

    def settled(self, outcome: Outcome) -> None:
        """What to do with the outcome; called once at most. Must not raise."""
        raise NotImplementedError

    def drop(self) -> None:
        """Nobody waits any more: whatever has not begun is not begun."""
        self.done = True


class ForwardedRequest(PendingRequest):
    """The ticket that a layer hands down in the place of the one that it was given.

    It is done when that one is: who is gone at the top is not run at the bottom. That it runs is told upwards.
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
    """As ForwardedRequest, but settled in any case, even when its caller is gone: for layers that hold something until then."""

    __slots__ = ()

    @property
    def done(self) -> bool:
        """Settled."""
        return self._settled

    @done.setter
    def done(self, value: bool) -> None:
        self._settled = value


class Submitter(Protocol):
    """A layer: answers batches, by itself or through the layer below."""

    def submit(self, batch: Batch, ticket: PendingRequest) -> None:
        """Have `ticket` settled, now or later, exactly once; at its deadline with DeadlineExceeded at the latest."""
        ...
