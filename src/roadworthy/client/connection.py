"""HTTP connections to one server: send requests and raise a typed error for every reply that is not a success.

No request is repeated. A key goes only to the address that it was given for, and never into a message.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from roadworthy.foundation import errors
from roadworthy.foundation.errors import ClientError, RoadworthyError
from roadworthy.settings import ClientSettings
from roadworthy.version import __version__

_BY_STATUS: Mapping[int, type[RoadworthyError]] = {
    400: errors.InvalidRequest,
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
    413: errors.BodyTooLarge,
    415: errors.UnsupportedMediaType,
    422: errors.InvalidInput,
    503: errors.Unavailable,
    504: errors.DeadlineExceeded,
}
_KNOWN = ("error", "detail", "title", "type", "status", "code", "hint")
_CONNECT_S = 60.0
"""Longest time to connect, however long the reply may take."""
_END_S = 0.05
"""So long the end of a body is awaited after its last event."""
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class Request:
    """A request.

    Attributes:
        server: "gateway" or "control plane".
        body: sent as JSON. content: bytes, or blocks of them, to be sent as they are.
        timeout_s: for the reply, in seconds; None for that of the client.
        sink: takes the blocks of a successful reply's body, which is then not kept.
    """

    server: str
    method: str
    path: str
    params: Mapping[str, str | list[str]] = field(default_factory=dict)
    body: Any = None
    content: bytes | Iterable[bytes] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    sink: Callable[[bytes], object] | None = None

    def options(self) -> dict[str, Any]:
        """As arguments of httpx."""
        headers, content = dict(self.headers), self.content
        if self.body is not None:
            headers, content = {**headers, "Content-Type": "application/json"}, msgspec.json.encode(self.body)
        timeout = None if self.timeout_s is None else httpx.Timeout(self.timeout_s, connect=_CONNECT_S)
        given = {"params": self.params, "headers": headers, "content": content, "timeout": timeout}
        return {name: value for name, value in given.items() if value is not None}


class _Server:
    """The address of a server, and what its replies mean."""

    def __init__(self, url: str, settings: ClientSettings, what: str) -> None:
        self.url = url.rstrip("/")
        self._what = what
        headers = {"User-Agent": f"roadworthy/{__version__}"}
        if settings.key is not None:
            headers["Authorization"] = f"Bearer {settings.key}"
        address = urlsplit(self.url)
        self._options: dict[str, Any] = {
            "base_url": self.url,
            "headers": headers,
            "timeout": settings.timeout_s,
            # loading the machine's certificates takes longer than a call; without TLS an empty context is enough
            "verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if address.scheme == "http" else True,
            "trust_env": address.hostname not in _LOOPBACK,  # a proxy cannot reach loopback, and must not see the key
        }

    def _timeout_s(self, given_s: float | None) -> float:
        own_s: float = self._options["timeout"]
        return own_s if given_s is None else given_s

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        """Translate httpx's errors into ours."""
        try:
            yield
        except httpx.ConnectTimeout as error:
            raise self._unreachable() from error
        except httpx.TimeoutException as error:
            raise ClientError(
                f"the {self._what} did not answer in time",
                code="timed-out",
                hint="it may still be working; raise the timeout, or check whether it is overloaded",
                facts={"url": self.url},
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable() from error

    def _unreachable(self) -> ClientError:
        return ClientError(
            f"no {self._what} answers at {self.url}",
            code="unreachable",
            hint="start it with `roadworthy up`, or give the right address",
            facts={"url": self.url},
        )

    def _checked(self, reply: httpx.Response) -> httpx.Response:
        if reply.is_success:
            return reply
        document = _object(reply)
        if document is None or not isinstance(document.get("code"), str):
            raise unexpected_reply(reply, self._what)
        raise error_from(document, reply.status_code, _seconds(reply.headers.get("retry-after")))


class _Unread:
    """The body of a successful reply, read as it comes.

    Attributes:
        reply: its head. between_s: timeout of each read, in seconds.
        parts: how many parts of it have come, for the facts of errors.
    """

    def __init__(self, reply: httpx.Response, what: str, between_s: float) -> None:
        self.reply = reply
        self.between_s = between_s
        self.parts = 0
        self._what = what
        self._ended = False
        reply.request.extensions["timeout"]["read"] = between_s

    def end(self) -> None:
        """Everything that is wanted has come. One more `read` finds the end of the body if it is there, and keeps the connection
        for another request; without it the read does not fail."""
        self._ended = True
        self.reply.request.extensions["timeout"]["read"] = _END_S

    def failed(self, error: httpx.HTTPError) -> None:
        """A read has failed; after `end` that does not matter.

        Raises:
            ClientError: code "timed-out" or "answer-cut-short".
        """
        if not self._ended:
            raise (self.too_late() if isinstance(error, httpx.TimeoutException) else self.cut_short()) from error

    def too_late(self) -> ClientError:
        """The error for a part that does not come in time."""
        return ClientError(
            f"the {self._what} did not send the next part in time",
            code="timed-out",
            hint="raise between_s, or check whether the model still works",
            facts={"parts": self.parts},
        )

    def cut_short(self) -> ClientError:
        """The error for a body without its end."""
        return ClientError(
            "the connection closed before the answer had ended",
            code="answer-cut-short",
            hint="ask again; a proxy on the way may close idle connections",
            facts={"parts": self.parts},
        )


class Body(_Unread):
    """A body that blocks while it is read."""

    def __init__(self, reply: httpx.Response, what: str, between_s: float) -> None:
        super().__init__(reply, what, between_s)
        self._blocks = reply.iter_bytes()

    def read(self) -> bytes:
        """The next bytes; b"" at the end.

        Raises:
            ClientError: code "timed-out" or "answer-cut-short".
        """
        try:
            return next(self._blocks, b"")
        except httpx.HTTPError as error:
            self.failed(error)
            return b""

    def close(self) -> None:
        """Read no further: the server gives up what it has not sent."""
        self.reply.close()


class AsyncBody(_Unread):
    """A body to be awaited."""

    def __init__(self, reply: httpx.Response, what: str, between_s: float) -> None:
        super().__init__(reply, what, between_s)
        self._blocks = reply.aiter_bytes()

    async def read(self) -> bytes:
        """As `Body.read`."""
        try:
            return await anext(self._blocks, b"")
        except httpx.HTTPError as error:
            self.failed(error)
            return b""

    async def close(self) -> None:
        """As `Body.close`."""
        await self.reply.aclose()


class Connection(_Server):
    """Keep-alive connections to one address that block.

    Args:
        url: http:// or https://, without a path.
        settings: its key, if any, is sent as a bearer token; timeout of each request.
        what: "gateway" or "control plane", for error messages.
    """

    def __init__(self, url: str, settings: ClientSettings, what: str) -> None:
        super().__init__(url, settings, what)
        self._http = httpx.Client(**self._options)

    def send(self, request: Request) -> httpx.Response:
        """Send a request and return the successful reply, read whole unless the request has a sink.

        Raises:
            ClientError: code "unreachable", "timed-out" or "unexpected-reply".
            RoadworthyError: the server's error, in the class of its code, with its hint and facts, among them "request_id" and
                "status".
        """
        with self._translating(), self._http.stream(request.method, request.path, **request.options()) as reply:
            if request.sink is None or not reply.is_success:
                reply.read()
                return self._checked(reply)
            for block in reply.iter_bytes():
                request.sink(block)
            return reply

    def open(self, request: Request, between_s: float | None) -> Body:
        """Send a request and return the body of its successful reply unread. `between_s`: timeout of each read, in seconds; None
        for that of the client.

        Raises:
            As `send`.
        """
        with self._translating():
            reply = self._http.send(self._http.build_request(request.method, request.path, **request.options()), stream=True)
            if not reply.is_success:
                with contextlib.closing(reply):
                    reply.read()
                    self._checked(reply)
        return Body(reply, self._what, self._timeout_s(between_s))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


class AsyncConnection(_Server):
    """Keep-alive connections to one address, as `Connection`, to be awaited."""

    def __init__(self, url: str, settings: ClientSettings, what: str) -> None:
        super().__init__(url, settings, what)
        self._http = httpx.AsyncClient(**self._options)

    async def send(self, request: Request) -> httpx.Response:
        """As `Connection.send`."""
        options = request.options()
        if isinstance(request.content, Iterable) and not isinstance(request.content, bytes):
            options["content"] = _blocks(request.content)
        with self._translating():
            async with self._http.stream(request.method, request.path, **options) as reply:
                if request.sink is None or not reply.is_success:
                    await reply.aread()
                    return self._checked(reply)
                async for block in reply.aiter_bytes():
                    request.sink(block)
                return reply

    async def open(self, request: Request, between_s: float | None) -> AsyncBody:
        """As `Connection.open`."""
        with self._translating():
            asked = self._http.build_request(request.method, request.path, **request.options())
            reply = await self._http.send(asked, stream=True)
            if not reply.is_success:
                async with contextlib.aclosing(reply):
                    await reply.aread()
                    self._checked(reply)
        return AsyncBody(reply, self._what, self._timeout_s(between_s))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


async def _blocks(content: Iterable[bytes]) -> AsyncIterator[bytes]:
    for block in content:
        yield block


def document_of(reply: httpx.Response, what: str) -> dict[str, Any]:
    """A reply's JSON object.

    Raises:
        ClientError: code "unexpected-reply": the reply is not a JSON object.
    """
    if (document := _object(reply)) is None:
        raise unexpected_reply(reply, what)
    return document


def unexpected_reply(reply: httpx.Response, what: str) -> ClientError:
    """The error for a reply that such a server does not send."""
    url = str(reply.request.url.copy_with(path="", query=None)).rstrip("/")
    return ClientError(
        f"the server at {url} is not a Roadworthy {what} (status {reply.status_code})",
        code="unexpected-reply",
        hint="check the address",
        facts={"status": reply.status_code},
    )


def _object(reply: httpx.Response) -> dict[str, Any] | None:
    """The JSON object that a reply holds, if it does."""
    try:
        document = reply.json()
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def error_from(document: Mapping[str, Any], status: int, retry_after_s: float | None = None) -> RoadworthyError:
    """The error that a server's document describes, in the class of its code, or else of the status."""
    code = str(document["code"])
    by_code = {kind.code: kind for kind in _tree(RoadworthyError) if kind is not RoadworthyError}
    kind = by_code.get(code) or _by_family(code) or _BY_STATUS.get(status, ClientError)
    hint = document.get("hint")
    return kind(
        str(document.get("error") or document.get("detail") or "the server refused the request"),
        code=code,
        hint=hint if isinstance(hint, str) else None,
        facts={**{name: value for name, value in document.items() if name not in _KNOWN}, "status": status},
        retry_after_s=retry_after_s,
    )


_REFUSALS = frozenset({"code-not-allowed", "python-mismatch", "requirement-mismatch", "unknown-runtime", "unknown-framework"})
_DAMAGES = frozenset({"not-a-package", "package-damaged", "package-format-newer", "signature-invalid", "unsafe-name"})
_FAULTS = frozenset(
    {
        "answer-too-large",
        "model-failed",
        "no-parts",
        "non-finite-output",
        "part-too-large",
        "wrong-output-count",
        "wrong-output-type",
    }
)


def _by_family(code: str) -> type[RoadworthyError] | None:
    """The class of an error whose code is more specific than the class's own code."""
    families = ((_REFUSALS, errors.PackageRefused), (_DAMAGES, errors.PackageInvalid), (_FAULTS, errors.ModelFault))
    return next((kind for codes, kind in families if code in codes), None)


def _tree(root: type[RoadworthyError]) -> Iterator[type[RoadworthyError]]:
    yield root
    for kind in root.__subclasses__():
        yield from _tree(kind)


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
