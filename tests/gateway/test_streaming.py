"""What an answer in parts writes over HTTP, without processes: comments, the bound of records, a part that cannot be written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from roadworthy.codecs.codec import HeaderList
from roadworthy.codecs.mlflow import PROTOCOL
from roadworthy.codecs.streams import EVENTS, STREAM_FORMS
from roadworthy.foundation.errors import ModelFault, RoadworthyError
from roadworthy.gateway.http import streaming
from roadworthy.gateway.http.predict import HttpSide
from roadworthy.gateway.http.streaming import HttpStream, Wire
from roadworthy.runtime.parts import Parts
from roadworthy.runtime.pending import Answer
from roadworthy.schema.batch import Batch, Block, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field
from roadworthy.serving.streaming import StreamDeadlines
from tests.runtime.test_parts import Source

LATER_S = 1e9
LAYOUT = Layout((Field("y", DType.FLOAT64),))


def part(value: float) -> Batch:
    """One part of one row."""
    return Batch(LAYOUT, 1, (Block(np.array([[value]]), None),))


def encode(batch: Batch) -> bytes:
    """As a codec; -1 has no JSON."""
    value = float(batch.blocks[0].values[0, 0])
    if value < 0:
        raise ValueError("secret")
    return b'{"predictions":[%d]}' % value


@dataclass
class Side:
    """The request, and its connection."""

    sent: list[bytes] = field(default_factory=list)
    begun: list[HeaderList] = field(default_factory=list)
    ends: list[RoadworthyError | None] = field(default_factory=list)
    last: bytes | None = None

    def begin(self, stream: HttpStream, answer: Answer, headers: HeaderList) -> Wire:
        """See `StreamSide`."""
        self.begun.append(headers)
        return self

    def end(self, *given: object) -> None:
        """See `StreamSide` and `Wire`."""
        if isinstance(given[0], bytes):
            self.last = given[0]
        else:
            assert given[1] is None or isinstance(given[1], RoadworthyError)
            self.ends.append(given[1])

    def send(self, data: bytes) -> bool:
        """See `Wire`."""
        self.sent.append(data)
        return True

    def problem(self, error: RoadworthyError) -> bytes:
        """See `StreamSide`."""
        return b'{"code":"%b"}' % error.code.encode()

    def fault(self, error: Exception) -> RoadworthyError:
        """See `StreamSide`."""
        return ModelFault(type(error).__name__, code="model-failed")


def play(act: Callable[[HttpStream, Parts, Side], None], first: float = 1) -> Side:
    """Begin a stream on an event loop, and let `act` go on with it."""

    async def main() -> Side:
        side, rest = Side(), Parts(Source())
        stream = HttpStream(EVENTS, encode, side)
        stream.run(Answer(part(first), 0, 1, rest=rest), StreamDeadlines(0.0, LATER_S))
        act(stream, rest, side)
        stream.close()
        return side

    return asyncio.run(main())


def test_a_silent_stream_gets_comments() -> None:
    """One after each pause; they are no parts, and are in no record."""

    def act(stream: HttpStream, rest: Parts, side: Side) -> None:
        stream.keep_alive(0.0, 15)
        assert len(side.sent) == 1
        stream.keep_alive(LATER_S, 15)
        stream.keep_alive(LATER_S + 1, 15)
        assert side.sent[1:] == [EVENTS.comment]
        rest.push(part(2), 1)
        rest.end()
        assert stream.recorded == b'{"predictions":[1,2]}'

    side = play(act)
    assert side.last == b'event: end\ndata: {"parts":2}\n\n'
    assert EVENTS.comment.startswith(b":")
    assert [form.comment for form in STREAM_FORMS[1:]] == [b"", b""]


def test_an_error_in_a_stream_has_the_keys_of_its_protocol() -> None:
    """As an error before the stream has them: MLflow's clients read `message`."""
    predict: Any = SimpleNamespace(error_keys=PROTOCOL.error_keys)
    call: Any = SimpleNamespace(id="r")
    found = json.loads(HttpSide(predict, call).problem(ModelFault("it failed", code="model-failed")))
    assert (found["code"], found["error_code"], found["message"]) == ("model-failed", "INTERNAL_ERROR", "it failed")


def test_a_record_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller gets all parts, the record the first ones."""
    monkeypatch.setattr(streaming, "MOST_RECORDED_BYTES", 50)

    def act(stream: HttpStream, rest: Parts, side: Side) -> None:
        for value in range(2, 9):
            rest.push(part(value), 1)
        assert len(side.sent) == 8
        assert stream.recorded == b'{"predictions":[1,2]}'

    play(act)


def test_a_part_that_cannot_be_written_ends_the_stream() -> None:
    """As the last event, or with its own status when it is the first part: then the reply has not begun."""

    def act(_stream: HttpStream, rest: Parts, side: Side) -> None:
        rest.push(part(-1), 1)
        assert side.last == b'event: error\ndata: {"code":"model-failed"}\n\n'

    side = play(act)
    assert [error.code for error in side.ends if error] == ["model-failed"]
    side = play(lambda *_: None, first=-1)
    assert (side.begun, side.sent, side.last) == ([], [], None)
    assert [error.code for error in side.ends if error] == ["model-failed"]
