"""A client's connection: finds the requests in its bytes, hands predictions to `predict.py` and everything else to the
application, and writes the answers in order.

uvicorn makes one for each connection that it accepts. Predictions skip ASGI, whose scope, task and messages cost more than all
our own steps together. What uvicorn's protocol provides otherwise stays: limits, keep-alive, flow control, pipelining, shutdown.

Reading is stricter than uvicorn's: it refuses messages without a clear end, messages that two readers could understand
differently, and messages longer than any client needs. `_pending` holds the requests that are not answered yet; only the first
may write. `sweep` bounds all waiting: the worker runs it about once a second for all connections together.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from roadworthy.codecs.codec import too_large
from roadworthy.codecs.reading.bodies import BodyBuffer
from roadworthy.foundation.errors import InvalidRequest, RequestTimeout, RoadworthyError
from roadworthy.foundation.ids import request_id
from roadworthy.foundation.sockets import is_reset
from roadworthy.gateway.http.head_cache import CachedHead, HeadCache, HeadLookup
from roadworthy.gateway.http.header_checks import (
    MISREAD,
    MOST_HEADER_BYTES,
    MOST_HEADERS,
    MOST_URL_BYTES,
    NOT_IN_TRAILERS,
    HeaderChecks,
    Unreadable,
    ambiguous,
    not_http,
    other_version,
    too_long_url,
    too_many_headers,
    too_slow,
)
from roadworthy.gateway.http.messages import Reply, cut_short, much_to_come, too_many_chunks
from roadworthy.gateway.http.predict import HttpPrediction, Predict
from roadworthy.gateway.http.problems import problem
from roadworthy.gateway.http.streaming import HttpStream, StreamWire, Wire
from roadworthy.gateway.http.wire import begin, respond

IDLE, HEAD, BODY, STOPPED = range(4)
"""Between requests; in a head; in a body; nothing further is read."""

_MOST_OVERHEAD = 8
_LEAST_OVERHEAD_BYTES = 8 << 10
_HEADER_COST = 32
# Three forms that the parser accepts as requests.
_ODD_LINE = re.compile(rb"(?:\r\n)*[A-Z]+(?:  +| *\t)")
_OTHER_PROTOCOL = re.compile(rb" (?:RTSP|ICE)/1\.0\r?\n")
_UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)

_MOST_PARTS = 1_000
_LEAST_PART_BYTES = 256
_MOST_PENDING = 16
_YIELD_BYTES = 64 << 10
_LINGER_S = 2.0
_LOOK_AFTER_S = (0.005, 0.1, 1.0)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True)
class ClientTimeouts:
    """How long a client may take.

    Attributes:
        head_s: from a request's first byte to the end of its head.
        body_s: for a body, plus one second for each `body_bytes_s` bytes of it received.
        write_s: without accepting a byte of its answers.
        keep_alive_s: between two requests.
        comment_s: between two parts of an answer, after which server-sent events get a comment.
    """

    head_s: float = 10.0
    body_s: float = 20.0
    body_bytes_s: int = 4_096
    write_s: float = 30.0
    keep_alive_s: float = 75.0
    comment_s: float = 15.0


@dataclass(slots=True)
class ConnectionContext:
    """What all connections of a worker share.

    Attributes:
        find: returns the prediction that is served at a raw path, or None.
        head_cache: heads that were read before.
        next_id: makes prediction ids.
        checks, timeouts: limits on what clients send, and on how long they take.
        refused: counts a request that reached no endpoint, by the error's code.
        closing: whether replies must close their connection: the worker drains, or memory is short.
    """

    find: Callable[[bytes], Predict | None]
    head_cache: HeadCache
    next_id: Callable[[], str]
    checks: HeaderChecks
    timeouts: ClientTimeouts
    refused: Callable[[str], None]
    closing: bool = False


class _Refused:
    """The last answer of a connection that received something other than a request."""

    __slots__ = ("admitted", "id", "last", "prediction_id", "reply")

    def __init__(self, own: str, fault: Unreadable) -> None:
        self.id = self.prediction_id = own
        self.admitted = False
        self.last = True
        self.reply = problem(fault.error, own)
        self.reply.status = fault.status


_Pending = HttpPrediction | RequestResponseCycle | _Refused


class Enough(Exception):
    """Raised inside the parser: nothing further of this connection is read."""


class Connection(HttpToolsProtocol):
    """One connection: uvicorn's protocol with stricter reading, and predictions past ASGI. `uvicorn` has that protocol's
    arguments.

    Attributes:
        reading: where in a message the client is: IDLE, HEAD, BODY or STOPPED.
        since: when that began, monotonic clock, seconds.
        closing: no further request is taken; pending ones are answered.
        body_bytes: received so far of the current message's body.
    """

    def __init__(self, context: ConnectionContext, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self.reading = IDLE
        self.since = time.monotonic()
        self.closing = False
        self.body_bytes = 0
        self._context = context
        self._fed = b""
        self._head_bytes = self._raw_bytes = 0
        self._pending: deque[_Pending] = deque()
        self._call: HttpPrediction | None = None
        self._body = BodyBuffer(0)
        self._started: RequestResponseCycle | None = None
        self._write_paused_since: float | None = None
        self._lookup = HeadLookup(context.head_cache)
        self._fresh: CachedHead | None = None
        self._understood = False
        self._streams: dict[object, StreamWire] = {}

    # --- callbacks of the transport

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: drop its pending requests."""
        pending, self._pending = self._pending, deque()
        half, self._call = self._call, None
        self.reading = STOPPED
        super().connection_lost(exc)
        for each in pending:
            if isinstance(each, RequestResponseCycle):
                each.disconnected = True
                each.message_event.set()
            elif each is half:
                half.settle(cut_short())
            elif isinstance(each, HttpPrediction):
                each.drop()
        streams, self._streams = self._streams, {}
        for call in streams:
            if isinstance(call, HttpPrediction):
                call.drop()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn never keeps a half-closed connection
        """The client sends nothing further; its pending requests are still answered."""
        if self.reading in (HEAD, BODY) or not self._pending:
            return False
        self._close_after_answers()
        first = self._pending[0]
        if isinstance(first, HttpPrediction) and first.reply is None and first not in self._streams:
            self._probe_client()
        return True

    def _probe_client(self) -> None:
        """Find out whether the client closed the connection or only finished sending: both look the same until something is sent.
        A client that still listens ignores an interim answer; the kernel of one that is gone resets the connection."""
        if self.parser.get_http_version() == "1.1" and not self.transport.is_closing():
            self.transport.write(_CONTINUE)
            for after_s in _LOOK_AFTER_S:
                self.loop.call_later(after_s, self._abort_if_gone)

    def _abort_if_gone(self) -> None:
        end = self.transport.get_extra_info("socket")
        if not self.transport.is_closing() and end is not None and is_reset(end):
            self.transport.abort()

    def pause_writing(self) -> None:
        """The client accepts its answers slowly: read no further requests until it has."""
        self._write_paused_since = time.monotonic()
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """The client has accepted them."""
        self._write_paused_since = None
        super().resume_writing()
        self._resume_reading()
        if self._streams:
            self._resume_stream()

    def _resume_reading(self) -> None:
        if len(self._pending) <= _MOST_PENDING // 2 and self._write_paused_since is None:
            self.flow.resume_reading()

    # --- from bytes to the parser

    def data_received(self, data: bytes) -> None:
        """Take bytes as they arrive."""
        before = self.reading
        if before == STOPPED or (before == IDLE and self._understood and self._recognise(data)):
            return
        if before == IDLE and data[:6] != b"POST /" and _ODD_LINE.match(data):
            self.refuse(not_http())
            return
        sent = data
        if before <= HEAD and (b"pgrade:" in data or b"PGRADE:" in data):
            data = _without_upgrade(data)
        begun = self.headers
        if not self._parse(data):
            return
        if self.headers is begun and before == self.reading:
            # A message that began in these bytes was counted while it was read.
            self._count(len(data))
        elif before == IDLE and self.reading == IDLE and data is sent:
            self._learn(data)

    def _parse(self, data: bytes) -> bool:
        self._fed = data
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # An offer to upgrade that arrived in pieces. The bytes after it may not be HTTP/1, so this request is the last.
            self._close_after_answers()
        except httptools.HttpParserError as error:
            if self.reading in (HEAD, BODY):
                cause = error.__context__
                self.refuse(cause if isinstance(cause, Unreadable) else not_http())
            elif not self.closing and self.reading != STOPPED:
                self.refuse(not_http())
            return False
        return True

    def _count(self, size: int) -> None:
        """Bound the bytes of a head that does not end, and the overhead of a body's framing."""
        if self.reading == HEAD:
            self._head_bytes += size
            if self._head_bytes > 2 * MOST_HEADER_BYTES:
                self.refuse(too_many_headers())
        elif self.reading == BODY:
            self._raw_bytes += size
            if self._raw_bytes > _MOST_OVERHEAD * (self.body_bytes + _LEAST_OVERHEAD_BYTES):
                self.refuse(not_http())

    # --- requests with a cached head

    def _recognise(self, data: bytes) -> bool:
        """Handle `data` without the parser if it is one whole request with a cached head; returns whether it was.

        Only between requests, and only for a client that this connection has understood before, so that all checks of the client
        itself have been made."""
        if self._pending or self.closing:
            return False
        found = self._lookup.look_up(data)
        if found is None:
            return False
        cached, body = found
        own = self._context.next_id()
        call = HttpPrediction(cached.predict, self, cached.headers, (own, cached.request_id or own))
        self.since = call.started
        self._pending.append(call)
        cached.predict.rerun(call, cached.protocol, body, plain=cached.plain)
        return True

    def _learn(self, data: bytes) -> None:
        """Cache the head of `data`, which began and ended with whole requests, if its first request was a good prediction."""
        fresh, self._fresh = self._fresh, None
        if fresh is not None and not self.closing:
            self._understood = True
            self._lookup.learn(data, fresh)

    # --- callbacks of the parser

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        if self.closing:
            raise Enough
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._head_bytes = 0
        self.reading = HEAD
        self.since = time.monotonic()

    def on_url(self, url: bytes) -> None:
        """The request's target, or a part of it."""
        self.url += url
        if len(self.url) > MOST_URL_BYTES:
            raise too_long_url()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one trailer."""
        name = name.lower()
        self._head_bytes += len(name) + len(value) + _HEADER_COST
        if self.reading == BODY:  # trailers are ignored, except those that would have a meaning as headers
            if name in NOT_IN_TRAILERS or self._head_bytes > MOST_HEADER_BYTES:
                raise not_http()
            return
        self.headers.append((name, value))
        if self._head_bytes > MOST_HEADER_BYTES or len(self.headers) > MOST_HEADERS:
            raise too_many_headers()
        if name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        elif name in MISREAD:
            raise not_http()

    def on_headers_complete(self) -> None:
        """The head is complete. A prediction is admitted or refused at once; everything else goes to the application."""
        self.reading = BODY
        self.body_bytes = self._raw_bytes = 0
        headers = dict(self.headers)
        version = self.parser.get_http_version()
        if version != "1.1":
            self._check_old(version, headers)
        if (b"connection" in headers or b"transfer-encoding" in headers) and ambiguous(headers):
            raise not_http()
        if not self.url.startswith(b"/"):
            self._check_target()
        self._fresh = None
        predict = None
        if self.parser.get_method() == b"POST":
            predict = self._context.find(self.url)
        if predict is None:
            self._begin_other()
        else:
            self._begin_prediction(predict, headers)
        if len(self._pending) > _MOST_PENDING:
            self.flow.pause_reading()

    def _check_old(self, version: str, headers: dict[bytes, bytes]) -> None:
        if version not in ("0.9", "1.0"):
            raise other_version()
        if version == "0.9" or b"transfer-encoding" in headers or _OTHER_PROTOCOL.search(self._fed):
            raise not_http()
        self.expect_100_continue = False
        self.closing = True

    def _check_target(self) -> None:
        try:
            self._context.checks.check_target(self.url)
        except InvalidRequest as error:
            raise Unreadable(400, error) from None

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self.body_bytes += len(body)
        call = self._call
        if call is None:
            super().on_body(body)
            return
        if call.done:
            return
        if self.body_bytes > call.predict.max_body_bytes:
            self._break_off(call, too_large(call.predict.max_body_bytes))
        self._body.add(body)
        if self._body.count > _MOST_PARTS + self.body_bytes // _LEAST_PART_BYTES:
            self._break_off(call, too_many_chunks())
        if len(body) > _YIELD_BYTES and not self.flow.read_paused:
            self.flow.pause_reading()
            self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        """Resume a long body after other connections were served: the loop would read 8 MiB of it at a time without a break."""
        if not self.transport.is_closing():
            self._resume_reading()

    def _break_off(self, call: HttpPrediction, error: RoadworthyError) -> NoReturn:
        """Refuse the request and stop reading its body."""
        call.last = True
        call.settle(error)
        self.reading = STOPPED
        raise Enough

    def on_message_complete(self) -> None:
        """The request is complete."""
        self.reading = IDLE
        self.since = time.monotonic()
        call = self._call
        if call is None:
            super().on_message_complete()
            return
        self._call = None
        body = self._body.take()
        if not call.done:
            call.predict.run(call, body)
            if self.reading == STOPPED:
                raise Enough

    # --- predictions

    def _begin_prediction(self, predict: Predict, headers: dict[bytes, bytes]) -> None:
        own = self._context.next_id()
        ids = own, request_id(headers.get(b"x-request-id")) or own
        call = self._call = HttpPrediction(predict, self, headers, ids)
        length = headers.get(b"content-length")
        self._body = BodyBuffer(predict.max_body_bytes if length is None else min(int(length), predict.max_body_bytes))
        if not self.parser.should_keep_alive():
            self.closing = True
        self._pending.append(call)
        try:
            self._context.checks.check(self.headers, headers)
        except RoadworthyError as error:
            self._context.refused(error.code)
            call.done = True
            self.answer(call, problem(error, call.id))
        else:
            predict.open(call)
            if not call.done and length is not None and b"expect" not in headers:
                given_id = None if call.id == own else call.id
                self._fresh = CachedHead(predict, call.protocol, headers, given_id, int(length))
        if self.reading == STOPPED:
            raise Enough
        if self.expect_100_continue and self._pending[0] is call:
            self._send_continue(call)

    def _send_continue(self, call: HttpPrediction) -> None:
        """Tell a client that waits for it to send the body."""
        if call is self._call and not call.done and self.expect_100_continue:
            self.expect_100_continue = False
            self.transport.write(_CONTINUE)

    def answer(self, call: HttpPrediction, reply: Reply) -> None:
        """Send the reply after those to earlier requests. A refusal before a long body closes the connection instead of reading
        the body."""
        if call is self._call and much_to_come(call.headers):
            call.last = True
        call.reply = reply
        pending = self._pending
        if len(pending) > 1 or call.last or self.closing or self._context.closing or self.flow.read_paused:
            self._flush()
        elif pending and pending[0] is call and not self.transport.is_closing():
            pending.clear()
            self.transport.write(respond(call, reply, self.server_state.default_headers, close=False))
            self.since = time.monotonic()

    def _flush(self) -> None:
        """Write the replies up to the first request that has none."""
        pending = self._pending
        while pending:
            first = pending[0]
            if isinstance(first, RequestResponseCycle) or first.reply is None:
                break
            pending.popleft()
            if self.transport.is_closing():
                continue
            last = first.last or self._context.closing or (self.closing and not pending)
            self.transport.write(respond(first, first.reply, self.server_state.default_headers, close=last))
            if last:
                self._end()
                return
        self._next()

    def _next(self) -> None:
        """After a reply: let the next request proceed, or wait for one."""
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self._resume_reading()
        if self._pending:
            first = self._pending[0]
            if isinstance(first, HttpPrediction):
                self._send_continue(first)
                if first in self._streams:
                    self._catch_up(self._streams[first])
            elif isinstance(first, RequestResponseCycle) and first is not self._started:
                self._start(first)
        else:
            self.since = time.monotonic()
            if self.closing:
                self._end()

    # --- answers in parts

    def begin(self, call: HttpPrediction, reply: Reply, resume: Callable[[], None]) -> Wire:
        """Begin a reply whose body is sent in pieces: as chunks, or to a client of HTTP/1.0 until the connection closes."""
        final = self.closing and bool(self._pending) and self._pending[-1] is call
        chunked = not final or self.parser.get_http_version() == "1.1"
        last = not chunked or call.last or self._context.closing or final
        head = begin(call, reply, self.server_state.default_headers, close=last, chunked=chunked)
        wire = self._streams[call] = StreamWire(self, call, head, resume, chunked=chunked, last=last)
        return wire

    def write_stream(self, wire: StreamWire, data: bytes) -> bool:
        """Write bytes of a reply, or keep them until earlier requests are answered; whether more are wanted now."""
        if not self._pending or self._pending[0] is not wire.call:
            wire.unsent += data
            return False
        if wire.unsent:
            data, wire.unsent = wire.unsent + data, b""
        if not self.transport.is_closing():
            self.transport.write(data)
        return self._write_paused_since is None

    def end_stream(self, wire: StreamWire) -> None:
        """The reply is complete."""
        wire.ended = True
        if self._pending and self._pending[0] is wire.call:
            self._leave(wire)

    def _catch_up(self, wire: StreamWire) -> None:
        """Write what a stream has kept until it was first in line."""
        unsent, wire.unsent = wire.unsent, b""
        if unsent:
            self.transport.write(unsent)
        if wire.ended:
            self._leave(wire)
        else:
            self._resume_stream()

    def _leave(self, wire: StreamWire) -> None:
        self._pending.popleft()
        del self._streams[wire.call]
        if wire.last or self._context.closing:
            self._end()
        else:
            self._flush()

    def _resume_stream(self) -> None:
        """Ask the stream that is first in line for further parts, if the client accepts them."""
        first = self._pending[0] if self._pending else None
        if isinstance(first, HttpPrediction) and first in self._streams and self._write_paused_since is None:
            self._streams[first].resume()

    # --- everything else, through ASGI

    def _begin_other(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        HttpToolsProtocol.on_message_begin(self)
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        self.cycle = None  # type: ignore[assignment]  # pending requests are kept here, not in uvicorn's own queue
        try:
            HttpToolsProtocol.on_headers_complete(self)
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
            raise not_http() from None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ARG002 - there is one application
        self.closing = self.closing or not cycle.keep_alive
        self._pending.append(cycle)
        if self._pending[0] is cycle:
            self._start(cycle)

    def _start(self, cycle: RequestResponseCycle) -> None:
        self._started = cycle
        if self._context.closing or (self.closing and self._pending[-1] is cycle):
            cycle.keep_alive = False
        super()._start_asgi_task(cycle, self.app)

    def on_response_complete(self) -> None:
        """The application has answered."""
        self.server_state.total_requests += 1
        self.since = time.monotonic()
        self._started = None
        if self._pending and isinstance(self._pending[0], RequestResponseCycle):
            self._pending.popleft()
        if not self.transport.is_closing():
            self._flush()

    # --- the end of a connection

    def shutdown(self) -> None:
        """Answer pending requests, then close. Called when the worker has drained."""
        self._close_after_answers()

    def _close_after_answers(self) -> None:
        """Take no further requests, answer pending ones, and close the connection."""
        self.closing = True
        if not self._pending:
            self._end()
        elif isinstance(self._pending[-1], RequestResponseCycle):
            self._pending[-1].keep_alive = False

    def give_up(self, error: RoadworthyError) -> int:
        """Answer all open predictions with `error`, because the worker must stop now; returns how many there were."""
        calls = [each for each in self._pending if isinstance(each, HttpPrediction) and each.reply is None]
        for call in calls:
            call.give_up(error)
        return len(calls)

    def refuse(self, fault: Unreadable) -> None:
        """Refuse bytes that are not a request: reply after all earlier answers, and close the connection."""
        self._context.refused(fault.error.code)
        call, self._call = self._call, None
        self.reading = STOPPED
        self.since = time.monotonic()
        if call is not None and not call.done:
            call.drop()
            self._pending.remove(call)
        self._pending.append(_Refused(self._context.next_id(), fault))
        self._flush()

    def _end(self) -> None:
        """Drop the requests that get no answer any more, finish sending, and discard for a moment what the client still sends:
        after an immediate close, the kernel would throw away the answer that is on its way."""
        pending, self._pending = self._pending, deque()
        self.reading = STOPPED
        self.since = time.monotonic()
        for each in pending:
            if isinstance(each, HttpPrediction):
                each.drop()
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def sweep(self, now: float) -> None:
        """Close the connection if its client has exceeded a timeout. `now`: monotonic clock, seconds."""
        timeouts, waited = self._context.timeouts, now - self.since
        if self._streams and self._pending and self._write_paused_since is None:
            self._keep_alive(now)
        if self._write_paused_since is not None and now - self._write_paused_since > timeouts.write_s:
            self.transport.abort()
        elif self.reading == STOPPED:
            if waited > _LINGER_S and not self._pending:
                self.transport.abort()
        elif self.reading == HEAD:
            if waited > timeouts.head_s:
                self.refuse(too_slow())
        elif self.reading == BODY:
            if waited > timeouts.body_s + self.body_bytes / timeouts.body_bytes_s:
                self._time_out_body()
        elif not self._pending and waited > timeouts.keep_alive_s:
            self.transport.close()

    def _keep_alive(self, now: float) -> None:
        first = self._pending[0]
        if isinstance(first, HttpPrediction) and isinstance(first.writing, HttpStream):
            first.writing.keep_alive(now, self._context.timeouts.comment_s)

    def _time_out_body(self) -> None:
        call = self._call
        if call is None or call.done:
            self.transport.abort()
        else:
            call.last = True
            call.settle(RequestTimeout("the body took too long to arrive", code="body-timeout", hint="send it faster"))


def _without_upgrade(data: bytes) -> bytes:
    """The same bytes with the upgrade header of their first head renamed. The parser would read the rest as another protocol, but
    clients that offer an upgrade with every first request expect the offer to be ignored."""
    end = data.find(b"\r\n\r\n")
    return data if end < 0 else _UPGRADE.sub(b"\r\nx-offer:", data[:end]) + data[end:]


async def sweep(connections: Callable[[], list[Connection]], every_s: float = 1.0) -> None:
    """Close connections whose clients exceed a timeout, until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        now = time.monotonic()
        for connection in connections():
            connection.sweep(now)
