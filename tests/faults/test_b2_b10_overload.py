"""B2 to B6, B10: more requests than can be answered. What is refused is refused at once, what is kept is answered in time."""

from __future__ import annotations

import hashlib
import json
import socket
import statistics
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from bench.load.raw import TIMEOUT_HEADER, Connection, Reply, connected, request
from roadworthy.contract.policy import Batching, Placement, Policy
from roadworthy.contract.snapshot import KeyEntry
from roadworthy.foundation.slab import SlabReader
from roadworthy.gateway.metrics import Totals, read_totals
from tests.conftest import eventually

ONE_BY_ONE = Batching(max_rows=1)
INLINE = Placement(where="inline")
KEYS = {name: f"rw_{name:x<8}_{'k' * 40}" for name in ("greedy", "modest")}


@pytest.fixture(scope="module")
def worker(start_worker: Callable[..., Any], make_plan: type[Any]) -> Any:
    """Models that take as long as their rows say, one row at a time, behind endpoints of several sizes; and a fast one."""
    plan = make_plan()
    for number, (name, places, timeout_ms) in enumerate(
        [("roomy", 1_024, 60_000), ("eight", 8, 60_000), ("three", 3, 60_000), ("hasty", 1_024, 250), ("fair", 32, 60_000)], 1
    ):  # fmt: skip
        policy = Policy(max_in_flight=places, timeout_ms=timeout_ms, batching=ONE_BY_ONE, placement=INLINE)
        plan.endpoint(name, [plan.package(number, "noting")], policy)
    plan.endpoint("sum", [plan.package(9)])
    entries = [
        KeyEntry(name, hashlib.sha256(text.encode()).hexdigest(), "predictor", None) for name, text in KEYS.items()
    ]
    return start_worker(plan, snapshot=plan.snapshot(keys=tuple(entries))).wait_ready()


@pytest.fixture
def open_connection(worker: Any) -> Iterator[Callable[[], Connection]]:
    """Makes connections that are closed at the end."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(connected(worker.port))


def predict(endpoint: str, mark: float, takes_s: float, *lines: bytes, key: str = "modest") -> bytes:
    """A request whose one row is known by `mark` and keeps the model busy for a time."""
    body = json.dumps({"instances": [[mark, takes_s, 0]]}).encode()
    return request(b"/v1/models/%b:predict" % endpoint.encode(), body, b"X-API-Key: " + KEYS[key].encode(), *lines)


def right(reply: Reply, mark: float, takes_s: float) -> bool:
    """Whether it is the answer to that row."""
    return reply.status == 200 and json.loads(reply.body) == {"predictions": [mark + takes_s]}


def code(reply: Reply) -> tuple[int, str]:
    """Status and code of a refusal."""
    return reply.status, json.loads(reply.body)["code"]


def ran(worker: Any) -> list[float]:
    """The marks of all rows that a model has begun with."""
    file = worker.folder / "ran"
    return [float(line) for line in file.read_text().split()] if file.exists() else []


def totals(worker: Any) -> Totals:
    """What the worker has counted."""
    reader = SlabReader(worker.folder / "run" / "slab")
    try:
        return read_totals(reader)
    finally:
        reader.close()


def outcomes(worker: Any, endpoint: str, outcome: str) -> int:
    """How many requests of an endpoint ended so, whether a version was asked or not."""
    counted = totals(worker)
    answered = sum(
        number for (bound, kind), number in counted.requests.items() if (bound.endpoint, kind) == (endpoint, outcome)
    )
    return answered + counted.refused.get((endpoint, outcome), 0)


def keep_busy(worker: Any, connection: Connection, endpoint: str, mark: float, takes_s: float) -> None:
    """Have the endpoint's model begin with a long row."""
    connection.send(predict(endpoint, mark, takes_s))
    eventually(lambda: mark in ran(worker), "the model begins")


