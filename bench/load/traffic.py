"""Real clients at a steady rate: keep-alive connections over plain sockets, each with one request at a time, without retries.

Every reply is checked against the model of the version that it names. Anything but a right answer counts as a failure with its
cause. Used by the benchmarks of switches, kills and long runs, and by tests/walks/test_the_road.py.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from bench.models import Rows

CONNECTIONS = 16
RATE = 260.0
"""Requests per second of all connections together."""

REFUSED = "refused"
"""The connection was refused, so nothing was sent."""
BROKEN = "broken"
"""The connection ended between the request and its reply."""
LATE = "no answer"
"""The connection is open, but nothing arrived for LONGEST_S."""
LONGEST_S = 30.0
TIMEOUT_S = 120.0
"""Seconds to wait for outcomes that must come; only a hang exceeds it, however busy the machine is."""
_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request. Times are seconds on the monotonic clock; `cause` is "" for a right answer; `port` is the client's; `number`
    is the number of its body, -1 when nothing was sent."""

    sent: float
    ended: float
    version: str
    cause: str
    port: int = 0
    number: int = -1


def second_class(prediction: Any) -> float:
    """Its probability."""
    return float(prediction["probabilities"][1])


@dataclass
class Traffic:
    """Clients of one endpoint.

    Attributes:
        port, key, endpoint: the target, and the caller's key.
        bodies: sent in a cycle. headers: additional header lines of each, with their line ends; empty for none at all.
        right: version → the right number for each body. number_of: finds the number in a prediction.
        rate: requests per second. connections: number of keep-alive connections.
        outcomes: of the requests, in the order in which they ended.
        open_requests: times at which the requests in progress were sent, by the client's port.
    """

    port: int
    key: str
    bodies: list[bytes]
    right: Mapping[str, Rows] = field(default_factory=dict)
    headers: Sequence[str] = ()
    number_of: Callable[[Any], float] = second_class
    endpoint: str = "cells"
    rate: float = RATE
    connections: int = CONNECTIONS
    outcomes: list[Outcome] = field(default_factory=list)
    open_requests: dict[int, float] = field(default_factory=dict)
    _number: int = 0
    _stopping: bool = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send requests inside the block."""
        clients = [asyncio.create_task(self._client(number / self.rate)) for number in range(self.connections)]
        try:
            yield
        finally:
            self._stopping = True
            await asyncio.gather(*clients)

    async def wait_for(self, condition: Callable[[list[Outcome]], bool], timeout_s: float = TIMEOUT_S) -> None:
        """Return when the latest outcomes, two for each connection, fulfil the condition.

        Raises:
            AssertionError: they do not; the text lists them.
        """
        most = 2 * self.connections
        begun = len(self.outcomes)
        deadline = time.monotonic() + timeout_s
        while len(self.outcomes) < begun + most or not condition(self.outcomes[-most:]):
            if time.monotonic() > deadline:
                raise AssertionError(str(Counter((o.version, o.cause) for o in self.outcomes[-most:])))
            await asyncio.sleep(0.01)

    def last_from(self, version: str) -> float:
        """The time of the last answer of `version`."""
        return max(outcome.ended for outcome in self.outcomes if outcome.version == version)

    def forget(self) -> Counter[str]:
        """Drop all outcomes to free memory in a long run; return how often each cause occurred, "" for right answers."""
        counted = Counter(outcome.cause for outcome in self.outcomes)
        self.outcomes.clear()
        return counted

    @property
    def failed(self) -> list[Outcome]:
        """The outcomes without a right answer."""
        return [outcome for outcome in self.outcomes if outcome.cause]

    async def _client(self, offset: float) -> None:
        connection: _Connection | None = None
        due = time.monotonic() + offset
        while not self._stopping:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due = max(due + self.connections / self.rate, time.monotonic() - 1.0)
            number = self._number = (self._number + 1) % len(self.bodies)
            if connection is not None and connection[0].at_eof():  # closed while idle, so no request was lost
                connection[1].close()
                connection = None
            sent = time.monotonic()
            if connection is None:
                try:
                    connection = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    self.outcomes.append(Outcome(sent, time.monotonic(), "", REFUSED))
                    continue
            connection = await self._ask(connection, number, sent)
        if connection is not None:
            connection[1].close()

    async def _ask(self, connection: _Connection, number: int, sent: float) -> _Connection | None:
        reader, writer = connection
        own = int(writer.get_extra_info("sockname")[1])
        self.open_requests[own] = sent
        try:
            writer.write(self._request(number))
            status, headers, body = await asyncio.wait_for(_read_reply(reader), LONGEST_S)
        except (OSError, asyncio.IncompleteReadError) as error:
            cause = LATE if isinstance(error, TimeoutError) else BROKEN
            self.outcomes.append(Outcome(sent, time.monotonic(), "", cause, own, number))
            await _leave(writer)
            return None
        finally:
            self.open_requests.pop(own, None)
        version = headers.get("roadworthy-version", "")
        cause = self._judge(status, version, number, body)
        self.outcomes.append(Outcome(sent, time.monotonic(), version, cause, own, number))
        if headers.get("connection", "").lower() == "close":
            await _leave(writer)
            return None
        return connection

    def _request(self, number: int) -> bytes:
        body, more = self.bodies[number], self.headers[number] if self.headers else ""
        head = (
            f"POST /v1/models/{self.endpoint}:predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {self.key}\r\n"
            f"{more}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def _judge(self, status: int, version: str, number: int, body: bytes) -> str:
        if status != 200:
            return f"{status} {json.loads(body).get('code')}"
        given = self.number_of(json.loads(body)["predictions"][0])
        return "" if abs(given - self.right[version][number]) <= 1e-5 else "wrong answer"


async def _leave(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def _read_reply(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.split(":", 1) for line in head[1:] if line)
    headers = {name.lower(): value.strip() for name, value in pairs}
    body = await reader.readexactly(int(headers["content-length"]))
    return int(head[0].split()[1]), headers, body


def only(version: str) -> Callable[[list[Outcome]], bool]:
    """A condition: all are right answers of this version."""
    return lambda outcomes: all(outcome.version == version and not outcome.cause for outcome in outcomes)


def all_right(outcomes: list[Outcome]) -> bool:
    """A condition: all are right answers."""
    return all(not outcome.cause for outcome in outcomes)


def causes(outcomes: list[Outcome]) -> dict[str, int]:
    """The number of outcomes by cause."""
    return dict(Counter(outcome.cause for outcome in outcomes))
