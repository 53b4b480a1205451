"""A23: the Host header, and paths that only look like routes."""

from __future__ import annotations

from typing import Any

import pytest

BODY = b'{"instances": [[1,2,3]]}'


def _send(target: Any, *head: bytes) -> bytes:
    lines = [*head, b"Content-Type: application/json", b"Content-Length: %d" % len(BODY), b"", BODY]
    return target.exchange(b"\r\n".join(lines))


@pytest.mark.parametrize("host", [b"localhost", b"127.0.0.1", b"LOCALHOST:8080", b"127.0.0.1:1", b"[::1]:8080"])
def test_a23_known_hosts(target: Any, host: bytes) -> None:
    """Names of this machine are accepted, with any port and in any case."""
    assert b" 200 " in _send(target, b"POST /v1/models/sum:predict HTTP/1.1", b"Host: " + host)[:20]


@pytest.mark.parametrize(
    "host",
    [b"evil.example", b"localhost.evil.example", b"localhost/?#", b"evil.example#@localhost", b"localhost:80:80",
     b"user@localhost", b"localhost evil", b"127.0.0.1.evil.example", b"localhost\\@evil", b""],
)  # fmt: skip
def test_a23_unknown_hosts(target: Any, host: bytes) -> None:
    """Any other name is refused before anything else is checked."""
    reply = _send(target, b"POST /v1/models/sum:predict HTTP/1.1", b"Host: " + host)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"host-not-allowed"' in reply or b'"code":"invalid-host"' in reply


@pytest.mark.parametrize("path", [b"/livez", b"/readyz", b"/v2/health/live", b"/v2/health/ready"])
@pytest.mark.parametrize("host", [b"Host: 10.1.2.3:8080", b"Host: evil.example", b"Host: a b", b"Host: ", b"X: y"])
def test_g13_probes_answer_whatever_the_host(target: Any, path: bytes, host: bytes) -> None:
    """Probes use the address of a container, or no name at all."""
    assert b" 200 " in target.exchange(b"GET %b HTTP/1.1\r\n%b\r\n\r\n" % (path, host))[:20]


def test_g13_a_refusal_names_the_setting(target: Any) -> None:
    """The setting that would allow the name, and its environment variable."""
    reply = _send(target, b"POST /v1/models/sum:predict HTTP/1.1", b"Host: evil.example")
    assert b"gateway.allowed_hosts" in reply
    assert b"ROADWORTHY_GATEWAY_ALLOWED_HOSTS" in reply


def test_a23_no_host_or_two(target: Any) -> None:
    """A request without a host, or with two, is refused."""
    assert b" 400 " in _send(target, b"POST /v1/models/sum:predict HTTP/1.1")[:20]
    two = _send(target, b"POST /v1/models/sum:predict HTTP/1.1", b"Host: localhost", b"Host: evil.example")
    assert two.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"duplicate-header"' in two


@pytest.mark.parametrize(
    "path",
    [b"/v1/models/%73um:predict", b"/v1/models//sum:predict", b"/v1/models/../models/sum:predict", b"/v1/models/sum:predict/",
     b"/V1/models/sum:predict", b"/v1/models/sum%2f:predict", b"/v1/models/sum:predict%00", b"/x/v1/models/sum:predict"],
)  # fmt: skip
def test_a23_only_the_literal_path_is_a_route(target: Any, path: bytes) -> None:
    """Paths are compared as sent: no other spelling reaches the endpoint."""
    assert b" 404 " in _send(target, b"POST %b HTTP/1.1" % path, b"Host: localhost")[:20]


@pytest.mark.parametrize("path", [b"/v1/models/sum%3Apredict", b"/v1/models/sum%3apredict", b"/v1/models/sum:predict?x=1"])
def test_a23_the_colon_may_be_escaped(target: Any, path: bytes) -> None:
    """Some clients escape the colon; a query is not part of the path."""
    assert b" 200 " in _send(target, b"POST %b HTTP/1.1" % path, b"Host: localhost")[:20]
