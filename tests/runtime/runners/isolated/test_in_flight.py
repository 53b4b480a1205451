"""What a worker takes of a runner that does not keep to the protocol of streams."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from roadworthy.runtime.runners.isolated.ahead import AHEAD_PARTS, AHEAD_QUICK_PARTS
from roadworthy.runtime.runners.isolated.frames import ANSWERED, Outcomes
from roadworthy.runtime.runners.isolated.in_flight import Sent, Streams
from roadworthy.schema.batch import Batch
from roadworthy.schema.signature import MAX_PART_BYTES
from tests.runtime.runners.isolated.runners import rows

PART = Outcomes((ANSWERED,), (), rows(1), 1, 0.0)


class Caller:
    """Takes no part, until `takes`."""

    def __init__(self) -> None:
        self.done = self.takes = False
        self.parts: Any = None

    def settle(self, answer: Any) -> None:
        self.parts = answer.rest
        self.parts.hold(self)

    def emit(self, parts: Sequence[Batch]) -> bool:
        assert parts
        return self.takes


@pytest.fixture
def caller() -> Caller:
    """Of the one stream."""
    return Caller()


@pytest.fixture
def streams(caller: Caller) -> Streams:
    """Those of a connection with the request of that caller, to be answered by message 1."""
    sent = {1: Sent([(rows(1), caller)])}  # type: ignore[list-item]  # what is used of a request
    ignore = lambda *_: None  # noqa: E731 - several names for nothing
    connection = SimpleNamespace(sent=sent, rows=1, write=ignore, close_when_done=ignore)
    return Streams(connection, SimpleNamespace(learn=ignore, send_waiting=ignore, send_soon=ignore))


def test_a_runner_is_held_to_its_credit(streams: Streams) -> None:
    """The parts that wait for a caller are bounded whatever the runner sends: by number and by bytes."""
    for _ in range(AHEAD_QUICK_PARTS + AHEAD_PARTS):
        streams.part(1, PART, 100)
    with pytest.raises(ValueError, match="credit"):
        streams.part(1, PART, 100)


def test_long_parts_are_held_to_it_sooner(streams: Streams) -> None:
    """A few parts of the greatest length are as many bytes as a runner may be ahead."""
    for _ in range(AHEAD_PARTS + 2):
        streams.part(1, PART, MAX_PART_BYTES)
    with pytest.raises(ValueError, match="credit"):
        streams.part(1, PART, MAX_PART_BYTES)


def test_a_part_has_a_greatest_length(streams: Streams) -> None:
    """The first one too."""
    with pytest.raises(ValueError, match="too large"):
        streams.part(1, PART, MAX_PART_BYTES + 1)


def test_taken_parts_are_credit(streams: Streams, caller: Caller) -> None:
    """A stream may have any number of parts, as long as its caller takes them."""
    caller.takes = True
    for _ in range(10 * AHEAD_QUICK_PARTS):
        streams.part(1, PART, MAX_PART_BYTES)
        caller.parts.resume()
        streams.pass_on()