def test_b2_exactly_the_overflow_is_refused(worker: Any, open_connection: Callable[[], Connection]) -> None:
    """Eight places, one of them running: of 20 more exactly 13 are refused, with a time to come back; the others are answered."""
    before = outcomes(worker, "eight", "overloaded")
    busy = open_connection()
    keep_busy(worker, busy, "eight", 1_000, 0.6)
    begun = time.monotonic()
    waiting = [open_connection() for _ in range(20)]
    for number, connection in enumerate(waiting):
        connection.send(predict("eight", number, 0.01))
    time_of: dict[int, float] = {}
    replies = []
    for number, connection in enumerate(waiting):
        replies.append(connection.reply())
        time_of[number] = time.monotonic() - begun
    refused = [number for number, reply in enumerate(replies) if reply.status == 503]
    assert refused == list(range(7, 20))
    for number in refused:
        assert code(replies[number]) == (503, "overloaded")
        assert int(replies[number].headers[b"retry-after"]) >= 1
        assert not replies[number].closes
    assert all(right(replies[number], number, 0.01) for number in range(7))
    assert right(busy.reply(), 1_000, 0.6)
    assert outcomes(worker, "eight", "overloaded") == before + 13
    assert not {float(number) for number in refused} & set(ran(worker))


def test_b2_refusals_do_not_wait(worker: Any, open_connection: Callable[[], Connection]) -> None:
    """A refusal comes while the model is busy, not after it."""
    busy = [open_connection() for _ in range(8)]
    keep_busy(worker, busy[0], "eight", 1_100, 1.0)
    for number, connection in enumerate(busy[1:]):
        connection.send(predict("eight", 1_101 + number, 0))
    late = open_connection()
    times = []
    for _ in range(20):
        begun = time.monotonic()
        late.send(predict("eight", 1_199, 0))
        assert code(late.reply()) == (503, "overloaded")
        times.append(time.monotonic() - begun)
    assert statistics.median(times) < 0.02


@pytest.mark.parametrize(
    ("endpoint", "lines"),
    [("hasty", ()), ("roomy", (TIMEOUT_HEADER + b": 250",)), ("hasty", (TIMEOUT_HEADER + b": 60000",))],
    ids=["policy", "caller", "caller cannot extend"],
)
def test_b3_expired_in_the_queue(
    worker: Any, open_connection: Callable[[], Connection], endpoint: str, lines: tuple[bytes, ...]
) -> None:
    """Past its deadline a waiting request is answered 504, while the model is busy, and counted; the model never sees it."""
    mark = 10_000 + 100 * len(ran(worker))
    before = outcomes(worker, endpoint, "deadline-exceeded")
    busy = open_connection()
    keep_busy(worker, busy, endpoint, mark, 0.8)
    waiting = [open_connection() for _ in range(5)]
    begun = time.monotonic()
    for number, connection in enumerate(waiting, 1):
        connection.send(predict(endpoint, mark + number, 0, *lines))
    for connection in waiting:
        assert code(connection.reply()) == (504, "deadline-exceeded")
    assert 0.2 < time.monotonic() - begun < 0.5
    last = open_connection()

    def answered() -> bool:
        last.send(predict(endpoint, mark + 50, 0))
        return right(last.reply(), mark + 50, 0)

    eventually(answered, "the model is free again")
    assert not {mark + number for number in range(1, 6)} & set(ran(worker))
    assert outcomes(worker, endpoint, "deadline-exceeded") >= before + 5


@pytest.mark.parametrize("text", [b"", b"0", b"-1", b"1.5", b"1e3", b"+5", b"abc", b"9" * 30, b"5, 6"])
def test_b3_a_deadline_that_is_none(worker: Any, open_connection: Callable[[], Connection], text: bytes) -> None:
    """It is refused instead of being passed over."""
    connection = open_connection()
    connection.send(predict("roomy", 1, 0, TIMEOUT_HEADER + b": " + text))
    assert code(connection.reply()) == (400, "invalid-timeout")


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_b4_the_caller_is_gone(worker: Any, open_connection: Callable[[], Connection], how: str) -> None:
    """Whoever leaves while waiting gives the place back at once, and the model never sees the rows."""
    mark = 3_000.0 if how == "closed" else 4_000.0
    busy = open_connection()
    keep_busy(worker, busy, "three", mark, 1.2)
    leaving = [Connection(worker.port) for _ in range(2)]
    for number, connection in enumerate(leaving, 1):
        connection.send(predict("three", mark + number, 0))
    full = open_connection()
    eventually(lambda: _asked(full, mark + 9) == 503, "all places are taken")
    for connection in leaving:
        if how == "reset":
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    begun = time.monotonic()
    others = [open_connection() for _ in range(2)]
    eventually(lambda: totals(worker).in_flight["three"] == 1, "the places are free")
    for number, connection in enumerate(others, 3):
        connection.send(predict("three", mark + number, 0))
    assert time.monotonic() - begun < 0.8, "the places were given back only when the model was free"
    for number, connection in enumerate(others, 3):
        assert right(connection.reply(), mark + number, 0)
    assert right(busy.reply(), mark, 1.2)
    assert not {mark + 1, mark + 2} & set(ran(worker))


