"""A client's connection: predictions go to `predict.py`, all else to the application, and answers go back in order.

uvicorn makes one for each connection that it accepts. Predictions skip ASGI, whose scope, task and messages cost more than all
our own steps together; what uvicorn's protocol gives otherwise stays: limits, keep-alive, flow control, pipelining, shutdown.

`_turns` holds the requests that are not answered yet, and only the first of them may write. Waiting is bounded by `sweep`, which
the worker calls about once a second for all connections together. `reading.py` has the half that finds the requests.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from roadworthy.codecs.codec import too_large
from roadworthy.codecs.reading.bodies import Whole
from roadworthy.foundation.errors import RequestTimeout, RoadworthyError
from roadworthy.foundation.sockets import is_reset
from roadworthy.gateway.http.head_cache import CachedHead, Familiar, HeadCache
from roadworthy.gateway.http.header_checks import HeaderChecks, Unreadable, not_http, request_id, too_slow
from roadworthy.gateway.http.messages import Reply, cut_short, much_to_come, too_many_chunks
from roadworthy.gateway.http.predict import Call, Predict
from roadworthy.gateway.http.problems import problem
from roadworthy.gateway.http.reading import BODY, DEAF, HEAD, IDLE, Enough, ReadingProtocol
from roadworthy.gateway.http.wire import respond

_MOST_PARTS = 1_000
_LEAST_PART_BYTES = 256
_MOST_TURNS = 16
_TURN_BYTES = 64 << 10
_LINGER_S = 2.0
_LOOK_AFTER_S = (0.005, 0.1, 1.0)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Waits:
    """How long a client may take.

    Attributes:
        head_s: from a request's first byte to the end of its head.
        body_s: for a body, plus one second for each `body_bytes_s` bytes of it that came.
        write_s: without taking a byte of its answers.
        keep_alive_s: between two requests.
    """

    head_s: float = 10.0
    body_s: float = 20.0
    body_bytes_s: int = 4_096
    write_s: float = 30.0
    keep_alive_s: float = 75.0


@dataclass(slots=True)
class Front:
    """What all connections of a worker share.

    Attributes:
        find: the prediction that is served at a raw path, or None.
        next_id: makes prediction ids.
        heads, waits: what clients may send, and how long they may take.
        refused: counts a request that no endpoint was asked with, by the error's code.
        known: heads that were read before.
        closing: whether replies should end their connection: the worker drains, or memory is short.
    """

    find: Callable[[bytes], Predict | None]
    known: HeadCache
    next_id: Callable[[], str]
    heads: HeaderChecks
    waits: Waits
    refused: Callable[[str], None]
    closing: bool = False


class _Refused:
    """The last turn of a connection on which something came that is no request."""

    __slots__ = ("admitted", "id", "prediction_id", "reply")

    def __init__(self, own: str, fault: Unreadable) -> None:
        self.id = self.prediction_id = own
        self.admitted = False
        self.reply = problem(fault.error, own)
        self.reply.status = fault.status


_Turn = Call | RequestResponseCycle | _Refused


class Connection(ReadingProtocol):
    """One connection. `front` comes first, the rest is uvicorn's."""

    def __init__(self, front: Front, **uvicorn: Any) -> None:
        super().__init__(front.heads, **uvicorn)
        self._front = front
        self._turns: deque[_Turn] = deque()
        self._call: Call | None = None
        self._body = Whole(0)
        self._started: RequestResponseCycle | None = None
        self._write_paused_since: float | None = None
        self._familiar = Familiar(front.known)
        self._fresh: CachedHead | None = None
        self._understood = False

    # --- what the transport calls

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more: what was asked is dropped."""
        turns, self._turns = self._turns, deque()
        half, self._call = self._call, None
        self.reading = DEAF
        super().connection_lost(exc)
        for turn in turns:
            if isinstance(turn, RequestResponseCycle):
                turn.disconnected = True
                turn.message_event.set()
            elif turn is half:
                half.settle(cut_short())
            elif isinstance(turn, Call):
                turn.drop()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn never keeps a half-closed connection
        """The client has nothing more to say; what it asked is still answered."""
        if self.reading in (HEAD, BODY) or not self._turns:
            return False
        self.close_after_turns()
        if isinstance(self._turns[0], Call) and self._turns[0].reply is None:
            self._ask_whether_gone()
        return True

    def _ask_whether_gone(self) -> None:
        """A client that closed looks like one that has only finished sending, until something is sent to it: an interim answer,
        which who still listens passes over, makes the kernel of one that is gone say so."""
        if self.parser.get_http_version() == "1.1" and not self.transport.is_closing():
            self.transport.write(_CONTINUE)
            for after_s in _LOOK_AFTER_S:
                self.loop.call_later(after_s, self._abort_if_gone)

    def _abort_if_gone(self) -> None:
        end = self.transport.get_extra_info("socket")
        if not self.transport.is_closing() and end is not None and is_reset(end):
            self.transport.abort()

    def pause_writing(self) -> None:
        """The client is slow to take its answers: until it has, no further questions are read."""
        self._write_paused_since = time.monotonic()
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """It took them."""
        self._write_paused_since = None
        super().resume_writing()
        self._resume_reading()

    def _resume_reading(self) -> None:
        if len(self._turns) <= _MOST_TURNS // 2 and self._write_paused_since is None:
            self.flow.resume_reading()

    # --- requests with a head that is known

    def recognise(self, data: bytes) -> bool:
        """As in ReadingProtocol. Only between requests of a connection whose client was understood before, so that everything
        that is known of the client itself is known here too."""
        if self._turns or self.closing or not self._understood:
            return False
        found = self._familiar.look_up(data)
        if found is None:
            return False
        known, body = found
        own = self._front.next_id()
        call = Call(known.predict, self, known.headers, (own, known.request_id or own))
        self.since = call.started
        self._turns.append(call)
        known.predict.reopen(call, known.protocol)
        if not call.done:
            known.predict.run(call, body)
        return True

    def learn(self, data: bytes) -> None:
        """As in ReadingProtocol."""
        fresh, self._fresh = self._fresh, None
        if fresh is not None and not self.closing:
            self._understood = True
            self._familiar.learn(data, fresh)

    # --- what the parser calls

    def begin(self, headers: dict[bytes, bytes]) -> None:
        """A prediction is let in or refused at once, everything else goes to the application."""
        self._fresh = None
        predict = None
        if self.parser.get_method() == b"POST":
            predict = self._front.find(self.url)
        if predict is None:
            self._begin_other()
        else:
            self._begin_prediction(predict, headers)
        if len(self._turns) > _MOST_TURNS:
            self.flow.pause_reading()

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
        if len(body) > _TURN_BYTES and not self.flow.read_paused:
            self.flow.pause_reading()
            self.loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        """Read on: the loop would read a long body in pieces of 8 MiB, and nobody else's in between."""
        if not self.transport.is_closing():
            self._resume_reading()

    def _break_off(self, call: Call, error: RoadworthyError) -> NoReturn:
        """Read no more of a body."""
        call.last = True
        call.settle(error)
        self.reading = DEAF
        raise Enough

    def on_message_complete(self) -> None:
        """The request is whole."""
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
            if self.reading == DEAF:
                raise Enough

    # --- predictions

    def _begin_prediction(self, predict: Predict, headers: dict[bytes, bytes]) -> None:
        own = self._front.next_id()
        call = self._call = Call(predict, self, headers, (own, request_id(headers, own)))
        length = headers.get(b"content-length")
        self._body = Whole(predict.max_body_bytes if length is None else min(int(length), predict.max_body_bytes))
        if not self.parser.should_keep_alive():
            self.closing = True
        self._turns.append(call)
        try:
            self._front.heads.check(self.headers, headers)
        except RoadworthyError as error:
            self._front.refused(error.code)
            call.done = True
            self.answer(call, problem(error, call.id))
        else:
            predict.open(call)
            if not call.done and length is not None and b"expect" not in headers:
                asked = None if call.id == own else call.id
                self._fresh = CachedHead(predict, call.protocol, headers, asked, int(length))
        if self.reading == DEAF:
            raise Enough
        if self.expect_100_continue and self._turns[0] is call:
            self._go_on(call)

    def _go_on(self, call: Call) -> None:
        """Tell a client that waits for it to send the body."""
        if call is self._call and not call.done and self.expect_100_continue:
            self.expect_100_continue = False
            self.transport.write(_CONTINUE)

    def answer(self, call: Call, reply: Reply) -> None:
        """Send the reply when it is its turn; a refusal before a long body ends the connection instead of reading it off."""
        if call is self._call and much_to_come(call.headers):
            call.last = True
        call.reply = reply
        self._flush()

    def _flush(self) -> None:
        """Write what is answered, up to the first turn that is not."""
        turns = self._turns
        while turns:
            turn = turns[0]
            if isinstance(turn, RequestResponseCycle) or turn.reply is None:
                break
            turns.popleft()
            if self.transport.is_closing():
                continue
            last = isinstance(turn, _Refused) or turn.last or self._front.closing or (self.closing and not turns)
            self.transport.write(respond(turn, turn.reply, self.server_state.default_headers, close=last))
            if last:
                self._end()
                return
        self._next()

    def _next(self) -> None:
        """After a turn: start the application on the next one, or wait for the next request."""
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self._resume_reading()
        if self._turns:
            turn = self._turns[0]
            if isinstance(turn, Call):
                self._go_on(turn)
            elif isinstance(turn, RequestResponseCycle) and turn is not self._started:
                self._start(turn)
        else:
            self.since = time.monotonic()
            if self.closing:
                self._end()

    # --- everything else, through ASGI

    def _begin_other(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        HttpToolsProtocol.on_message_begin(self)
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        self.cycle = None  # type: ignore[assignment]  # turns are kept here, not in uvicorn's own queue
        try:
            HttpToolsProtocol.on_headers_complete(self)
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
            raise not_http() from None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ARG002 - there is one application
        self.closing = self.closing or not cycle.keep_alive
        self._turns.append(cycle)
        if self._turns[0] is cycle:
            self._start(cycle)

    def _start(self, cycle: RequestResponseCycle) -> None:
        self._started = cycle
        if self._front.closing or (self.closing and self._turns[-1] is cycle):
            cycle.keep_alive = False
        super()._start_asgi_task(cycle, self.app)

    def on_response_complete(self) -> None:
        """The application has answered."""
        self.server_state.total_requests += 1
        self.since = time.monotonic()
        self._started = None
        if self._turns and isinstance(self._turns[0], RequestResponseCycle):
            self._turns.popleft()
        if not self.transport.is_closing():
            self._flush()

    # --- ends

    def shutdown(self) -> None:
        """Answer what was asked, then close; called when the worker has drained."""
        self.close_after_turns()

    def close_after_turns(self) -> None:
        """Take no further requests, answer what was asked, and end the connection."""
        self.closing = True
        if not self._turns:
            self._end()
        elif isinstance(self._turns[-1], RequestResponseCycle):
            self._turns[-1].keep_alive = False

    def give_up(self, error: RoadworthyError) -> int:
        """Answer whatever is still open with `error`, because the worker must end now; how many there were."""
        calls = [turn for turn in self._turns if isinstance(turn, Call) and not turn.done]
        for call in calls:
            call.settle(error)
        return len(calls)

    def refuse(self, fault: Unreadable) -> None:
        """What came is no request: answer that after everything that was asked before it, and end the connection."""
        self._front.refused(fault.error.code)
        call, self._call = self._call, None
        self.reading = DEAF
        self.since = time.monotonic()
        if call is not None and not call.done:
            call.drop()
            self._turns.remove(call)
        self._turns.append(_Refused(self._front.next_id(), fault))
        self._flush()

    def _end(self) -> None:
        """Say that nothing more will come, and read off for a moment what the client still sends: closing at once would have
        the kernel throw away the answer that is on its way."""
        self._turns.clear()
        self.reading = DEAF
        self.since = time.monotonic()
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def sweep(self, now: float) -> None:
        """Close the connection if its client has taken too long over something."""
        waits, waited = self._front.waits, now - self.since
        if self._write_paused_since is not None and now - self._write_paused_since > waits.write_s:
            self.transport.abort()
        elif self.reading == DEAF:
            if waited > _LINGER_S and not self._turns:
                self.transport.abort()
        elif self.reading == HEAD:
            if waited > waits.head_s:
                self.refuse(too_slow())
        elif self.reading == BODY:
            if waited > waits.body_s + self.body_bytes / waits.body_bytes_s:
                self._body_too_slow()
        elif not self._turns and waited > waits.keep_alive_s:
            self.transport.close()

    def _body_too_slow(self) -> None:
        call = self._call
        if call is None or call.done:
            self.transport.abort()
        else:
            call.last = True
            call.settle(RequestTimeout("the body took too long to arrive", code="body-timeout", hint="send it faster"))


async def sweep(connections: Callable[[], list[Connection]], every_s: float = 1.0) -> None:
    """Close what has waited too long, until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        now = time.monotonic()
        for connection in connections():
            connection.sweep(now)
