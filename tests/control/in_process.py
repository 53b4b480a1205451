"""A control plane without a process of its own, for tests that put errors in its way."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx

from roadworthy.control.context import ControlContext
from roadworthy.control.http.app import create_app
from roadworthy.control.resources import keys
from roadworthy.foundation.keys import make_key


class InProcess(httpx.BaseTransport):
    """Passes requests to an ASGI application, each in an event loop of its own."""

    def __init__(self, app: Any) -> None:
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The application's reply."""

        async def one() -> httpx.Response:
            sent = httpx.Request(request.method, request.url, headers=request.headers, content=request.read())
            reply = await self._transport.handle_async_request(sent)
            return httpx.Response(reply.status_code, headers=reply.headers, content=await reply.aread())

        return asyncio.run(one())


def client_of(context: ControlContext, app: Any, role: str = "admin", name: str = "me") -> httpx.Client:
    """A client of the application with a new key of the context's project."""
    key_id, key = make_key()
    keys.ensure(context, [{"id": key_id, "key": key, "role": role, "name": name}])
    return httpx.Client(transport=InProcess(app), base_url="http://127.0.0.1", headers={"Authorization": f"Bearer {key}"})


class Caller:
    """An administrator who sends requests to its application."""

    def __init__(self, context: ControlContext) -> None:
        self._client = client_of(context, create_app(context))

    def send(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """The reply to one request. `body` is a JSON document, or its text as bytes."""
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        return self._client.request(method, path, headers=headers, **content)
