"""Load that does not wait for answers: a fixed rate of requests, whatever the server does. Also a closed loop, to find capacity.

One process sends raw HTTP/1.1 over keep-alive connections from its own event loop. Latency counts from the time when a request
was due, so that a server which delays the load does not appear faster.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import uvloop

from bench.load.wrk import Target

TICK_S = 0.001
MOST_CONNECTIONS = 8_000
LATE_S = 10.0
"""Seconds to wait for answers after the last request."""


@dataclass(slots=True)
class Sample:
    """One request: when it was due, in seconds since the load began; seconds until its answer; the answer's status (0: the
    connection broke); and whether the answer was right."""

    due_s: float
    took_s: float
    status: int
    right: bool


@dataclass(slots=True)
class Run:
    """All requests of a load of `seconds`. `unsent`: requests without a free connection. `open`: requests without an answer."""

    seconds: float
    samples: list[Sample] = field(default_factory=list)
    unsent: int = 0
    open: int = 0

    def rate(self) -> float:
        """Right answers per second during the load."""
        return sum(each.right and each.due_s + each.took_s <= self.seconds for each in self.samples) / self.seconds

    def times_ms(self, *statuses: int, since_s: float = 0.0) -> list[float]:
        """Sorted latencies in milliseconds of answers with these statuses, for requests due from `since_s` on."""
        chosen = [each for each in self.samples if each.status in statuses and each.due_s >= since_s]
        return sorted(each.took_s * 1_000 for each in chosen)

    def count(self, *statuses: int) -> int:
        """Number of answers with these statuses."""
        return sum(each.status in statuses for each in self.samples)


def percentile(ordered: list[float], share: float) -> float:
    """The value below which `share` of the values are; NaN for an empty list."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


class _Client(asyncio.Protocol):
    """A keep-alive connection with at most one request in progress."""

    def __init__(self, pool: _Pool) -> None:
        self._pool = pool
        self._left = b""
        self._due: tuple[float, int] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's class is not a subclass of asyncio's

    def ask(self, due: tuple[float, int]) -> None:
        """Send request `due[1]`, which was due at `due[0]`."""
        self._due = due
        if self.transport is not None:
            self.transport.write(self._pool.data(due[1]))

    def data_received(self, data: bytes) -> None:
        self._left += data
        head, found, body = self._left.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        _, _, size = lower.partition(b"content-length: ")
        if len(body) < int(size.split(b"\r\n", 1)[0]):
            return
        self._left = b""
        due, self._due = self._due, None
        if due is not None:
            self._pool.answered(due, int(head[9:12]), body)
        if b"connection: close" not in lower:
            self._pool.free(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        due, self._due = self._due, None
        if due is not None:
            self._pool.answered(due, 0, b"")
        self._pool.lost(self)


class _Pool:
    """Connections, and the requests sent over them."""

    def __init__(self, target: Target, run: Run) -> None:
        self._target = target
        self._run = run
        self._idle: list[_Client] = []
        self._all: set[_Client] = set()
        self._waiting: set[asyncio.Task[None]] = set()
        self._head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" % target.path.encode()
        if target.authorization:
            self._head += b"Authorization: %b\r\n" % target.authorization.encode()
        self.begun = time.perf_counter()
        self.under_way = 0
        self.again: Callable[[], None] = lambda: None

    def data(self, number: int) -> bytes:
        """The request with this number; its right answer contains the number."""
        body = b'{"instances":[[%d,1,2]]}' % number
        return b"%bContent-Length: %d\r\n\r\n%b" % (self._head, len(body), body)

    def ask(self, due_s: float, number: int) -> None:
        """Send request `number` over a free connection, or over a new one."""
        if self._idle:
            self.under_way += 1
            self._idle.pop().ask((due_s, number))
        elif len(self._all) + len(self._waiting) < MOST_CONNECTIONS:
            self.under_way += 1
            task = asyncio.get_running_loop().create_task(self._over_new((due_s, number)))
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)
        else:
            self._run.unsent += 1

    async def _over_new(self, due: tuple[float, int]) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, client = await loop.create_connection(lambda: _Client(self), "127.0.0.1", self._target.port)
        except OSError:
            self.answered(due, 0, b"")
            return
        self._all.add(client)
        client.ask(due)

    def answered(self, due: tuple[float, int], status: int, body: bytes) -> None:
        """Record one answer."""
        due_s, number = due
        right = status == 200 and _value(body) == number + 3
        self._run.samples.append(Sample(due_s, time.perf_counter() - self.begun - due_s, status, right))
        self.under_way -= 1
        self.again()

    def free(self, client: _Client) -> None:
        """Make the connection available for another request."""
        self._idle.append(client)

    def lost(self, client: _Client) -> None:
        """It cannot."""
        self._all.discard(client)
        if client in self._idle:
            self._idle.remove(client)

    async def close(self) -> None:
        """Wait for the requests in progress, and close all connections."""
        until = time.perf_counter() + LATE_S
        while self.under_way and time.perf_counter() < until:  # noqa: ASYNC110 - polling delays no caller
            await asyncio.sleep(0.01)
        self._run.open = self.under_way
        for client in list(self._all):
            if client.transport is not None:
                client.transport.abort()


def _value(body: bytes) -> float | None:
    """The single predicted number."""
    try:
        (value,) = json.loads(body)["predictions"]
    except (ValueError, KeyError, TypeError):
        return None
    while isinstance(value, dict | list):
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return float(value)


def open_loop(target: Target, rate: float, seconds: float) -> Run:
    """Send `rate` requests per second at even intervals for `seconds`, and wait for their answers."""

    async def fire() -> Run:
        run = Run(seconds)
        pool = _Pool(target, run)
        sent = 0
        while sent < rate * seconds:
            now = time.perf_counter() - pool.begun
            while sent < rate * seconds and sent / rate <= now:
                pool.ask(sent / rate, sent)
                sent += 1
            await asyncio.sleep(TICK_S)
        await pool.close()
        return run

    return uvloop.run(fire())


def closed_loop(target: Target, connections: int, seconds: float) -> Run:
    """Keep `connections` callers busy: each sends its next request when the previous one is answered."""

    async def fire() -> Run:
        run = Run(seconds)
        pool = _Pool(target, run)
        loop = asyncio.get_running_loop()
        number = 0

        def again() -> None:
            nonlocal number
            now = time.perf_counter() - pool.begun
            if now < seconds:
                number += 1
                loop.call_soon(pool.ask, now, number)

        pool.again = again
        for _ in range(connections):
            again()
        await asyncio.sleep(seconds)
        await pool.close()
        return run

    return uvloop.run(fire())
