"""Turns every error into a problem reply (RFC 9457). The only file of the control plane that knows HTTP statuses."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from roadworthy.foundation import errors
from roadworthy.foundation.errors import InvalidInput, InvalidRequest, RoadworthyError
from roadworthy.store.engine import disk_full

_STATUS: tuple[tuple[type[RoadworthyError], int], ...] = (
    (errors.InvalidInput, 422),
    (errors.BodyTooLarge, 413),
    (errors.UnsupportedMediaType, 415),
    (errors.InvalidRequest, 400),
    (errors.Unauthenticated, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.DeadlineExceeded, 504),
    (errors.Unavailable, 503),
    (errors.PackageError, 422),
)
_TITLES = {
    400: "Bad request",
    401: "Unauthenticated",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    413: "Too large",
    415: "Unsupported media type",
    422: "Refused",
    500: "Internal error",
    503: "Unavailable",
    504: "Too late",
}
_MOST_NAME = 200
"""Characters of a field's path that a problem repeats: callers choose the names of keys."""
_MOST_FAULTS = 20
PROBLEM_JSON = "application/problem+json"
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG})
_log = structlog.get_logger()


def status_of(error: RoadworthyError) -> int:
    """The HTTP status of an error, by its class."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def problem(error: RoadworthyError, request_id: str, status: int | None = None) -> Response:
    """The problem reply for an error."""
    code = status or status_of(error)
    body: dict[str, Any] = {
        **error.facts,
        "type": f"https://roadworthy.invalid/errors#{error.code}",
        "title": _TITLES.get(code, "Error"),
        "status": code,
        "detail": error.message,
        "code": error.code,
        "hint": error.hint,
        "request_id": request_id,
    }
    headers = {"X-Request-Id": request_id}
    if code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    return Response(json.dumps(body, default=str), status_code=code, headers=headers, media_type=PROBLEM_JSON)


def invalid_fields(faults: Sequence[tuple[str, str]]) -> InvalidInput:
    """The error for a request with faults; facts["fields"] has the place and the problem of each."""
    fields = [{"name": name[:_MOST_NAME], "problem": text} for name, text in faults[:_MOST_FAULTS]]
    name, text = fields[0].values()
    return InvalidInput(f"{name}: {text}" if name else text, code=InvalidRequest.code, facts={"fields": fields})


def _methods(request: Request) -> list[str]:
    """The methods that a path accepts: several routes may share it, and each knows only its own method."""
    routes = request.app.router.routes
    return [
        method
        for method in ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]


def install(app: FastAPI) -> None:
    """Register the handlers that translate errors."""

    @app.exception_handler(RoadworthyError)
    async def roadworthy(request: Request, error: Exception) -> Response:
        assert isinstance(error, RoadworthyError)  # noqa: S101  (registered for this class)
        if status_of(error) >= 500:
            _log.warning("request-failed", code=error.code, request_id=request.state.request_id)
        return problem(error, request.state.request_id)

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101  (registered for this class)
        faults = [(".".join(str(part) for part in fault["loc"][1:]), fault["msg"]) for fault in error.errors()]
        return problem(invalid_fields(faults), request.state.request_id)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101  (registered for this class)
        if isinstance(error.__cause__, RoadworthyError):  # the error that interrupted the reading of the body
            return problem(error.__cause__, request.state.request_id)
        code = {404: "unknown-route", 405: "method-not-allowed"}.get(error.status_code, "invalid-request")
        known = RoadworthyError(str(error.detail), code=code, hint="the API is described at /docs")
        reply = problem(known, request.state.request_id, error.status_code)
        if error.status_code == 405:
            reply.headers["Allow"] = ", ".join(_methods(request))
        return reply

    @app.exception_handler(OSError)
    async def disk(request: Request, error: Exception) -> Response:
        request_id = request.state.request_id
        if getattr(error, "errno", None) not in _DISK:
            _log.error("unforeseen-error", request_id=request_id, exc_info=error)
            return problem(RoadworthyError("internal error", hint="report it with the request id"), request_id)
        _log.error("disk-refuses", request_id=request_id, reason=str(error))
        return problem(disk_full(), request_id)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        request_id = request.state.request_id
        _log.error("unforeseen-error", request_id=request_id, exc_info=error)
        return problem(RoadworthyError("internal error", hint="report it with the request id"), request_id)
