"""`rw.asgi_app`: mounted endpoints as an application for ASGI servers.

app.mount("/models", rw.asgi_app(credit))  # POST /models/v1/models/credit:predict, GET /models/docs
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from roadworthy.embedded.endpoint import EmbeddedEndpoint
from roadworthy.embedded.mounts import Begun, Exchange, Head, Mount, Told, declared_length, plain, to_root
from roadworthy.foundation.errors import RoadworthyError
from roadworthy.gateway.http.messages import Message, Receive, Send

ASGIApp = Callable[[Message, Receive, Send], Awaitable[None]]


def asgi_app(*endpoints: EmbeddedEndpoint) -> ASGIApp:
    """An ASGI application with the gateway's routes for these endpoints, to mount in FastAPI, Starlette or Django, or to serve.

    Its protocols, answers and problems are the gateway's; it asks for no key. Mounted below a prefix, its OpenAPI documents and
    pages name the prefix. After `close` of all endpoints it answers 503.

    Raises:
        InvalidRequest: "no-endpoint".
    """
    return _Asgi(endpoints)


class _Asgi(Mount):
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
                await _send(send, to_root(head), head)
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
    await send({"type": "http.response.start", "status": begun.status, "headers": plain(begun.headers)})
    if begun.body is not None:
        await send({"type": "http.response.body", "body": b"" if head.method == "HEAD" else begun.body})


async def _asgi_body(receive: Receive, head: Head, most: int) -> bytes | _Gone | None:
    """The body; None if it is longer than `most` bytes, of which the rest is not read."""
    if declared_length(head) > most:
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
