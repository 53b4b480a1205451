"""The parts of an answer on their way: in order, no more than are wanted, and one end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from roadworthy.foundation.errors import ModelFault, RoadworthyError
from roadworthy.runtime.collected import Collected
from roadworthy.runtime.parts import GRANT_BYTES, GRANT_PARTS, TOGETHER_BYTES, Parts
from roadworthy.runtime.pending import Answer, Outcome
from roadworthy.schema.batch import Batch, Block, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import MAX_ANSWER_BYTES, Field

LAYOUT = Layout((Field("y", DType.FLOAT64),))
FAULT = ModelFault("it failed", code="model-failed")


def batch(*values: float) -> Batch:
    """One part with these rows."""
    return Batch(LAYOUT, len(values), (Block(np.array(values).reshape(-1, 1), None),))


@dataclass
class Source:
    """What gives the parts."""

    granted: list[int] = field(default_factory=list)
    cancelled: int = 0

    def grant(self, parts: int) -> None:
        """See `PartSource`."""
        self.granted.append(parts)

    def cancel(self) -> None:
        """See `PartSource`."""
        self.cancelled += 1


@dataclass
class Sink:
    """Takes `room` parts, then no more until the test says so."""

    room: int = 1_000
    taken: list[float] = field(default_factory=list)
    ends: list[RoadworthyError | None] = field(default_factory=list)

    def emit(self, parts: Sequence[Batch]) -> bool:
        """See `PartSink`."""
        self.taken += [float(part.blocks[0].values[0, 0]) for part in parts]
        self.room -= len(parts)
        return self.room > 0

    def finish(self) -> None:
        """See `PartSink`."""
        self.ends.append(None)

    def fail(self, error: RoadworthyError) -> None:
        """See `PartSink`."""
        self.ends.append(error)


def test_parts_wait_until_they_are_wanted_and_the_end_comes_last() -> None:
    """Those that were pushed before a sink was there, too; the version's end is known before the sink has all."""
    source, sink, ends = Source(), Sink(room=1), list[RoadworthyError | None]()
    parts = Parts(source)
    parts.watch(ends.append)
    parts.push([(batch(1), 10)])
    assert not parts.taken
    parts.flow(sink)
    parts.push([(batch(2), 10)])
    parts.end(FAULT)
    assert (sink.taken, sink.ends, ends) == ([1.0], [], [FAULT])
    sink.room = 5
    parts.resume()
    assert (sink.taken, sink.ends) == ([1.0, 2.0], [FAULT])
    parts.push([(batch(3), 10)])
    parts.end()
    parts.stop()
    assert (sink.taken, sink.ends, ends) == ([1.0, 2.0], [FAULT], [FAULT])
    assert (source.cancelled, parts.given_up) == (0, False)


def test_taken_parts_are_granted_again() -> None:
    """By number or by bytes, so that a version with long parts is not held back."""
    source, sink = Source(), Sink()
    parts = Parts(source)
    parts.flow(sink)
    for _ in range(GRANT_PARTS):
        parts.push([(batch(1), 10)])
    assert source.granted == [GRANT_PARTS]
    parts.push([(batch(1), GRANT_BYTES)])
    assert source.granted == [GRANT_PARTS, 1]


def test_it_waits_for_the_version_only_while_a_part_is_wanted() -> None:
    """Not while the sink is full, and not after the end."""
    parts, sink = Parts(Source()), Sink(room=1)
    parts.flow(sink)
    assert parts.waits_for_version
    parts.push([(batch(1), 1)])
    assert not parts.waits_for_version
    sink.room = 9
    parts.resume()
    assert parts.waits_for_version
    parts.end()
    assert not parts.waits_for_version


@pytest.mark.parametrize("error", [None, FAULT])
def test_a_stopped_stream_ends_once(error: RoadworthyError | None) -> None:
    """The source is cancelled, those who watch learn why, and the sink hears nothing further."""
    source, sink, ends = Source(), Sink(room=1), list[RoadworthyError | None]()
    parts = Parts(source)
    parts.watch(ends.append)
    parts.flow(sink)
    parts.push([(batch(1), 1)])
    parts.push([(batch(2), 1)])
    parts.stop(error)
    parts.stop()
    parts.push([(batch(3), 1)])
    parts.end(FAULT)
    parts.resume()
    assert (sink.taken, sink.ends, ends, source.cancelled) == ([1.0], [], [error], 1)
    assert parts.given_up == (error is None)


def test_a_sink_may_stop_the_stream_that_it_takes_a_part_of() -> None:
    """As one does that cannot write the part."""
    source = Source()
    rest = Parts(source)

    class Stopping(Sink):
        def emit(self, parts: Sequence[Batch]) -> bool:
            super().emit(parts)
            rest.stop(FAULT)
            return False

    sink = Stopping()
    rest.push([(batch(1), 1), (batch(2), 1)])
    rest.push([(batch(3), TOGETHER_BYTES)])
    rest.flow(sink)
    assert (sink.taken, sink.ends, source.cancelled) == ([1.0, 2.0], [], 1)


def collected(most_rows: int) -> tuple[Parts, Source, list[Outcome]]:
    """An answer that is collected, with its first part."""
    source, outcomes = Source(), list[Outcome]()
    parts = Parts(source)
    sink = Collected(outcomes.append, most_rows)
    first = Answer(batch(1, 2), 0, 2, "version", ((b"a", b"b"),), rest=parts)
    sink.start(first)
    sink.emit([first.batch()])
    parts.flow(sink)
    return parts, source, outcomes


def test_collected_parts_are_one_answer() -> None:
    """One below the other, with what layers said of the first."""
    parts, _, outcomes = collected(10)
    parts.push([(batch(3, 4), 1)])
    assert outcomes == []
    parts.end()
    (answer,) = outcomes
    assert isinstance(answer, Answer)
    assert answer.batch().blocks[0].values[:, 0].tolist() == [1, 2, 3, 4]
    assert (answer.source, answer.notes, answer.rest) == ("version", ((b"a", b"b"),), None)


@pytest.mark.parametrize("values", [[3.0, 4.0], [0.0] * (MAX_ANSWER_BYTES // 8)], ids=["rows", "bytes"])
def test_collecting_is_bounded(values: list[float]) -> None:
    """Beyond the bound the stream is stopped, with one error."""
    parts, source, outcomes = collected(3 if len(values) == 2 else 10**9)
    parts.push([(batch(*values), 1)])
    parts.end()
    (error,) = outcomes
    assert isinstance(error, ModelFault)
    assert (error.code, source.cancelled) == ("answer-too-large", 1)
