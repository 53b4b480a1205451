"""The gateway's routes for requests that an application's own server has read (`asgi.py`, `wsgi.py`).

Routes, protocols, answers and problems are those of the gateway. The application owns credentials: a mount asks for no key.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from roadworthy.codecs.codec import HeaderList, too_large
from roadworthy.embedded.core import Core
from roadworthy.embedded.edge import MOST_AHEAD, endpoint_closed
from roadworthy.embedded.endpoint import EmbeddedEndpoint
from roadworthy.foundation.errors import InvalidRequest, RoadworthyError
from roadworthy.foundation.ids import PredictionIds, request_id
from roadworthy.gateway.http.app import App
from roadworthy.gateway.http.documents import Documents
from roadworthy.gateway.http.header_checks import HeaderChecks
from roadworthy.gateway.http.messages import READ_OFF_BYTES, Message, Reply
from roadworthy.gateway.http.predict import HttpPrediction, Predict
from roadworthy.gateway.http.problems import problem
from roadworthy.gateway.http.routes import Routing
from roadworthy.gateway.http.streaming import HttpStream
from roadworthy.gateway.http.wire import read_lines
from roadworthy.serving.admission import Admission, Keys
from roadworthy.serving.endpoint import Endpoint
from roadworthy.serving.health.readiness import Readiness

_COMMENT_S = 15.0
"""After so long without a part, a stream gets a comment. It also shows a WSGI server that its caller is gone."""
_MOST_DIGITS = 18
"""Of a declared length: int() refuses thousands of digits, and with so many it is too long in any case."""
_UNWANTED = frozenset({b"expect", b"transfer-encoding", b"connection"})
"""Headers about the connection, which is the server's matter."""


@dataclass(frozen=True, slots=True)
class Head:
    """A request without its body. `path` is raw, below the prefix `root` of the mount."""

    method: str
    path: bytes
    root: str
    headers: HeaderList


@dataclass(frozen=True, slots=True)
class Begun:
    """The begin of a reply. `body` None: pieces follow."""

    status: int
    headers: HeaderList
    body: bytes | None


Told = Begun | bytes | None
"""What an exchange tells the server: the begin, a piece of the body, the end."""


