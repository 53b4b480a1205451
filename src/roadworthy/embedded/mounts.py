"""The gateway's routes as an application for ASGI and WSGI servers: `rw.asgi_app` and `rw.wsgi_app`.

app.mount("/models", rw.asgi_app(credit))  # POST /models/v1/models/credit:predict, GET /models/docs

The application's server reads the request; routes, protocols, answers and problems are those of the gateway. The application
owns credentials: a mount asks for no key.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from queue import SimpleQueue
from typing import Any

from roadworthy.codecs.codec import HeaderList, too_large
from roadworthy.embedded.core import Core
from roadworthy.embedded.edge import endpoint_closed
from roadworthy.embedded.endpoint import EmbeddedEndpoint
from roadworthy.foundation.errors import InvalidRequest, RoadworthyError
from roadworthy.foundation.ids import PredictionIds, request_id
from roadworthy.gateway.http.app import App
from roadworthy.gateway.http.documents import Documents
from roadworthy.gateway.http.header_checks import HeaderChecks
from roadworthy.gateway.http.messages import READ_OFF_BYTES, Message, Receive, Reply, Send
from roadworthy.gateway.http.predict import HttpPrediction, Predict
from roadworthy.gateway.http.problems import problem
from roadworthy.gateway.http.routes import Routing
from roadworthy.gateway.http.streaming import HttpStream
from roadworthy.gateway.http.wire import read_lines
from roadworthy.serving.admission import Admission, Keys
from roadworthy.serving.endpoint import Endpoint
from roadworthy.serving.health.readiness import Readiness

ASGIApp = Callable[[Message, Receive, Send], Awaitable[None]]
StartResponse = Callable[..., Any]
WSGIApp = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

_MOST_AHEAD = 8
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
        return self.ahead < _MOST_AHEAD

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
        if self.ahead < _MOST_AHEAD and self.resume is not None and not self.ended:
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
        metrics = core.instruments.metrics
        refused = partial(metrics.refused, "")
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


class _Mount:
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


class _Asgi(_Mount):
    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000, "reason": "this application speaks HTTP only"})

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        head, told, loop = _asgi_head(scope), asyncio.Queue[Told](), asyncio.get_running_loop()
        try:
            _, routes = self.routes() if self.begun_here() else await asyncio.to_thread(self.routes)
            if not head.path:
                await _send(send, _to_root(head), head)
                return
            body = await _asgi_body(receive, head, routes.limit(head))
            if isinstance(body, _Gone):
                return
            exchange = self.hand_over(head, body, lambda piece: loop.call_soon_threadsafe(told.put_nowait, piece))
        except RoadworthyError as error:
            await _send(send, self.refused(error), head)
            return
        watch = asyncio.create_task(_watch(receive, told))
        try:
            await _pass_on(send, head, told, exchange)
        finally:
            watch.cancel()
            exchange.left()


class _Wsgi(_Mount):
    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        head, told = _wsgi_head(environ), SimpleQueue[Told]()
        try:
            _, routes = self.routes()
            if not head.path:
                return _started(start_response, _to_root(head), head)
            exchange = self.hand_over(head, _wsgi_body(environ, head, routes.limit(head)), told.put)
        except RoadworthyError as error:
            return _started(start_response, self.refused(error), head)
        first = told.get()
        if not isinstance(first, Begun):
            raise AssertionError("a reply begins with its head")  # noqa: TRY004 - cannot happen
        whole = _started(start_response, first, head)
        return whole if first.body is not None else _Pieces(told, exchange)


class _Pieces:
    """The body of a reply in pieces; WSGI servers call `close` in any case."""

    def __init__(self, told: SimpleQueue[Told], exchange: Exchange) -> None:
        self._told = told
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        while isinstance(piece := self._told.get(), bytes):
            yield piece
            self._exchange.wants_more()

    def close(self) -> None:
        """The caller has everything, or is gone."""
        self._exchange.left()


def asgi_app(*endpoints: EmbeddedEndpoint) -> ASGIApp:
    """An ASGI application with the gateway's routes for these endpoints, to mount in FastAPI, Starlette or Django, or to serve.

    Its protocols, answers and problems are the gateway's; it asks for no key. Mounted below a prefix, its OpenAPI documents and
    pages name the prefix. After `close` of all endpoints it answers 503.

    Raises:
        InvalidRequest: "no-endpoint".
    """
    return _Asgi(endpoints)


def wsgi_app(*endpoints: EmbeddedEndpoint) -> WSGIApp:
    """The same as `asgi_app` for WSGI servers: Flask, Django, gunicorn.

    Raises:
        InvalidRequest: "no-endpoint".
    """
    return _Wsgi(endpoints)


class _Gone:
    """The caller went away before its request was complete."""


async def _lifespan(receive: Receive, send: Send) -> None:
    """The endpoints outlive the application's lifespan: who opened them closes them."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def _watch(receive: Receive, told: asyncio.Queue[Told]) -> None:
    """End the reply when its caller goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass
    told.put_nowait(None)


async def _pass_on(send: Send, head: Head, told: asyncio.Queue[Told], exchange: Exchange) -> None:
    """Pass the reply on to the server."""
    first = await told.get()
    if not isinstance(first, Begun):
        return
    await _send(send, first, head)
    while first.body is None and not isinstance(piece := await told.get(), Begun):
        await send({"type": "http.response.body", "body": piece or b"", "more_body": piece is not None})
        if piece is None:
            return
        exchange.wants_more()


async def _send(send: Send, begun: Begun, head: Head) -> None:
    await send({"type": "http.response.start", "status": begun.status, "headers": _plain(begun.headers)})
    if begun.body is not None:
        await send({"type": "http.response.body", "body": b"" if head.method == "HEAD" else begun.body})


async def _asgi_body(receive: Receive, head: Head, most: int) -> bytes | _Gone | None:
    """The body; None if it is longer than `most` bytes, of which the rest is not read."""
    if _declared(head) > most:
        return None
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return _Gone()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _asgi_head(scope: Message) -> Head:
    root = str(scope.get("root_path") or "").rstrip("/")
    path = (scope.get("raw_path") or str(scope["path"]).encode()).partition(b"?")[0]
    prefix = root.encode()
    if root and (path == prefix or path.startswith(prefix + b"/")):
        path = path[len(prefix) :]
    elif root and str(scope["path"]).startswith(f"{root}/"):  # the prefix has escaped characters
        path = str(scope["path"])[len(root) :].encode()
    headers = [(bytes(name).lower(), bytes(value)) for name, value in scope["headers"]]
    return Head(scope["method"], path, root, headers)


def _wsgi_head(environ: dict[str, Any]) -> Head:
    headers = [
        (name[5:].replace("_", "-").lower().encode("latin-1"), str(value).encode("latin-1"))
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    headers += [
        (name.replace("_", "-").lower().encode(), str(environ[name]).encode("latin-1"))
        for name in ("CONTENT_TYPE", "CONTENT_LENGTH")
        if environ.get(name)
    ]
    root = str(environ.get("SCRIPT_NAME") or "").rstrip("/").encode("latin-1").decode("utf-8", "replace")
    return Head(environ["REQUEST_METHOD"], str(environ.get("PATH_INFO") or "").encode("latin-1"), root, headers)


def _wsgi_body(environ: dict[str, Any], head: Head, most: int) -> bytes | None:
    """The body; None if it is longer than `most` bytes."""
    stream, declared = environ["wsgi.input"], _declared(head)
    if declared > most:
        return None
    if declared < 0 and not environ.get("wsgi.input_terminated"):
        return b""
    parts, left = [], declared if declared >= 0 else most + 1
    while left > 0 and (part := stream.read(left)):
        parts.append(part)
        left -= len(part)
    body = b"".join(parts)
    return body if len(body) <= most else None


def _declared(head: Head) -> int:
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


def _plain(headers: HeaderList) -> HeaderList:
    return [each for each in headers if each[0] not in _UNWANTED]


def _to_root(head: Head) -> Begun:
    """Send browsers from the mount itself to its front page, whose links are relative."""
    return Begun(307, [(b"location", f"{head.root}/".encode()), (b"content-length", b"0")], b"")


def _started(start_response: StartResponse, begun: Begun, head: Head) -> list[bytes]:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in _plain(begun.headers)]
    start_response(f"{begun.status} {HTTPStatus(begun.status).phrase}", headers)
    return [b"" if begun.body is None or head.method == "HEAD" else begun.body]
