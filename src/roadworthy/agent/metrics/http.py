"""The agent's HTTP server for GET /metrics and GET /livez only. It is small on purpose: it serves no route of users."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

_MAX_HEAD_BYTES = 16_384
_HEAD_TIMEOUT_S = 5.0
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}

Page = tuple[str, Callable[[], bytes]]


async def serve_pages(listener: socket.socket, pages: dict[str, Page]) -> asyncio.Server:
    """Answer GET and HEAD on an inherited listening socket.

    Args:
        listener: bound and listening; owned by the server from now on.
        pages: by path, the content type and the function that makes the body.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_HEAD_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(_reply(head, pages))
            async with asyncio.timeout(_HEAD_TIMEOUT_S):
                await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, sock=listener, limit=_MAX_HEAD_BYTES)


def _reply(head: bytes, pages: dict[str, Page]) -> bytes:
    words = head.split(b"\r\n", 1)[0].split(b" ")
    status, kind, body = 400, "text/plain; charset=utf-8", b"bad request\n"
    method = words[0]
    if len(words) == 3 and words[2].startswith(b"HTTP/1."):
        page = pages.get(words[1].split(b"?", 1)[0].decode("latin-1"))
        if page is None:
            status, body = 404, b"not found\n"
        elif method not in (b"GET", b"HEAD"):
            status, body = 405, b"method not allowed\n"
        else:
            status, kind, body = 200, page[0], page[1]()
    fields = (
        f"HTTP/1.1 {status} {_REASONS[status]}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "X-Content-Type-Options: nosniff",
        "Cache-Control: no-store",
        "Connection: close",
    )
    return "\r\n".join((*fields, "", "")).encode("latin-1") + (b"" if method == b"HEAD" else body)