@dataclass(eq=False, slots=True)
class Exchange:
    """One request between the server's thread or loop and the core's loop. `tell` passes something to the server."""

    core: Core
    tell: Callable[[Told], object]
    call: HttpPrediction | None = None
    task: asyncio.Task[None] | None = None
    ended: bool = False
    ahead: int = 0
    resume: Callable[[], None] | None = None
    calls: set[Any] = field(default_factory=set)

    # As `Predict` and its streams see it. On the core's loop.

    def answer(self, call: HttpPrediction, reply: Reply) -> None:
        """See `Exchange` in `gateway/http/predict.py`."""
        call.reply = reply
        self.reply(reply, call)

    def begin(self, call: HttpPrediction, reply: Reply, resume: Callable[[], None]) -> Exchange:
        """See `Exchange` in `gateway/http/predict.py`."""
        self.resume = resume
        self._tell(Begun(reply.status, _headers(reply, call), None))
        return self

    def send(self, data: bytes) -> bool:
        """See `Wire`."""
        self.ahead += 1
        self._tell(data)
        return self.ahead < MOST_AHEAD

    def end(self, data: bytes) -> None:
        """See `Wire`."""
        if data:
            self._tell(data)
        self.close(None)

    def reply(self, reply: Reply, call: HttpPrediction | None = None) -> None:
        """Send a whole reply."""
        headers = [*_headers(reply, call), (b"content-length", b"%d" % len(reply.body))]
        self.close(Begun(reply.status, headers, reply.body))

    # As the server sees it, from its thread.

    def wants_more(self) -> None:
        """The server has sent a piece."""
        self._on_loop(self._taken)

    def left(self) -> None:
        """The caller has its answer, or is gone."""
        if not self.ended:
            self._on_loop(self._drop)

    def _on_loop(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the core has ended, and with it what it held
            self.core.loop.call_soon_threadsafe(function)

    def _taken(self) -> None:
        self.ahead -= 1
        if self.ahead < MOST_AHEAD and self.resume is not None and not self.ended:
            self.resume()

    def _drop(self) -> None:
        if not self.ended:
            self._over()
            if self.call is not None:
                self.call.drop()
            if self.task is not None:
                self.task.cancel()

    def _tell(self, told: Told) -> None:
        try:
            self.tell(told)
        except RuntimeError:  # the server's event loop is closed
            self.core.loop.call_soon(self._drop)

    def close(self, told: Told) -> None:
        """Send the last thing of the reply."""
        if not self.ended:
            self._over()
            self._tell(told)

    def _over(self) -> None:
        self.ended = True
        self.calls.discard(self.call)


class _Checks(HeaderChecks):
    """Leaves the Host header, which HTTP/1.0 does not need, to the application's server."""

    def check(self, headers: HeaderList, unique: dict[bytes, bytes], *, any_host: bool = True) -> None:  # noqa: ARG002 - of none
        """See `HeaderChecks`."""
        super().check(headers, unique, any_host=True)


class MountedRoutes:
    """The routes of one mount on one core. On the core's loop, except `limit`."""

    def __init__(self, core: Core, names: Iterable[str]) -> None:
        self._core = core
        self._names = frozenset(names)
        self._served = 0
        documents = Documents(core.folder, core.slab)
        routing = Routing(core.instruments, core.readers, core.scheduler, self._readiness, documents)
        routing.health = core.health
        self._checks = _Checks(("*",))
        refused = partial(core.instruments.refused, "")
        self._app = App(
            lambda: routing.table, routing.unknown, routing.error_keys, self._checks, refused, core.instruments.log_fault
        )
        self._routing = routing
        core.mount(self)

    def serve(self, keys: Keys, served: Mapping[str, Endpoint], waiting: Mapping[str, Admission]) -> None:
        """See `Edge` in `serving/reload.py`."""
        mine = {name: endpoint for name, endpoint in served.items() if name in self._names}
        self._served = len(mine)
        self._routing.serve(keys, mine, {name: each for name, each in waiting.items() if name in self._names})

    def keep_alive(self, now: float) -> None:
        """See `Mounted`. A caller that has not taken what was sent needs no comment."""
        for call in [call for name in self._names for call in self._core.calls(name) if isinstance(call, HttpPrediction)]:
            has_all = isinstance(call.exchange, Exchange) and not call.exchange.ahead
            if has_all and isinstance(call.writing, HttpStream):
                call.writing.keep_alive(now, _COMMENT_S)

    def _readiness(self) -> Readiness:
        """The readiness of these endpoints alone."""
        whole = self._core.readiness()
        missing, unhealthy = (tuple(each for each in names if each in self._names) for names in (whole.missing, whole.unhealthy))
        mine = missing or unhealthy or not (whole.missing or whole.unhealthy)
        ready, reason = (whole.ready, whole.reason) if mine else (True, None)
        return Readiness(ready, reason, self._served, missing, unhealthy, whole.warnings)

    def limit(self, head: Head) -> int:
        """The most bytes of a body that are read. Any thread."""
        predict = self._find(head)
        return READ_OFF_BYTES if predict is None else predict.max_body_bytes

    def take(self, head: Head, body: bytes | None, exchange: Exchange) -> None:
        """Answer a request; `body` is None if it is longer than `limit`."""
        if self._core.ending:
            exchange.reply(_closed(self._names))
            return
        predict = self._find(head)
        if predict is None:
            exchange.task = self._core.loop.create_task(self._other(head, body or b"", exchange))
        else:
            self._predict(predict, head, body, exchange)

    def _find(self, head: Head) -> Predict | None:
        return self._routing.find(head.path) if head.method == "POST" else None

    def _predict(self, predict: Predict, head: Head, body: bytes | None, exchange: Exchange) -> None:
        own = self._core.next_id()
        headers = dict(head.headers)
        call = HttpPrediction(predict, exchange, headers, (own, request_id(headers.get(b"x-request-id")) or own))
        exchange.call, exchange.calls = call, self._core.calls(predict.name)
        exchange.calls.add(call)
        try:
            self._checks.check(head.headers, headers)
        except InvalidRequest as error:
            call.settle(error)
            return
        predict.open(call)
        if body is None:
            call.settle(too_large(predict.max_body_bytes))
        else:
            predict.run(call, body)

    async def _other(self, head: Head, body: bytes, exchange: Exchange) -> None:
        begun: Message = {}

        async def receive() -> Message:
            return {"type": "http.request", "body": body}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                begun.update(message)
            else:
                exchange.close(Begun(begun["status"], begun["headers"], message["body"]))

        scope = {"type": "http", "method": head.method, "raw_path": head.path, "root_path": head.root, "headers": head.headers}
        try:
            await self._app(scope, receive, send)
        finally:  # the core ends
            exchange.reply(_closed(self._names))


class Mount:
    """What both kinds of applications share."""

    def __init__(self, endpoints: tuple[EmbeddedEndpoint, ...]) -> None:
        if not endpoints:
            raise InvalidRequest("there is no endpoint to mount", code="no-endpoint", hint="pass what serve_in_process returned")
        self._endpoints = endpoints
        self._routes: tuple[Core, MountedRoutes] | None = None
        self._ids = PredictionIds()

    def begun_here(self) -> bool:
        """Whether the endpoints are open in this process, so that `routes` returns at once."""
        return self._routes is not None and self._routes[0].pid == os.getpid()

    def routes(self) -> tuple[Core, MountedRoutes]:
        """The core and the routes.

        Raises:
            Unavailable: "endpoint-closed": all endpoints are closed.
        """
        open_now = [each for each in self._endpoints if not each.closed]
        if not open_now:
            raise endpoint_closed(_names(self._endpoints))
        cores = [each.core() for each in open_now]
        routes = self._routes
        if routes is None or routes[0] is not cores[0]:
            made = cores[0].call(MountedRoutes, cores[0], [each.name for each in self._endpoints]).result()
            routes = self._routes = cores[0], made
        return routes

    def hand_over(self, head: Head, body: bytes | None, tell: Callable[[Told], object]) -> Exchange:
        """Give the request to the core, which passes the reply to `tell`.

        Raises:
            Unavailable: "endpoint-closed".
        """
        core, routes = self.routes()
        exchange = Exchange(core, tell)
        try:
            core.loop.call_soon_threadsafe(routes.take, _with_length(head, body), body, exchange)
        except RuntimeError:  # the core has ended meanwhile
            raise endpoint_closed(_names(self._endpoints)) from None
        return exchange

    def refused(self, error: RoadworthyError) -> Begun:
        """The reply where no core answers."""
        reply = problem(error, self._ids.next())
        return Begun(reply.status, [*reply.headers, (b"content-length", b"%d" % len(reply.body))], reply.body)


def declared_length(head: Head) -> int:
    """The declared length of the body; -1 without one."""
    length = next((value for name, value in head.headers if name == b"content-length"), b"")
    return int(length.lstrip(b"0")[:_MOST_DIGITS] or b"0") if length.isdigit() else -1


def _with_length(head: Head, body: bytes | None) -> Head:
    """The head without what the server has dealt with, and with the length of the body that was read."""
    dealt_with = _UNWANTED | {b"content-length"}
    headers = [each for each in head.headers if each[0] not in dealt_with]
    if body:
        headers.append((b"content-length", b"%d" % len(body)))
    return Head(head.method, head.path, head.root, headers)


def _closed(names: Iterable[str]) -> Reply:
    """The reply of a core that ends."""
    return problem(endpoint_closed(" and ".join(sorted(names))), PredictionIds().next())


def _names(endpoints: Iterable[EmbeddedEndpoint]) -> str:
    return " and ".join(each.name for each in endpoints)


def _headers(reply: Reply, call: HttpPrediction | None) -> HeaderList:
    headers = [*read_lines(reply.head), *reply.headers]
    if call is not None:
        headers.append((b"x-request-id", call.id.encode("ascii")))
        if call.admitted:
            headers.append((b"roadworthy-prediction-id", call.prediction_id.encode("ascii")))
    return headers


def plain(headers: HeaderList) -> HeaderList:
    return [each for each in headers if each[0] not in _UNWANTED]


def to_root(head: Head) -> Begun:
    """Send browsers from the mount itself to its front page, whose links are relative."""
    return Begun(307, [(b"location", f"{head.root}/".encode()), (b"content-length", b"0")], b"")
