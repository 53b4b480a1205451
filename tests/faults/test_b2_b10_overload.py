"""B2 to B6, B10: more requests than can be answered. Refusals are immediate, and every accepted request is answered.

The model waits at a gate until the test opens it: an answer before that came while the model was busy.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from bench.load.raw import TIMEOUT_HEADER, Connection, Reply, connected, request
from roadworthy.contract.policy import Batching, Placement, Policy
from roadworthy.contract.snapshot import KeyEntry
from roadworthy.foundation.slab import SlabReader
from roadworthy.serving.metrics import Totals, read_totals
from tests.gates import closed
from tests.gateway.planted_worker import GATED
from tests.waiting import eventually

ONE_BY_ONE = Batching(max_rows=1)
INLINE = Placement(where="inline")
KEYS = {name: f"rw_{name:x<8}_{'k' * 40}" for name in ("greedy", "modest")}


@pytest.fixture(scope="module")
def worker(start_worker: Callable[..., Any], make_plan: type[Any]) -> Any:
    """Models that wait at the gate if their row says so, one row at a time, behind endpoints of several sizes; and another."""
    plan = make_plan()
    for number, (name, places, timeout_ms) in enumerate(
        [("roomy", 1_024, 600_000), ("eight", 8, 600_000), ("three", 3, 600_000), ("hasty", 1_024, 250), ("fair", 32, 600_000)], 1
    ):  # fmt: skip
        policy = Policy(max_in_flight=places, timeout_ms=timeout_ms, batching=ONE_BY_ONE, placement=INLINE)
        plan.endpoint(name, [plan.package(number, "noting")], policy)
    plan.endpoint("sum", [plan.package(9)])
    entries = [KeyEntry(name, hashlib.sha256(text.encode()).hexdigest(), "predictor", None) for name, text in KEYS.items()]
    return start_worker(plan, snapshot=plan.snapshot(keys=tuple(entries))).wait_ready()


@pytest.fixture
def open_connection(worker: Any) -> Iterator[Callable[[], Connection]]:
    """Makes connections that are closed at the end."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(connected(worker.port))


def predict(endpoint: str, mark: float, *lines: bytes, gated: float = 0.0, key: str = "modest") -> bytes:
    """A request whose single row is identified by `mark`; with GATED the model waits at the gate."""
    body = json.dumps({"instances": [[mark, gated, 0]]}).encode()
    return request(b"/v1/models/%b:predict" % endpoint.encode(), body, b"X-API-Key: " + KEYS[key].encode(), *lines)


def right(reply: Reply, mark: float, gated: float = 0.0) -> bool:
    """Whether the reply is the answer to that row."""
    return reply.status == 200 and json.loads(reply.body) == {"predictions": [mark + gated]}


def code(reply: Reply) -> tuple[int, str]:
    """Status and code of a refusal."""
    return reply.status, json.loads(reply.body)["code"]


def ran(worker: Any) -> list[float]:
    """The marks of all rows that a model has started."""
    file = worker.folder / "ran"
    return [float(line) for line in file.read_text().split()] if file.exists() else []


def totals(worker: Any) -> Totals:
    """The worker's counts."""
    reader = SlabReader(worker.folder / "run" / "slab")
    try:
        return read_totals(reader)
    finally:
        reader.close()


def outcomes(worker: Any, endpoint: str, outcome: str) -> int:
    """Number of an endpoint's requests with that outcome, whether or not a version got them."""
    counted = totals(worker)
    answered = sum(number for (bound, kind), number in counted.requests.items() if (bound.endpoint, kind) == (endpoint, outcome))
    return answered + counted.refused.get((endpoint, outcome), 0)


@contextmanager
def busy(worker: Any, connection: Connection, endpoint: str, mark: float) -> Iterator[None]:
    """Keep the endpoint's model busy with a row until the end of the block."""
    with closed(worker.folder / "gate"):
        connection.send(predict(endpoint, mark, gated=GATED, key="greedy"))
        eventually(lambda: mark in ran(worker), "the model begins")
        yield


def inside(worker: Any, endpoint: str, count: int) -> None:
    """Wait until `count` requests are in the endpoint."""
    eventually(lambda: totals(worker).in_flight[endpoint] == count, f"{count} requests are inside")


def test_b2_exactly_the_overflow_is_refused(worker: Any, open_connection: Callable[[], Connection]) -> None:
    """With eight places, one of them running, exactly 13 of 20 more are refused, at once and with Retry-After."""
    before = outcomes(worker, "eight", "overloaded")
    first = open_connection()
    others = [open_connection() for _ in range(20)]
    with busy(worker, first, "eight", 1_000):
        for number, connection in enumerate(others[:7]):
            connection.send(predict("eight", number))
        inside(worker, "eight", 8)
        for number, connection in enumerate(others[7:], 7):
            connection.send(predict("eight", number))
        for connection in others[7:]:
            reply = connection.reply()
            assert code(reply) == (503, "overloaded")
            assert int(reply.headers[b"retry-after"]) >= 1
            assert not reply.closes
    assert all(right(connection.reply(), number) for number, connection in enumerate(others[:7]))
    assert right(first.reply(), 1_000, GATED)
    assert outcomes(worker, "eight", "overloaded") == before + 13
    assert not set(range(7, 20)) & set(ran(worker))


