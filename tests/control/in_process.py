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


class Caller:
    """An administrator who sends requests to its application."""

    def __init__(self, context: ControlContext) -> None:
        key_id, self._key = make_key()
        keys.ensure(context, [{"id": key_id, "key": self._key, "role": "admin", "name": "me"}])
        self._app = create_app(context)

    def send(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """The reply to one request. `body` is a JSON document, or its text as bytes."""

        async def one() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            every = {"Authorization": f"Bearer {self._key}", **(headers or {})}
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=every) as client:
                content = {"content": body} if isinstance(body, bytes) else {"json": body}
                return await client.request(method, path, **content)

        return asyncio.run(one())
