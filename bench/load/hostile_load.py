"""Hostile requests by the thousand, one connection each, and what they leave behind. Used by bench/hostile.py and by a test."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import psutil

from bench.load.hostile import CHUNKED, JSON, Door, shapes

PATIENCE_S = 0.1
"""How long an answer is waited for: some of what is sent is never whole."""
LIMIT_MIB = 1.0
"""Most growth of resident memory for 100 hostile requests."""


@dataclass(slots=True)
class Outcome:
    """What a round of hostile requests got.

    Attributes:
        sent: requests, each on a connection of its own.
        statuses: answers by status; 0 stands for none, -1 for a connection that was refused.
    """

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)


def assaults(door: Door) -> list[bytes]:
    """Everything hostile that is sent: framing, heads, bodies, and requests that are never finished."""
    return [shape.data for shape in shapes(door)] + _heads(door) + _bodies(door) + _unfinished(door)


def _heads(door: Door) -> list[bytes]:
    many = [b"X-%d: b" % number for number in range(500)]
    return [
        door.head(*many, b"Content-Length: 0"),
        door.head(b"X-A: " + b"a" * 131_072, b"Content-Length: 0"),
        Door(b"/" + b"a" * 262_144).head(b"Content-Length: 0"),
        Door(b"/%00%2e%2e/" * 500).head(b"Content-Length: 0"),
        door.head(b"Content-Length: 0").replace(b"Host: localhost", b"Host: evil.example/?#"),
        door.head(b"Content-Length: 0").replace(b"Host: localhost\r\n", b""),
        door.head(b"Authorization: Bearer " + b"x" * 8_192, b"Content-Length: 0"),
        door.head(b"Content-Encoding: gzip, gzip, br, zstd, nothing", b"Content-Length: 0"),
    ]


def _bodies(door: Door) -> list[bytes]:
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
    infer = Door(door.path.replace(b"/v1/", b"/v2/").replace(b":predict", b"/infer"), door.headers)
    v2 = json.dumps({"inputs": [tensor]}).encode()
    bodies = [door.head(b"Content-Length: %d" % len(text)) + text for text in texts]
    return [
        *bodies,
        infer.head(b"Content-Length: %d" % len(v2)) + v2,
        infer.head(b"Content-Length: 24", b"Inference-Header-Content-Length: 999999") + JSON,
    ]


def _unfinished(door: Door) -> list[bytes]:
    """Requests whose sender leaves in the middle."""
    return [
        door.head(b"Content-Length: 16000000") + b" " * 65_536,
        door.head(CHUNKED) + b"10000\r\n" + b" " * 65_536 + b"\r\n",
        door.head(CHUNKED) + b"1\r\n \r\n" * 2_000,
        b"POST ",
        b"GET /livez HTTP/1.1\r\nX-A",
    ]


def attack(port: int, requests: Iterable[bytes], most: int) -> Outcome:
    """Send the requests, one after the other, round and round, `most` in all; each answer is awaited, then the client leaves."""
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
    """Status of the first answer, 0 when there is none."""
    with contextlib.suppress(OSError):  # it may be refused while it is being sent: then the answer is on its way
        connection.sendall(data)
    connection.settimeout(PATIENCE_S if data else 0.01)
    try:
        reply = connection.recv(65_536)
    except OSError:
        return 0
    return int(reply[9:12]) if reply[:7] == b"HTTP/1." and reply[9:12].isdigit() else 0


def resident_mib(processes: Iterable[psutil.Process]) -> float:
    """Resident memory of all of them."""
    return float(sum(process.memory_info().rss for process in processes) / (1 << 20))


@dataclass(frozen=True, slots=True)
class Growth:
    """Resident memory before and after so many hostile requests."""

    sent: int
    before_mib: float
    after_mib: float
    outcome: Outcome

    @property
    def per_hundred_mib(self) -> float:
        """Growth for each 100 requests; never below 0."""
        return max(0.0, self.after_mib - self.before_mib) * 100 / self.sent

    @property
    def bounded(self) -> bool:
        """Whether it stays below LIMIT_MIB."""
        return self.per_hundred_mib < LIMIT_MIB


def growth(port: int, door: Door, processes: Callable[[], list[psutil.Process]], requests: int, warm: int) -> Growth:
    """Attack `warm` times so that caches fill, then `requests` times, and compare the processes' memory."""
    everything = assaults(door)
    attack(port, everything, warm)
    before = resident_mib(processes())
    outcome = attack(port, everything, requests)
    time.sleep(0.2)  # what was left half-sent is noticed and given back
    return Growth(requests, before, resident_mib(processes()), outcome)
