"""HTTP connection to one server: sends requests and raises a typed error for every reply that is not a success.

No request is repeated. A key goes only to the address that it was given for, and never into a message.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypedDict, Unpack
from urllib.parse import urlsplit

import httpx

from roadworthy.foundation import errors
from roadworthy.foundation.errors import ClientError, RoadworthyError
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
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class CallOptions(TypedDict, total=False):
    """Optional parts of a call, as in httpx."""

    params: Mapping[str, str | list[str]]
    json: Any
    content: bytes | Iterator[bytes]
    headers: Mapping[str, str]
    timeout: float | httpx.Timeout


class Connection:
    """Keep-alive connections to one address.

    Args:
        url: http:// or https://, without a path.
        key: sent as a bearer token; None sends no key.
        timeout_s: timeout of each request.
        what: "gateway" or "control plane", for error messages.
    """

    def __init__(self, url: str, key: str | None, timeout_s: float, what: str) -> None:
        self.url = url.rstrip("/")
        self._what = what
        headers = {"User-Agent": f"roadworthy/{__version__}"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        address = urlsplit(self.url)
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=timeout_s,
            # loading the machine's certificates takes longer than a call; without TLS an empty context is enough
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if address.scheme == "http" else True,
            trust_env=address.hostname not in _LOOPBACK,  # a proxy cannot reach loopback, and must not see the key
        )

    def call(self, method: str, path: str, **options: Unpack[CallOptions]) -> httpx.Response:
        """Send a request and return the successful reply, read whole.

        Raises:
            ClientError: code "unreachable", "timed-out" or "unexpected-reply".
            RoadworthyError: the server's error, in the class of its code, with its hint and facts, among them "request_id" and
                "status".
        """
        with self._translating():
            reply = self._http.request(method, path, **options)
        return self._checked(reply)

    def ask(self, method: str, path: str, **options: Unpack[CallOptions]) -> dict[str, Any]:
        """The JSON object of a call's reply. Raises the errors of `call` and `document`."""
        return self.document(self.call(method, path, **options))

    def read(self, path: str, timeout_s: float) -> Iterator[bytes]:
        """The body of a GET, block by block. Raises the errors of `call`."""
        with self._translating(), self._http.stream("GET", path, timeout=timeout_s) as reply:
            if not reply.is_success:
                reply.read()
                self._checked(reply)
            yield from reply.iter_bytes()

    def document(self, reply: httpx.Response) -> dict[str, Any]:
        """A reply's JSON object.

        Raises:
            ClientError: code "unexpected-reply": the reply is not a JSON object.
        """
        if (document := _object(reply)) is None:
            raise self._unexpected(reply)
        return document

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @contextmanager
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
            raise self._unexpected(reply)
        raise error_from(document, reply.status_code, _seconds(reply.headers.get("retry-after")))

    def _unexpected(self, reply: httpx.Response) -> ClientError:
        return ClientError(
            f"the server at {self.url} is not a Roadworthy {self._what} (status {reply.status_code})",
            code="unexpected-reply",
            hint="check the address",
            facts={"status": reply.status_code},
        )


def _object(reply: httpx.Response) -> dict[str, Any] | None:
    """The JSON object that a reply holds, if it does."""
    try:
        document = reply.json()
    except ValueError:
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
_FAULTS = frozenset({"wrong-output-count", "wrong-output-type", "model-failed"})


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
