"""What travels with a batch through the layers that answer it, and the interface of those layers.

`gateway/predict.py` makes a ticket for each request; cache, fallback, breaker and batcher each are a `Submitter` around the next
one. No futures: an outcome is handed on by a plain call, because at tens of thousands of requests a second each hop through the
event loop costs as much as the model.
"""

from __future__ import annotations

from typing import Protocol

from roadworthy.foundation.errors import RoadworthyError
from roadworthy.schema.batch import Batch


class Answer:
    """The answer to one request: rows `start` to `stop` (exclusive) of a run that it shared with others.

    Protocols that encode row by row may encode `joined` once and cut; the others take `batch()`.

    Attributes:
        source: what gave it: "" the version that was chosen; "cache"; or a fallback: "version", "rule", "cached", "static".
    """

    __slots__ = ("joined", "source", "start", "stop")

    def __init__(self, joined: Batch, start: int, stop: int, source: str = "") -> None:
        self.joined = joined
        self.start = start
        self.stop = stop
        self.source = source

    def batch(self) -> Batch:
        """The rows of this request alone, as views."""
        if self.stop - self.start == self.joined.rows:
            return self.joined
        return self.joined.slice(self.start, self.stop)


Outcome = Answer | RoadworthyError
"""An error is a ModelFault (the version's doing), DeadlineExceeded, Unavailable, or another the caller may see."""


class Ticket:
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


class Submitter(Protocol):
    """A layer: answers batches, by itself or through the layer below."""

    @property
    def waiting(self) -> int:
        """Requests that have not begun to run."""
        ...

    def submit(self, batch: Batch, ticket: Ticket) -> None:
        """Have `ticket` settled, now or later, exactly once; at its deadline with DeadlineExceeded at the latest."""
        ...
