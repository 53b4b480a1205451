"""Sends thousands of hostile requests, one per connection, and measures memory. Used by bench/hostile.py and by a test."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import psutil

from bench.load.hostile import CHUNKED, JSON, Route, shapes

TIMEOUT_S = 0.1
"""Seconds to wait for an answer: some requests are never completed."""
LIMIT_MIB = 1.0
"""Permitted growth of resident memory per 100 hostile requests."""


@dataclass(slots=True)
class Outcome:
    """The answers to a round of hostile requests.

    Attributes:
        sent: number of requests, each on its own connection.
        statuses: number of answers by status; 0 means no answer, -1 a refused connection.
    """

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)


def assaults(route: Route) -> list[bytes]:
    """All hostile requests: framing, heads, bodies, and unfinished requests."""
    return [shape.data for shape in shapes(route)] + _heads(route) + _bodies(route) + _unfinished(route)


def _heads(route: Route) -> list[bytes]:
    many = [b"X-%d: b" % number for number in range(500)]
    return [
        route.head(*many, b"Content-Length: 0"),
        route.head(b"X-A: " + b"a" * 131_072, b"Content-Length: 0"),
        Route(b"/" + b"a" * 262_144).head(b"Content-Length: 0"),
        Route(b"/%00%2e%2e/" * 500).head(b"Content-Length: 0"),
        route.head(b"Content-Length: 0").replace(b"Host: localhost", b"Host: evil.example/?#"),
        route.head(b"Content-Length: 0").replace(b"Host: localhost\r\n", b""),
        route.head(b"Authorization: Bearer " + b"x" * 8_192, b"Content-Length: 0"),
        route.head(b"Content-Encoding: gzip, gzip, br, zstd, nothing", b"Content-Length: 0"),
    ]


def _bodies(route: Route) -> list[bytes]:
    texts = [
        b"", b"null", b"[]", b"{}", b"0", b'"', b"\xff\xfe", b"\xef\xbb\xbf{}", b"\x00" * 1_000, b'{"instances": [[NaN, 1, 2]]}',
        b'{"instances": [[1e999, 1, 2]]}', b'{"instances": ' + b"[" * 100_000, b'{"a":' * 50_000,
        b'{"instances": [[' + b"9" * 4_301,
        b'{"instances": [], "instances": [[1,2,3]]}', b'{"instances": [["\\ud800", 1, 2]]}',
        b'{"instances": [[1,2,3]]}' + b" " * 65_536,
        json.dumps({"instances": [[0]] * 20_000}).encode(), json.dumps({"instances": [[2**64] * 3]}).encode(),
        json.dumps({"instances": [{"x" * 60_000: 1}]}).encode(), json.dumps({"instances": ["x" * 100_000]}).encode(),
    ]  # fmt: skip
    tensor = {"name": "x", "datatype": "FP64", "shape": [2**60 + 2, 16], "data": [1.0]}
    infer = Route(route.path.replace(b"/v1/", b"/v2/").replace(b":predict", b"/infer"), route.headers)
    v2 = json.dumps({"inputs": [tensor]}).encode()
    bodies = [route.head(b"Content-Length: %d" % len(text)) + text for text in texts]
    return [
        *bodies,
        infer.head(b"Content-Length: %d" % len(v2)) + v2,
        infer.head(b"Content-Length: 24", b"Inference-Header-Content-Length: 999999") + JSON,
    ]


def _unfinished(route: Route) -> list[bytes]:
    """Requests whose sender disconnects in the middle."""
    return [
        route.head(b"Content-Length: 16000000") + b" " * 65_536,
        route.head(CHUNKED) + b"10000\r\n" + b" " * 65_536 + b"\r\n",
        route.head(CHUNKED) + b"1\r\n \r\n" * 2_000,
        b"POST ",
        b"GET /livez HTTP/1.1\r\nX-A",
    ]


def attack(port: int, requests: Iterable[bytes], most: int) -> Outcome:
    """Send `most` requests in a cycle, one after the other; wait for each answer, then disconnect."""
    outcome, everything = Outcome(), list(requests)
    for number in range(most):
        outcome.statuses[_one(port, everything[number % len(everything)])] += 1
        outcome.sent += 1
    return outcome


def _one(port: int, data: bytes) -> int:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            return _status(connection, data)
    except OSError:
        return -1


def _status(connection: socket.socket, data: bytes) -> int:
    """Status of the first answer; 0 without an answer."""
    with contextlib.suppress(OSError):  # the server may refuse while the request is being sent, and then answers
        connection.sendall(data)
    connection.settimeout(TIMEOUT_S if data else 0.01)
    try:
        reply = connection.recv(65_536)
    except OSError:
        return 0
    return int(reply[9:12]) if reply[:7] == b"HTTP/1." and reply[9:12].isdigit() else 0


def resident_mib(processes: Iterable[psutil.Process]) -> float:
    """Resident memory of all the processes, in MiB."""
    return float(sum(process.memory_info().rss for process in processes) / (1 << 20))


@dataclass(frozen=True, slots=True)
class Growth:
    """Resident memory before and after a number of hostile requests."""

    sent: int
    before_mib: float
    after_mib: float
    outcome: Outcome

    @property
    def per_hundred_mib(self) -> float:
        """Growth per 100 requests; at least 0."""
        return max(0.0, self.after_mib - self.before_mib) * 100 / self.sent

    @property
    def bounded(self) -> bool:
        """Whether it stays below LIMIT_MIB."""
        return self.per_hundred_mib < LIMIT_MIB


def growth(port: int, route: Route, processes: Callable[[], list[psutil.Process]], requests: int, warm: int) -> Growth:
    """Send `warm` hostile requests to fill caches, then `requests`, and compare the processes' memory."""
    everything = assaults(route)
    attack(port, everything, warm)
    before = resident_mib(processes())
    outcome = attack(port, everything, requests)
    time.sleep(0.2)  # the server notices half-sent requests and frees their memory
    return Growth(requests, before, resident_mib(processes()), outcome)
