"""Deadlines of an answer in parts, and when their passing counts against the version."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np
import pytest

from roadworthy.contract.policy import BreakerPolicy
from roadworthy.foundation.errors import ModelFault, RoadworthyError
from roadworthy.runtime.layers.breaker import Breaker, OwnCells
from roadworthy.runtime.parts import Parts
from roadworthy.runtime.pending import Answer, Outcome, PendingRequest
from roadworthy.schema.batch import Batch, Block, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field
from roadworthy.serving.stream_metrics import StreamMetrics
from roadworthy.serving.streaming import StreamDeadlines, StreamedAnswer
from tests.runtime.test_parts import Sink as PlainSink
from tests.runtime.test_parts import Source
from tests.waiting import HandClock, soon

LAYOUT = Layout((Field("y", DType.FLOAT64),))
PART = Batch(LAYOUT, 1, (Block(np.ones((1, 1)), None),))
FAULT = ModelFault("it failed", code="model-failed")
LONG_S = 10_000.0


class Sink(PlainSink):
    """A sink of an edge."""

    def start(self, answer: Answer) -> None:
        """See `Sink`."""


class Counts(StreamMetrics):
    """What was counted of streams."""

    def __init__(self) -> None:
        self.open = self.parts = 0
        self.ends: list[str] = []

    def begun(self, seconds: float) -> None:
        """See `StreamMetrics`."""
        assert seconds >= 0
        self.open += 1
        self.parts += 1

    def more(self, parts: int, seconds: float) -> None:
        """See `StreamMetrics`."""
        assert seconds >= 0
        self.parts += parts

    def ended(self, reason: str) -> None:
        """See `StreamMetrics`."""
        self.open -= 1
        self.ends.append(reason)


class Case:
    """One answer on its way, with what those who watch it learned."""

    def __init__(self, *, room: int = 1_000, whole_s: float = LONG_S, own: bool = False, between_s: float = LONG_S) -> None:
        now = time.monotonic()
        self.source, self.sink = Source(), Sink(room=room)
        self.blamed: list[RoadworthyError | None] = []
        self.rest = Parts(self.source)
        self.rest.watch(self.blamed.append)
        deadlines = StreamDeadlines(now, now + whole_s, own, between_s)
        self.counts = Counts()
        self.stream = StreamedAnswer(Answer(PART, 0, 1, rest=self.rest), self.sink, deadlines, self.counts)
        self.stream.begin()

    async def ended(self) -> str:
        """The code of the error that ended it."""
        await soon(lambda: self.sink.ends, "its end")
        (error,) = self.sink.ends
        assert isinstance(error, RoadworthyError)
        assert self.source.cancelled == 1
        return error.code


def run(case: Callable[[], object]) -> None:
    """Run a test on an event loop."""

    async def main() -> None:
        result = case()
        if asyncio.iscoroutine(result):
            await result

    asyncio.run(main())


@pytest.mark.parametrize(
    ("room", "own", "blamed"), [(1_000, False, True), (1_000, True, False), (1, False, False)], ids=["version", "caller", "slow"]
)
def test_the_whole_deadline_is_the_fault_of_who_was_waited_for(
    monkeypatch: pytest.MonkeyPatch, room: int, own: bool, blamed: bool
) -> None:
    """The version's, unless the caller chose the deadline or did not read."""

    async def case() -> None:
        one = Case(room=room, whole_s=500.0, own=own)
        clock = HandClock()
        monkeypatch.setattr("roadworthy.serving.streaming.time", clock)
        clock.step(1_000.0)
        one.stream._look()
        assert await one.ended() == "deadline-exceeded"
        assert [error is not None for error in one.blamed] == [blamed]

    run(case)


def test_time_between_parts_counts_while_a_part_is_wanted() -> None:
    """A caller that does not read stops that clock; it runs again when the caller reads on."""

    async def case() -> None:
        one = Case(room=1, between_s=0.0)
        one.stream._look()
        assert one.sink.ends == []
        one.sink.room = 1_000
        one.stream.resume()
        assert await one.ended() == "part-too-late"
        assert one.counts.ends == ["deadline"]
        assert [error is not None for error in one.blamed] == [True]

    run(case)


def test_parts_in_time_end_well() -> None:
    """Each part begins the time anew, and no alarm is left."""

    async def case() -> None:
        one = Case(between_s=LONG_S)
        one.rest.push([(PART, 1)])
        one.rest.push([(PART, 1)])
        one.rest.end()
        assert (one.sink.taken, one.sink.ends, one.blamed) == ([1.0] * 3, [None], [None])
        assert one.stream._alarm is None
        assert (one.counts.open, one.counts.parts, one.counts.ends) == (0, 3, ["finished"])
        failed = Case()
        failed.rest.end(FAULT)
        assert failed.counts.ends == ["failed"]

    run(case)


def test_a_caller_that_leaves_blames_no_one() -> None:
    """The source is cancelled, and the sink hears nothing."""

    async def case() -> None:
        one = Case()
        one.stream.close()
        one.stream.close()
        assert (one.counts.open, one.counts.parts, one.counts.ends) == (0, 1, ["caller-gone"])
        assert (one.sink.ends, one.blamed, one.source.cancelled) == ([], [None], 1)

    run(case)


def test_an_answer_without_further_parts_is_one_part() -> None:
    """As that of a fallback."""

    async def case() -> None:
        sink = Sink()
        counts = Counts()
        StreamedAnswer(Answer(PART, 0, 1), sink, StreamDeadlines(0.0, LONG_S), counts).begin()
        assert (sink.taken, sink.ends) == ([1.0], [None])
        assert (counts.open, counts.parts, counts.ends) == (0, 1, ["finished"])

    run(case)


class Below:
    """A version whose every answer has a rest."""

    def __init__(self) -> None:
        self.rests: list[Parts] = []

    def submit(self, _batch: Batch, request: PendingRequest) -> None:
        """See `Submitter`."""
        rest = Parts(Source())
        rest.flow(Sink())
        self.rests.append(rest)
        request.settle(Answer(PART, 0, 1, rest=rest))


class Settled(PendingRequest):
    """A request whose outcome does not matter."""

    __slots__ = ()

    def settled(self, outcome: Outcome) -> None:
        """See `PendingRequest`."""


@pytest.mark.parametrize("error", [FAULT, None])
def test_the_breaker_counts_the_end(error: RoadworthyError | None) -> None:
    """Answers that break off open it; those that end well, or whose callers leave, do not."""
    below = Below()
    breaker = Breaker(below, BreakerPolicy(min_requests=5, failure_rate=1.0), OwnCells())
    for _ in range(5):
        breaker.submit(PART, Settled(time.monotonic() + LONG_S))
    for rest in below.rests:
        if error is None:
            rest.stop()
        else:
            rest.end(error)
    breaker._circuit._look_at = 0
    breaker.submit(PART, Settled(time.monotonic() + LONG_S))
    assert ("open" in repr(breaker)) == (error is not None)
