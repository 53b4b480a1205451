"""What an answer in parts writes over HTTP, without processes: comments, the bound of records, a part that cannot be written; and
how it ends with its connection."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import uvicorn
from uvicorn.server import ServerState

from bench.load.raw import request
from roadworthy.codecs.codec import HeaderList
from roadworthy.codecs.mlflow import PROTOCOL as MLFLOW
from roadworthy.codecs.streams import EVENTS, STREAM_FORMS
from roadworthy.foundation.errors import ModelFault, RoadworthyError
from roadworthy.gateway.http import streaming
from roadworthy.gateway.http.connection import ClientTimeouts, Connection, ConnectionContext
from roadworthy.gateway.http.head_cache import HeadCache
from roadworthy.gateway.http.header_checks import HeaderChecks
from roadworthy.gateway.http.streaming import HttpStream, Wire
from roadworthy.runtime.parts import Parts
from roadworthy.runtime.pending import Answer
from roadworthy.schema.batch import Batch, Block, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field
from roadworthy.serving.streaming import StreamDeadlines, StreamedAnswer
from tests.gateway.test_long_answers import Edge, numbers
from tests.gateway.test_long_answers import play as play_edge
from tests.runtime.test_parts import Source
from tests.serving.test_streaming import Counts
from tests.waiting import soon

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
        stream.run(Answer(part(first), 0, 1, rest=rest), StreamDeadlines(0.0, LATER_S), Counts())
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
        rest.push([(part(2), 1)])
        rest.end()
        assert stream.recorded == b'{"predictions":[1,2]}'

    side = play(act)
    assert side.last == b'event: end\ndata: {"parts":2}\n\n'
    assert EVENTS.comment.startswith(b":")
    assert [form.comment for form in STREAM_FORMS[1:]] == [b"", b""]


def test_a_record_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller gets all parts, the record the first ones."""
    monkeypatch.setattr(streaming, "MOST_RECORDED_BYTES", 50)

    def act(stream: HttpStream, rest: Parts, side: Side) -> None:
        for value in range(2, 9):
            rest.push([(part(value), 1)])
        assert len(side.sent) == 8
        assert stream.recorded == b'{"predictions":[1,2]}'

    play(act)


def test_a_record_has_no_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a part that does not fit, shorter ones are left out too: the record would be an answer that no one was sent."""
    monkeypatch.setattr(streaming, "MOST_RECORDED_BYTES", 40)

    def act(stream: HttpStream, rest: Parts, side: Side) -> None:
        for value in (1e12, 1e12, 3):
            rest.push([(part(value), 1)])
        assert len(side.sent) == 4
        assert stream.recorded == b'{"predictions":[1]}'

    play(act)


def test_a_part_that_cannot_be_written_ends_the_stream() -> None:
    """As the last event, or with its own status when it is the first part: then the reply has not begun."""

    def act(_stream: HttpStream, rest: Parts, side: Side) -> None:
        rest.push([(part(-1), 1)])
        assert side.last == b'event: error\ndata: {"code":"model-failed"}\n\n'

    side = play(act)
    assert [error.code for error in side.ends if error] == ["model-failed"]
    side = play(lambda _, rest, __: rest.push([(part(2), 1), (part(-1), 1), (part(3), 1)]))
    assert side.sent == [b'data: {"predictions":[1]}\n\n', b'data: {"predictions":[2]}\n\n']
    assert [error.code for error in side.ends if error] == ["model-failed"]
    side = play(lambda *_: None, first=-1)
    assert (side.begun, side.sent, side.last) == ([], [], None)
    assert [error.code for error in side.ends if error] == ["model-failed"]


async def _nothing(_scope: object, _receive: object, _send: object) -> None:
    """Everything but predictions."""


class Line:
    """A connection with requests of an endpoint that answers in parts, and the client's end of it."""

    def __init__(self, edge: Edge) -> None:
        edge.predict.in_parts = True
        ids = iter("abcdefgh")
        self.context = ConnectionContext(
            lambda _: edge.predict,
            HeadCache(),
            lambda: next(ids),
            HeaderChecks(["*"]),
            ClientTimeouts(),
            lambda _: None,
        )
        self.server = uvicorn.Config(_nothing, ws="none", lifespan="off", interface="asgi3", log_config=None)
        self.end, self.own = socket.socketpair()
        self.end.setblocking(False)

    async def open(self) -> Connection:
        """Connect."""
        arguments: Any = {"config": self.server, "server_state": ServerState(), "app_state": {}}
        loop = asyncio.get_running_loop()
        _, connection = await loop.connect_accepted_socket(lambda: Connection(self.context, **arguments), self.own)
        return connection

    async def read(self) -> bytes:
        """All that comes until the connection ends."""
        found = b""
        while data := await asyncio.get_running_loop().sock_recv(self.end, 65_536):
            found += data
        return found


