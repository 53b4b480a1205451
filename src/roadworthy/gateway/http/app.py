"""The worker's ASGI application for everything but predictions.

`connection.py` calls it through uvicorn. It checks the head (`header_checks.py`), finds the handler by the raw path, and sends
the handler's reply. `routes.py` has the routes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from roadworthy.foundation.errors import RoadworthyError
from roadworthy.foundation.ids import PredictionIds, request_id
from roadworthy.gateway.http.header_checks import HeaderChecks
from roadworthy.gateway.http.health import probe_paths
from roadworthy.gateway.http.messages import Handler, Message, Receive, Reply, Request, Send, endpoint_not_ready
from roadworthy.gateway.http.problems import ErrorKeys, as_error, method_not_allowed, problem

Routes = Mapping[bytes, Mapping[str, Handler]]
"""Handlers by raw path and method. A path without handlers is a prediction's; its POST requests do not pass through here."""


class App:
    """`await app(scope, receive, send)`.

    Args:
        routes: returns the current routes; they change with every snapshot.
        unknown: returns the error for a request to a path without a route.
        error_keys: returns the keys of errors in the protocol of a path.
        checks: checks every request's head.
        refused: counts a refusal by its code.
        log_fault: logs an unexpected exception.
    """

    def __init__(
        self,
        routes: Callable[[], Routes],
        unknown: Callable[[Request], RoadworthyError],
        error_keys: Callable[[bytes], ErrorKeys | None],
        checks: HeaderChecks,
        refused: Callable[[str], None],
        log_fault: Callable[[str, Request, Exception], None],
    ) -> None:
        self._routes = routes
        self._unknown = unknown
        self._error_keys = error_keys
        self._checks = checks
        self._refused = refused
        self._log_fault = log_fault
        self._next_id = PredictionIds().next
        self._probes = probe_paths()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        request = Request(scope["method"], scope["raw_path"], headers, self._next_id(), time.monotonic())
        request.root = scope.get("root_path", "")
        try:
            self._checks.check(scope["headers"], headers, any_host=request.path in self._probes)
            request.id = request_id(headers.get(b"x-request-id")) or request.id
            reply = await self._dispatch(request, receive)
        except Exception as error:  # noqa: BLE001 - the outermost edge: the connection always gets an answer
            reply = self._refuse(request, error)
        answered = reply.headers
        answered.append((b"content-length", b"%d" % len(reply.body)))
        answered.append((b"x-request-id", request.id.encode()))
        if request.leaves_much_unread:
            answered.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": answered})
        await send({"type": "http.response.body", "body": reply.body})

    async def _dispatch(self, request: Request, receive: Receive) -> Reply:
        methods = self._routes().get(request.path)
        if methods is None:
            raise self._unknown(request)
        handler = methods.get(request.method)
        if handler is None and not methods and request.method == "POST":
            # The prediction was not served yet when the connection looked for it, a moment ago.
            raise endpoint_not_ready()
        if handler is None:
            return method_not_allowed(sorted(methods) or ["POST"], request.id)
        return await handler(request, receive)

    def _refuse(self, request: Request, error: Exception) -> Reply:
        """The reply to a failure outside of a prediction."""
        if not isinstance(error, RoadworthyError):
            self._log_fault("", request, error)
        shown = as_error(error)
        self._refused(shown.code)
        return problem(shown, request.id, self._error_keys(request.path))