def _asked(connection: Connection, mark: float) -> int:
    """Status of a request that can wait 1 ms at most."""
    connection.send(predict("three", mark, 0, TIMEOUT_HEADER + b": 1"))
    return connection.reply().status


def flood(
    worker: Any, key: str, connections: int, until: float, counts: Counter[tuple[str, int]]
) -> list[threading.Thread]:
    """So many connections that ask again as soon as they are answered."""

    def ask() -> None:
        with connected(worker.port) as connection:
            while time.monotonic() < until:
                connection.send(predict("fair", 1, 0.005, key=key))
                counts[key, connection.reply().status] += 1

    threads = [threading.Thread(target=ask) for _ in range(connections)]
    for thread in threads:
        thread.start()
    return threads


def test_b5_one_caller_floods(worker: Any) -> None:
    """60 connections of one key, 8 of another, 32 places: the other gets its half of the answers, and is not turned away."""
    counts: Counter[tuple[str, int]] = Counter()
    until = time.monotonic() + 2.5
    for thread in [*flood(worker, "greedy", 60, until, counts), *flood(worker, "modest", 8, until, counts)]:
        thread.join()
    answered = counts["greedy", 200] + counts["modest", 200]
    assert answered > 100
    assert counts["modest", 200] / answered > 0.4
    assert counts["modest", 503] <= 0.05 * counts["modest", 200]
    assert counts["greedy", 503] > 0


def times_of(connection: Connection, seconds: float) -> list[float]:
    """How long each of the requests took that were made one after the other for that time."""
    times, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        begun = time.monotonic()
        connection.send(predict("sum", 1, 2))
        assert right(connection.reply(), 1, 2)
        times.append(time.monotonic() - begun)
    return sorted(times)


def test_b6_one_slow_model(worker: Any, open_connection: Callable[[], Connection]) -> None:
    """While one endpoint's model is busy all the time and 40 requests wait for it, another endpoint answers as before."""
    connection = open_connection()
    alone = times_of(connection, 0.5)
    slow = [open_connection() for _ in range(40)]
    for number, each in enumerate(slow):
        each.send(predict("roomy", 5_000 + number, 0.03))
    beside = times_of(connection, 0.8)
    assert statistics.median(beside) < 3 * statistics.median(alone) + 0.002
    assert beside[len(beside) * 99 // 100] < 5 * alone[len(alone) * 99 // 100] + 0.02
    assert all(right(each.reply(), 5_000 + number, 0.03) for number, each in enumerate(slow))


def test_b10_recovery(worker: Any, open_connection: Callable[[], Connection]) -> None:
    """After a burst everything is as before: nothing is inside, nothing waits, answers are as fast; within 5 s."""
    connection = open_connection()
    before = times_of(connection, 0.3)
    counts: Counter[tuple[str, int]] = Counter()
    for thread in flood(worker, "greedy", 80, time.monotonic() + 1, counts):
        thread.join()
    assert counts["greedy", 503] > 0

    def calm() -> bool:
        counted = totals(worker)
        return not counted.in_flight["fair"] and not any(counted.queue.values())

    ended = time.monotonic()
    eventually(calm, "nothing is in flight")
    after = times_of(connection, 0.3)
    assert statistics.median(after) < 3 * statistics.median(before) + 0.002
    assert after[len(after) * 95 // 100] < 5 * before[len(before) * 95 // 100] + 0.02
    assert time.monotonic() - ended < 5
    assert worker.client.get("/readyz").status_code == 200
