"""`rw.wsgi_app`: mounted endpoints as an application for WSGI servers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from queue import SimpleQueue
from typing import Any

from roadworthy.embedded.endpoint import EmbeddedEndpoint
from roadworthy.embedded.mounts import Begun, Exchange, Head, Mount, Told, declared_length, plain, to_root
from roadworthy.foundation.errors import RoadworthyError

StartResponse = Callable[..., Any]
WSGIApp = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


def wsgi_app(*endpoints: EmbeddedEndpoint) -> WSGIApp:
    """The same as `asgi_app` for WSGI servers: Flask, Django, gunicorn.

    Raises:
        InvalidRequest: "no-endpoint".
    """
    return _Wsgi(endpoints)


class _Wsgi(Mount):
    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        head, told = _wsgi_head(environ), SimpleQueue[Told]()
        try:
            _, routes = self.routes()
            if not head.path:
                return _started(start_response, to_root(head), head)
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
    stream, declared = environ["wsgi.input"], declared_length(head)
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


def _started(start_response: StartResponse, begun: Begun, head: Head) -> list[bytes]:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in plain(begun.headers)]
    start_response(f"{begun.status} {HTTPStatus(begun.status).phrase}", headers)
    return [b"" if begun.body is None or head.method == "HEAD" else begun.body]
