"""The one place where an error becomes a reply: status by class, one JSON form, and nothing that callers must not see."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from roadworthy.foundation.errors import (
    BodyTooLarge,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InputRefused,
    InvalidInput,
    InvalidRequest,
    ModelFault,
    NotFound,
    RequestTimeout,
    RoadworthyError,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from roadworthy.gateway.http.messages import Reply

_STATUS: dict[type[RoadworthyError], int] = {
    InvalidInput: 422,
    BodyTooLarge: 413,
    UnsupportedMediaType: 415,
    RequestTimeout: 408,
    InvalidRequest: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    DeadlineExceeded: 504,
    Unavailable: 503,
    InputRefused: 422,
    ModelFault: 500,
}
_encode = msgspec.json.Encoder().encode
ErrorKeys = Callable[[int, str], Mapping[str, Any]]
"""See `WireProtocol.error_keys`."""
_UNEXPECTED = RoadworthyError(
    "an unexpected error occurred on this gateway",
    code="internal",
    hint="report it with the request id; the log has the details",
)


def as_error(error: Exception) -> RoadworthyError:
    """The error to show for any exception: itself, or "internal" for an unexpected one."""
    return error if isinstance(error, RoadworthyError) else _UNEXPECTED


def status_of(error: RoadworthyError) -> int:
    """The HTTP status of an error, by its nearest listed class."""
    return next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500)


def problem(error: RoadworthyError, request_id: str, error_keys: ErrorKeys | None = None) -> Reply:
    """`{"error", "code", "hint", "request_id", …facts}`; `error` is the key that clients of KServe's protocols read.
    `error_keys` gives the keys that clients of another protocol read."""
    status = status_of(error)
    more = {} if error_keys is None else error_keys(status, error.message)
    body = {"error": error.message, "code": error.code, "hint": error.hint, "request_id": request_id}
    reply = Reply(status, _encode({**error.facts, **more, **body}))
    if error.retry_after_s is not None:
        reply.headers.append((b"retry-after", b"%d" % math.ceil(error.retry_after_s)))
    if reply.status == 401:
        reply.headers.append((b"www-authenticate", b'Bearer realm="roadworthy"'))
    return reply


def method_not_allowed(allowed: list[str], request_id: str) -> Reply:
    """The 405 reply for a path that exists."""
    names = ", ".join(allowed)
    error = InvalidRequest("this path does not accept that method", code="method-not-allowed", hint=f"use {names}")
    reply = problem(error, request_id)
    reply.status = 405
    reply.headers.append((b"allow", names.encode("ascii")))
    return reply
