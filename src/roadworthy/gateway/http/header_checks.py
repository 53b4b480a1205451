"""Checks for the head of every request, whatever its path: a known host and no repeated headers."""

from __future__ import annotations

import re
from collections.abc import Collection

import httptools

from roadworthy.codecs.codec import HeaderList
from roadworthy.foundation.errors import InvalidRequest, RequestTimeout

MOST_HEADERS = 100
MOST_HEADER_BYTES = 32 << 10
MOST_URL_BYTES = 16 << 10

_SINGLE = (
    b"host",
    b"authorization",
    b"x-api-key",
    b"content-type",
    b"content-encoding",
    b"content-length",
    b"transfer-encoding",
    b"request-timeout-ms",
    b"x-request-id",
)
_HOST = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")
_MOST_HOSTS = 256
# Some servers and proxies read an underscore as a hyphen; requests are smuggled by two readings of where a body ends.
MISREAD = frozenset({b"content_length", b"transfer_encoding"})
FRAMING = frozenset({b"content-length", b"transfer-encoding"})
NOT_IN_TRAILERS = frozenset({*_SINGLE, b"connection", b"trailer", b"te", b"expect", b"cookie"})


def ambiguous(headers: dict[bytes, bytes]) -> bool:
    """Whether two readers could find different ends of the message that these headers begin."""
    connection = headers.get(b"connection")
    if connection is not None and connection.lower() not in (b"keep-alive", b"close"):
        named = {token.strip() for token in connection.lower().split(b",")}
        if named & FRAMING:
            return True
    encoding = headers.get(b"transfer-encoding")
    return encoding is not None and (encoding.strip().lower() != b"chunked" or b"content-length" in headers)


class HeaderChecks:
    """Checks heads.

    Args:
        allowed_hosts: names that the Host header may have, without a port; "*" allows any.
    """

    def __init__(self, allowed_hosts: Collection[str]) -> None:
        self._any_host = "*" in allowed_hosts
        self._allowed_hosts = frozenset(host.lower().encode() for host in allowed_hosts)
        self._good_hosts: set[bytes | None] = set()

    def check(self, headers: HeaderList, unique: dict[bytes, bytes], *, any_host: bool = False) -> None:
        """Check the headers, as sent and by name. With `any_host` the Host header is not checked.

        Raises:
            InvalidRequest: "duplicate-header", "invalid-host", "host-not-allowed".
        """
        if len(headers) != len(unique):
            _refuse_duplicates([name for name, _ in headers])
        if unique.get(b"host") not in self._good_hosts and not any_host:
            self._check_host(unique.get(b"host"))

    def check_target(self, url: bytes) -> None:
        """Check a target that is a whole URL, as clients send it to proxies. Its host is checked like the Host header.

        Raises:
            Unreadable: the target is no http or https URL with a host, or has user information.
            InvalidRequest: see `check`.
        """
        try:
            parts = httptools.parse_url(url)
        except httptools.HttpParserInvalidURLError:
            raise not_http() from None
        if parts.schema not in (b"http", b"https") or parts.userinfo or not parts.host:
            raise not_http()
        self._check_host(parts.host if parts.port is None else b"%b:%d" % (parts.host, parts.port))

    def _check_host(self, host: bytes | None) -> None:
        """Accept only names of this gateway: a page of another site must not reach it through that site's own name."""
        match = _HOST.fullmatch((host or b"").lower())
        if match is None:
            raise InvalidRequest("the Host header is missing or is not a host name", code="invalid-host")
        if not self._any_host and match[1] not in self._allowed_hosts:
            raise InvalidRequest(
                "the Host header names a host that this gateway does not accept",
                code="host-not-allowed",
                hint="use one of the gateway's own names, or add this one to the setting gateway.allowed_hosts "
                "(in the environment: ROADWORTHY_GATEWAY_ALLOWED_HOSTS)",
            )
        if len(self._good_hosts) < _MOST_HOSTS:
            self._good_hosts.add(host)


class Unreadable(Exception):
    """A message that is not valid HTTP, too long, or too slow. The connection closes with this reply.

    Attributes:
        status: of the reply.
        error: in the reply.
    """

    def __init__(self, status: int, error: InvalidRequest) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error


def too_many_headers() -> Unreadable:
    """The refusal of too many or too long headers."""
    error = InvalidRequest(
        f"the request has more than {MOST_HEADERS} headers, or more than {MOST_HEADER_BYTES} bytes of headers",
        code="headers-too-large",
        hint="send fewer and shorter headers",
        facts={"max_headers": MOST_HEADERS, "max_header_bytes": MOST_HEADER_BYTES},
    )
    return Unreadable(431, error)


def too_long_url() -> Unreadable:
    """The refusal of a URL longer than any of the gateway's."""
    error = InvalidRequest(
        f"the URL is longer than {MOST_URL_BYTES} bytes",
        code="url-too-long",
        hint="send data in the body",
        facts={"max_url_bytes": MOST_URL_BYTES},
    )
    return Unreadable(414, error)


def not_http() -> Unreadable:
    """The refusal of a message that the parser rejects, or that two readers could understand differently."""
    error = InvalidRequest("this is not a valid HTTP request", code="malformed-http", hint="use an HTTP/1.1 client")
    return Unreadable(400, error)


def other_version() -> Unreadable:
    """The refusal of a version other than HTTP/1.0 or HTTP/1.1."""
    error = InvalidRequest("this version of HTTP is not supported", code="http-version", hint="use HTTP/1.1 without an upgrade")
    return Unreadable(505, error)


def too_slow() -> Unreadable:
    """The refusal of a head that does not arrive in time."""
    error = RequestTimeout("the request took too long to arrive", hint="send it faster, or in smaller parts")
    return Unreadable(408, error)


def _refuse_duplicates(names: list[bytes]) -> None:
    for name in _SINGLE:
        if names.count(name) > 1:
            raise InvalidRequest(
                f"the header {name.decode('ascii')} was sent twice",
                code="duplicate-header",
                hint="send it once",
                facts={"header": name.decode("ascii")},
            )
