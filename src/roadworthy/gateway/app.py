"""The worker's ASGI application: a connection's request becomes a Request, a route's Reply goes back. uvicorn is the caller.

It decides nothing about predictions: it checks what holds for every request (host, duplicate headers, request id), finds the
route by the raw path, and sends what the route answers. `routes.py` says what there is.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping

from roadworthy.foundation.errors import InvalidRequest, RoadworthyError
from roadworthy.foundation.ids import PredictionIds
from roadworthy.gateway.http import Handler, Message, Receive, Reply, Request, Send
from roadworthy.gateway.metrics import WorkerMetrics
from roadworthy.gateway.problems import as_error, method_not_allowed, problem

Routes = Mapping[bytes, Mapping[str, Handler]]
"""Raw path to method to handler."""

_SINGLE = (
    b"host",
    b"authorization",
    b"x-api-key",
    b"content-type",
    b"content-encoding",
    b"content-length",
    b"x-request-id",
)
_SAFE_ID = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,128}")
_HOST = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
_MOST_HOSTS = 256


class App:
    """`await app(scope, receive, send)`.

    Args:
        routes: gives the present routes; they change with every snapshot.
        unknown: raises what a request to a path that is no route deserves.
        allowed_hosts: names that the Host header may have, without port; "*" allows any.
        log_fault: writes down an exception that nobody foresaw.
    """

    def __init__(
        self,
        routes: Callable[[], Routes],
        unknown: Callable[[Request], RoadworthyError],
        metrics: WorkerMetrics,
        allowed_hosts: Collection[str],
        log_fault: Callable[[str, Request, Exception], None],
    ) -> None:
        self._routes = routes
        self._unknown = unknown
        self._metrics = metrics
        self._any_host = "*" in allowed_hosts
        self._allowed_hosts = frozenset(host.lower().encode() for host in allowed_hosts)
        self._good_hosts: set[bytes | None] = set()
        self._log_fault = log_fault
        self._next_id = PredictionIds().next

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, self._next_id(), time.monotonic())
        try:
            self._check(request, scope)
            reply = await self._dispatch(request, receive)
        except Exception as error:  # noqa: BLE001 - the outermost border: the connection always gets an answer
            reply = self._refuse(request, error)
        headers = reply.headers
        headers.append((b"content-length", b"%d" % len(reply.body)))
        headers.append((b"x-request-id", request.id.encode()))
        if reply.status >= 400 and request.leaves_much_unread:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def _dispatch(self, request: Request, receive: Receive) -> Reply:
        methods = self._routes().get(request.path)
        if methods is None:
            raise self._unknown(request)
        handler = methods.get(request.method)
        if handler is None:
            return method_not_allowed(sorted(methods), request.id)
        return await handler(request, receive)

    def _check(self, request: Request, scope: Message) -> None:
        headers = request.headers
        if len(headers) != len(scope["headers"]):
            _refuse_duplicates([name for name, _ in scope["headers"]])
        asked = headers.get(b"x-request-id")
        if asked is not None and _SAFE_ID.fullmatch(asked):
            request.id = asked.decode("ascii")
        host = headers.get(b"host")
        if host not in self._good_hosts:
            self._check_host(host)

    def _check_host(self, host: bytes | None) -> None:
        """Only names that this gateway is known by: a page of another site must not reach it through a name of its own."""
        match = _HOST.fullmatch((host or b"").lower())
        if match is None:
            raise InvalidRequest("the Host header is missing or no host", code="invalid-host")
        if not self._any_host and match[1] not in self._allowed_hosts:
            raise InvalidRequest(
                "this gateway is not known by that host name",
                code="host-not-allowed",
                hint="call it by a name in its allowed_hosts",
            )
        if len(self._good_hosts) < _MOST_HOSTS:
            self._good_hosts.add(host)

    def _refuse(self, request: Request, error: Exception) -> Reply:
        """The reply for what failed outside of a prediction."""
        if not isinstance(error, RoadworthyError):
            self._log_fault("", request, error)
        shown = as_error(error)
        self._metrics.refused("", shown.code)
        return problem(shown, request.id)


def _refuse_duplicates(names: list[bytes]) -> None:
    for name in _SINGLE:
        if names.count(name) > 1:
            raise InvalidRequest(
                "a header that may occur once was sent twice",
                code="duplicate-header",
                facts={"header": name.decode("ascii")},
            )