@pytest.mark.parametrize(
    ("endpoint", "lines"),
    [("hasty", ()), ("roomy", (TIMEOUT_HEADER + b": 250",)), ("hasty", (TIMEOUT_HEADER + b": 60000",))],
    ids=["policy", "caller", "caller cannot extend"],
)
def test_b3_expired_in_the_queue(
    worker: Any, open_connection: Callable[[], Connection], endpoint: str, lines: tuple[bytes, ...]
) -> None:
    """A waiting request gets 504 at its deadline, while the model is busy, and is counted; the model never gets it."""
    mark = 10_000 + 100 * len(ran(worker))
    before = outcomes(worker, endpoint, "deadline-exceeded")
    waiting = [open_connection() for _ in range(5)]
    with busy(worker, open_connection(), endpoint, mark):
        for number, connection in enumerate(waiting, 1):
            connection.send(predict(endpoint, mark + number, *lines))
        for connection in waiting:
            assert code(connection.reply()) == (504, "deadline-exceeded")
    last = open_connection()

    def answered() -> bool:
        last.send(predict(endpoint, mark + 50))
        return right(last.reply(), mark + 50)

    eventually(answered, "the model is free again")
    assert not {mark + number for number in range(1, 6)} & set(ran(worker))
    assert outcomes(worker, endpoint, "deadline-exceeded") >= before + 5


@pytest.mark.parametrize("text", [b"", b"0", b"-1", b"1.5", b"1e3", b"+5", b"abc", b"9" * 30, b"5, 6"])
def test_b3_a_deadline_that_is_none(worker: Any, open_connection: Callable[[], Connection], text: bytes) -> None:
    """An invalid deadline is refused instead of ignored."""
    connection = open_connection()
    connection.send(predict("roomy", 1, TIMEOUT_HEADER + b": " + text))
    assert code(connection.reply()) == (400, "invalid-timeout")


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_b4_the_caller_is_gone(worker: Any, open_connection: Callable[[], Connection], how: str) -> None:
    """A caller that disconnects while waiting frees its place while the model is busy, and the model never gets its rows."""
    mark = 3_000.0 if how == "closed" else 4_000.0
    first = open_connection()
    others = [open_connection() for _ in range(2)]
    with busy(worker, first, "three", mark):
        leaving = [Connection(worker.port) for _ in range(2)]
        for number, connection in enumerate(leaving, 1):
            connection.send(predict("three", mark + number, key="greedy"))
        inside(worker, "three", 3)
        for connection in leaving:
            if how == "reset":
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        inside(worker, "three", 1)
        for number, connection in enumerate(others, 3):
            connection.send(predict("three", mark + number))
        inside(worker, "three", 3)
    for number, connection in enumerate(others, 3):
        assert right(connection.reply(), mark + number)
    assert right(first.reply(), mark, GATED)
    assert not {mark + 1, mark + 2} & set(ran(worker))


def test_b5_one_caller_floods(worker: Any, open_connection: Callable[[], Connection]) -> None:
    """One key sends 60 requests for 32 places, another key 8: none of the 8 is refused, and they alternate with the flood."""
    before = outcomes(worker, "fair", "overloaded")
    first = open_connection()
    greedy = [open_connection() for _ in range(59)]
    modest = [open_connection() for _ in range(8)]
    with busy(worker, first, "fair", 5_000):
        for number, connection in enumerate(greedy[:31], 5_001):
            connection.send(predict("fair", number, key="greedy"))
        inside(worker, "fair", 32)
        for number, connection in enumerate(greedy[31:], 5_032):
            connection.send(predict("fair", number, key="greedy"))
        assert {code(connection.reply()) for connection in greedy[31:]} == {(503, "overloaded")}
        for number, connection in enumerate(modest, 6_000):
            connection.send(predict("fair", number))
        eventually(lambda: outcomes(worker, "fair", "overloaded") == before + 28 + 8, "the flood makes room")
    assert all(right(connection.reply(), number) for number, connection in enumerate(modest, 6_000))
    replies = [connection.reply() for connection in greedy[:31]]
    assert [reply.status for reply in replies].count(503) == 8
    assert right(first.reply(), 5_000, GATED)
    begun = [mark for mark in ran(worker) if 5_000 < mark < 7_000]
    assert sum(mark >= 6_000 for mark in begun[:16]) >= 7, begun


def test_b6_one_slow_model(worker: Any, open_connection: Callable[[], Connection]) -> None:
    """While one endpoint's model is busy and 40 requests wait for it, another endpoint answers."""
    connection, first = open_connection(), open_connection()
    slow = [open_connection() for _ in range(40)]
    with busy(worker, first, "roomy", 7_000):
        for number, each in enumerate(slow, 7_001):
            each.send(predict("roomy", number))
        inside(worker, "roomy", 41)
        for number in range(100):
            connection.send(predict("sum", number))
            assert right(connection.reply(), number)
    assert right(first.reply(), 7_000, GATED)
    assert all(right(each.reply(), number) for number, each in enumerate(slow, 7_001))


def test_b10_recovery(worker: Any, open_connection: Callable[[], Connection]) -> None:
    """After a burst everything is as before: nothing runs, nothing waits, requests are answered."""
    first = open_connection()
    burst = [open_connection() for _ in range(80)]
    with busy(worker, first, "fair", 8_000):
        for number, connection in enumerate(burst, 8_001):
            connection.send(predict("fair", number, key="greedy"))
        inside(worker, "fair", 32)
    statuses = [connection.reply().status for connection in burst]
    assert set(statuses) == {200, 503}
    assert right(first.reply(), 8_000, GATED)

    def calm() -> bool:
        counted = totals(worker)
        return not counted.in_flight["fair"] and not any(counted.queue.values())

    eventually(calm, "nothing is in flight")
    for number, connection in enumerate(burst, 9_000):
        connection.send(predict("fair", number))
        assert right(connection.reply(), number)
    assert worker.client.get("/readyz").status_code == 200
