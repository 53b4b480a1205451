"""The checks that every request passes before any route: host, request id, key and role, and size of the body. It is raw ASGI, so
that no route can bypass it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import structlog

from roadworthy.access.principal import Principal, role_for
from roadworthy.contract.api.operation import GATEWAY, MANAGE, Operation
from roadworthy.control.http import page
from roadworthy.control.http.problems import problem
from roadworthy.foundation.errors import BodyTooLarge, Forbidden, InvalidRequest, RoadworthyError, Unauthenticated
from roadworthy.foundation.ids import random_id, request_id
from roadworthy.foundation.sockets import LOOPBACK_HOSTS

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

PROBES = frozenset({"/livez", "/readyz"})
"""Answered for any Host header: a probe calls by the address of a machine or container, which is in no list of hosts."""
OPEN = PROBES | frozenset({"/openapi.json", page.PAGE, page.SCRIPT, page.STYLE, page.ICON})
"""Paths that need no key: probes, and the API's description, which is the same for every installation."""

_UPLOADS = re.compile(r"/api/v1/packages|/internal/v1/(telemetry|records/.+)")
"""Paths whose bodies become files; their routes bound the size (`uploads.py`)."""
MOST_BODY_BYTES = 1 << 20
"""Largest body of a request to any other path. Its JSON is read as a whole and takes many times as much memory."""
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?", re.ASCII)
_log = structlog.get_logger()


class AuthMiddleware:
    """Checks each request and passes it to the application.

    Args:
        operations: of the application; each declares the permission that it needs. Any other path needs that of an admin, or of
            a gateway below /internal/.
        principal: finds the principal with a key's text.
    """

    def __init__(
        self,
        app: ASGIApp,
        operations: Sequence[Operation[Any]],
        principal: Callable[[str], Principal | None],
        allowed_hosts: Collection[str],
    ) -> None:
        self._app = app
        self._operations = operations
        self._principal = principal
        self._hosts = {*LOOPBACK_HOSTS, *(host.lower() for host in allowed_hosts)}
        self._any_host = "*" in allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request. Only HTTP and the lifespan are accepted."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        own = request_id(headers.get(b"x-request-id", "").encode("latin-1")) or random_id("req")
        state = scope.setdefault("state", {})
        state["request_id"] = own
        reply = _Reply(send, own)
        try:
            if scope["path"] not in PROBES:
                self._check_host(headers.get(b"host", ""))
            state["principal"] = self._check_key(scope, headers.get(b"authorization", ""))
            _check_target(scope)
            if not _UPLOADS.fullmatch(scope["path"]):
                receive = _Body(receive, headers.get(b"content-length", "0"))
            await self._app(scope, receive, reply)
        except RoadworthyError as error:
            await problem(error, own)(scope, receive, reply)
        except Exception:
            # The application has answered and logged it, and raises it again for the server to print.
            if not reply.status:
                raise
        finally:
            principal: Principal | None = state.get("principal")
            reply.log(scope, principal.who if principal is not None else "")

    def _check_host(self, host: str) -> None:
        match = _HOST.fullmatch(host)
        if match is None or not (self._any_host or match[1].lower() in self._hosts):
            raise InvalidRequest(
                "the Host header does not name this server",
                code="host-not-allowed",
                hint="use one of this server's names, or add this one to the setting control.allowed_hosts "
                "(ROADWORTHY_CONTROL_ALLOWED_HOSTS in the environment)",
            )

    def _check_key(self, scope: Scope, authorization: str) -> Principal | None:
        if scope["path"] in OPEN:
            return None
        scheme, _, text = authorization.partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            raise Unauthenticated(
                "this request needs an API key",
                code="no-key",
                hint="send the header `Authorization: Bearer KEY` with an API key of this installation",
            )
        principal = self._principal(text.strip())
        if principal is None:
            raise Unauthenticated(
                "unknown API key",
                code="unknown-key",
                hint="the key may be revoked or belong to another installation; ask an administrator for a new one",
            )
        permission = self._permission(scope["method"], scope["path"])
        if permission not in principal.scopes:
            raise Forbidden(f"this request needs a key of the role {role_for(permission)}", hint="ask an administrator for one")
        return principal

    def _permission(self, method: str, path: str) -> str:
        """The permission that a request needs."""
        usual = GATEWAY if path.startswith("/internal/") else MANAGE
        return next((each.permission for each in self._operations if each.matches(method, path)), usual)


def _check_target(scope: Scope) -> None:
    """No valid name contains NUL, and PostgreSQL cannot store it."""
    if "\0" in scope["path"] or b"%00" in scope["query_string"]:
        raise InvalidRequest("the path or the query contains a NUL character", hint="send names without it")


class _Body:
    """Receives a body of at most MOST_BODY_BYTES: checks Content-Length before reading, and the bytes while reading."""

    def __init__(self, receive: Receive, declared: str) -> None:
        self._receive = receive
        self._left = MOST_BODY_BYTES
        if declared.isascii() and declared.isdigit():
            self._take(int(declared[:20]), 0)

    async def __call__(self) -> Message:
        message = await self._receive()
        size = len(message.get("body", b""))
        self._take(size, size)
        return message

    def _take(self, wanted: int, taken: int) -> None:
        if wanted > self._left:
            raise BodyTooLarge(
                f"the body is longer than {MOST_BODY_BYTES >> 10} KiB",
                hint="send less in one request",
                facts={"limit_bytes": MOST_BODY_BYTES},
            )
        self._left -= taken


class _Reply:
    """Sends a reply with the request's id, and keeps what the log needs."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self._started = time.monotonic()
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            others = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"x-request-id"]
            message["headers"] = [*others, (b"x-request-id", self._request_id.encode("ascii"))]
        await self._send(message)

    def log(self, scope: Scope, actor: str) -> None:
        """Write one line for the request; at level debug for probes and traffic of gateways."""
        quiet = scope["path"] in OPEN or scope["path"].startswith("/internal/")
        say = _log.debug if quiet and self.status < 500 else _log.info
        say(
            "request",
            request_id=self._request_id,
            method=scope["method"],
            path=scope["path"],
            status=self.status,
            actor=actor,
            seconds=round(time.monotonic() - self._started, 4),
        )