ASKED = request(b"/v1/models/e:predict", b'{"instances": [[1]]}', b"Accept: text/event-stream")


def test_a_connection_that_ends_drops_streams_without_a_part() -> None:
    """The worker drains while two streams share a connection: the second would hold its place until its deadline."""

    async def scene(edge: Edge) -> None:
        line = Line(edge)
        connection = await line.open()
        await asyncio.get_running_loop().sock_sendall(line.end, ASKED * 3)
        await soon(lambda: len(edge.waiting) == 3, "all wait for the model")
        begun, rest = Parts(Source()), Parts(Source())
        edge.waiting[1][1].settle(Answer(numbers(1), 0, 1, rest=begun))
        line.context.closing = True
        edge.settle(Answer(numbers(1), 0, 1, rest=rest))
        rest.end()
        found = await line.read()
        assert found.count(b"HTTP/1.1 200") == found.count(b"event: end") == 1
        assert [pending.done for _, pending in edge.waiting] == [True, True]
        assert edge.codes == ["ok", "client-gone", "client-gone"]
        assert edge.rest() == (0, 0, 0, 0)
        connection.transport.close()
        line.end.close()

    play_edge(scene)


class Written:
    """A transport that keeps what is written."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Keep a piece."""
        self.pieces.append(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def test_the_head_leaves_with_the_first_part() -> None:
    """And the end with the last chunk: each piece wakes the client."""

    async def scene(edge: Edge) -> None:
        line = Line(edge)
        connection = await line.open()
        transport = connection.transport
        written = Written(transport)
        connection.transport = written  # type: ignore[assignment]  # what a connection uses of it
        await asyncio.get_running_loop().sock_sendall(line.end, ASKED)
        await soon(lambda: len(edge.waiting) == 1, "it waits for the model")
        rest = Parts(Source())
        edge.settle(Answer(numbers(1), 0, 1, rest=rest))
        rest.end()
        first, last = written.pieces
        assert first.startswith(b"HTTP/1.1 200")
        assert b"\r\n\r\n" in first.partition(b"data: ")[0]
        assert b"event: end" in last
        assert last.endswith(b"\r\n0\r\n\r\n")
        transport.close()
        line.end.close()

    play_edge(scene)


def test_an_answer_that_is_too_large_ends_its_deadlines() -> None:
    """The alarm would keep the request and what was collected until the deadline."""

    async def scene(edge: Edge) -> None:
        edge.predict.in_parts, edge.predict._max_rows = True, 2
        call, source = edge.begin(), Source()
        rest = Parts(source)
        edge.settle(Answer(numbers(1), 0, 1, rest=rest))
        collecting = call.writing
        assert isinstance(collecting, StreamedAnswer)
        for _ in range(3):
            rest.push([(numbers(1), 1)])
        assert (edge.codes, source.cancelled, call.writing) == (["answer-too-large"], 1, None)
        assert collecting._alarm is None
        assert edge.rest() == (0, 0, 0, 0)
        assert (edge.streams.open, edge.streams.ends) == (0, ["failed"])

    play_edge(scene)


def test_errors_in_a_stream_have_the_keys_of_its_protocol() -> None:
    """MLflow's clients read `error_code` and `message`, in the last event as in any other error."""

    async def scene(edge: Edge) -> None:
        edge.predict.error_keys = MLFLOW.error_keys
        line = Line(edge)
        connection = await line.open()
        await asyncio.get_running_loop().sock_sendall(line.end, ASKED)
        await soon(lambda: edge.waiting, "it waits for the model")
        rest = Parts(Source())
        line.context.closing = True
        edge.settle(Answer(numbers(1), 0, 1, rest=rest))
        rest.end(ModelFault("it failed", code="model-failed"))
        found = await line.read()
        problem = json.loads(found.partition(b"event: error\ndata: ")[2].partition(b"\n")[0])
        assert (problem["error_code"], problem["message"], problem["code"]) == ("INTERNAL_ERROR", "it failed", "model-failed")
        connection.transport.close()
        line.end.close()

    play_edge(scene)
