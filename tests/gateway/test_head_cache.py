"""A cached head has the meaning that the parser found the first time; checks that may change are repeated for each request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.load.raw import Connection, Reply, connected, request
from roadworthy.contract.policy import Policy
from roadworthy.contract.snapshot import KeyEntry
from roadworthy.gateway.http.head_cache import MOST_HEAD_BYTES, MOST_HEADS, CachedHead, HeadCache, HeadLookup
from tests.conftest import eventually

KEY = "rw_callerxx_" + "k" * 40
BEARER = b"Authorization: Bearer " + KEY.encode()
PREDICT = b"/v1/models/sum:predict"
CALLER = KeyEntry("key-callerxx", hashlib.sha256(KEY.encode()).hexdigest(), "predictor", None)


@pytest.fixture(scope="module")
def worker(start_worker: Callable[..., Any], make_plan: type[Any]) -> Any:
    """A worker that requires a key."""
    plan = make_plan()
    total = plan.package(1)
    plan.endpoint("sum", [total])
    plan.endpoint("small", [total], Policy(max_body_bytes=60))
    return start_worker(plan, snapshot=plan.snapshot(keys=(CALLER,))).wait_ready()


def rows(*row: float) -> bytes:
    """A body with one row."""
    return json.dumps({"instances": [row]}).encode()


def predict(*row: float, lines: tuple[bytes, ...] = (BEARER,)) -> bytes:
    """A request with the key."""
    return request(PREDICT, rows(*row), *lines)


def ask(connection: Connection, data: bytes) -> Reply:
    """Send one request in one piece; returns its answer."""
    connection.send(data)
    return connection.reply()


def show(reply: Reply) -> tuple[int, Any, bool]:
    """The status, the body without ids, and whether the connection closes."""
    body = json.loads(reply.body)
    return reply.status, body.get("code", body), reply.closes


HEADS = [
    predict(1, 2, 3),
    predict(4, 5, 6),
    predict(1, 2, 3, lines=(BEARER, b"X-Request-Id: order-7")),
    predict(1, 2, 3, lines=(BEARER, b"Request-Timeout-Ms: 60000")),
    predict(1, 2, 3, lines=(BEARER, b"Request-Timeout-Ms: never")),
    predict(1, 2, 3, lines=(b"Authorization: Bearer wrong",)),
    predict(1, 2, 3, lines=(BEARER, b"Connection: keep-alive")),
    predict(1, 2, 3, lines=(BEARER, b"Upgrade: h2c")),
    predict(1, 2, 3, lines=()),
    request(PREDICT, b"{", BEARER),
    request(PREDICT, b"", BEARER),
    request(PREDICT, rows(1, 2), BEARER),
    request(b"/v1/models/small:predict", rows(1, 2, 3), BEARER),
    request(b"/v1/models/small:predict", rows(1.123456789, 2.123456789, 3.123456789, 4.1, 5.1), BEARER),
    request(b"/v1/models/sum%3Apredict?a=b", rows(3, 2, 1), BEARER),
    request(b"/v1/models/none:predict", rows(3, 2, 1), BEARER),
    request(b"/livez"),
]


@given(st.lists(st.sampled_from(HEADS), min_size=2, max_size=12), st.booleans())
@settings(max_examples=60, deadline=None)
def test_read_again_means_the_same(worker: Any, asked: list[bytes], cut: bool) -> None:
    """Whatever came before on the connection or on others, a request is answered as on a connection of its own; also when its
    last bytes come later, which the parser has to see."""
    with ExitStack() as stack:
        shared = stack.enter_context(connected(worker.port))
        for data in asked:
            with connected(worker.port) as own:
                alone = show(ask(own, data))
            if cut:
                shared.send(data[:-3])
                shared.send(data[-3:])
                together = show(shared.reply())
            else:
                together = show(ask(shared, data))
            assert together == alone
            if together[2]:
                shared = stack.enter_context(connected(worker.port))


def test_ids_are_each_request_s_own(worker: Any) -> None:
    """The caller's id comes back; the gateway's own id is new each time."""
    with connected(worker.port) as connection:
        replies = [ask(connection, HEADS[2]) for _ in range(5)]
        assert {reply.headers[b"x-request-id"] for reply in replies} == {b"order-7"}
        assert len({reply.headers[b"roadworthy-prediction-id"] for reply in replies}) == 5
        replies = [ask(connection, HEADS[0]) for _ in range(5)]
        assert all(reply.headers[b"x-request-id"] == reply.headers[b"roadworthy-prediction-id"] for reply in replies)


def test_a_known_head_and_the_next_request_in_one_segment(worker: Any) -> None:
    """The next request is not lost: such bytes go through the parser."""
    with connected(worker.port) as connection:
        for _ in range(3):
            assert show(ask(connection, HEADS[0]))[:2] == (200, {"predictions": [6]})
        connection.send(HEADS[0] + HEADS[1] + HEADS[0])
        assert [show(connection.reply())[1] for _ in range(3)] == [{"predictions": [n]} for n in (6, 15, 6)]
        assert show(ask(connection, HEADS[1]))[1] == {"predictions": [15]}


def test_what_changes_counts_at_once(start_worker: Any, make_plan: type[Any], planted_agent: Any, tmp_path: Path) -> None:
    """On connections with cached heads: another version answers, and a revoked key and a removed endpoint are refused."""
    plan = make_plan()
    first, second = plan.package(1), plan.package(2)
    plan.endpoint("sum", [first])
    agent = planted_agent(tmp_path)
    worker = start_worker(plan, folder=tmp_path, snapshot=plan.snapshot(1, keys=(CALLER,))).wait_ready()

    def now(revision: int, keys: tuple[KeyEntry, ...] = (CALLER,)) -> None:
        agent.offer(plan.snapshot(revision, keys=keys))
        eventually(lambda: agent.reports and agent.last().revision == revision, f"revision {revision} is served")

    def version() -> bytes:
        reply = ask(connection, HEADS[0])
        assert show(reply)[:2] == (200, {"predictions": [6]})
        return reply.headers[b"roadworthy-version"]

    with connected(worker.port) as connection:
        assert {version() for _ in range(4)} == {b"m:1"}
        plan.endpoint("sum", [second], generation=2)
        now(2)
        assert {version() for _ in range(4)} == {b"m:2"}
        now(3, keys=())
        assert show(ask(connection, HEADS[0]))[:2] == (401, "unknown-key")
        now(4)
        assert {version() for _ in range(4)} == {b"m:2"}
        plan.endpoints.clear()
        now(5)
        assert show(ask(connection, HEADS[0]))[:2] == (404, "unknown-endpoint")
        plan.endpoint("sum", [first], Policy(max_body_bytes=10), generation=3)
        now(6)
        assert show(ask(connection, HEADS[0]))[0] == 413


def tensors(count: int, claimed: int) -> bytes:
    """A V2 request for the sums of `count` rows as raw tensors that claims to have `claimed`."""
    values = np.arange(3.0 * count).reshape(3, count)
    sizes = {"parameters": {"binary_data_size": 8 * claimed}, "shape": [claimed], "datatype": "FP64"}
    head = {
        "inputs": [{"name": name, **sizes} for name in "abc"],
        "outputs": [{"name": "total", "parameters": {"binary_data": True}}],
    }
    text = json.dumps(head).encode()
    lines = (BEARER, b"Inference-Header-Content-Length: %d" % len(text))
    return request(b"/v2/models/sum/infer", text + values.tobytes(), *lines)


@pytest.mark.parametrize("count", [10, 5_000])
def test_raw_tensors_behind_known_heads(worker: Any, count: int) -> None:
    """The JSON head is then cached too, and large bodies are not copied: the same answers, the same refusals."""
    with connected(worker.port) as connection:
        for data in (
            tensors(count, count),
            tensors(count, count),
            tensors(count, count),
            tensors(count, count - 1),
        ) * 2:
            reply = ask(connection, data)
            if data == tensors(count, count):
                assert reply.status == 200, reply.body
                size = int(reply.headers[b"inference-header-content-length"])
                document = json.loads(reply.body[:size])
                assert document["outputs"][0]["shape"] == [count]
                total = np.frombuffer(reply.body[size:])
                np.testing.assert_array_equal(total, np.arange(3.0 * count).reshape(3, count).sum(axis=0))
            else:
                assert show(reply)[:2] == (400, "binary-size-mismatch")


def known(length: int) -> CachedHead:
    """A head with a body of that length."""
    return CachedHead(None, None, {}, None, length)  # type: ignore[arg-type]


def message(number: int) -> bytes:
    """A request that is unlike any other."""
    return b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody" % number


def test_what_is_kept_is_bounded() -> None:
    """In number and in length."""
    heads = HeadCache()
    for number in range(3 * MOST_HEADS):
        HeadLookup(heads).learn(message(number), known(4))
        assert len(heads) <= MOST_HEADS
    heads.clear()
    HeadLookup(heads).learn(b"POST /" + b"x" * MOST_HEAD_BYTES + message(1), known(4))
    HeadLookup(heads).learn(b"\r\n" + message(1), known(4))
    HeadLookup(heads).learn(message(1) + message(2), known(4))
    assert len(heads) == 0


def test_a_client_that_never_repeats_is_hardly_looked_up() -> None:
    """After some unknown heads, only every 64th is looked up and cached; a head that is found restores the normal rate."""
    heads = HeadCache()
    client = HeadLookup(heads)
    for number in range(10_000):
        assert client.look_up(message(number)) is None
        client.learn(message(number), known(4))
    assert len(heads) < 250
    found = 0
    for _ in range(200):
        if client.look_up(message(1)) is not None:
            found += 1
        else:
            client.learn(message(1), known(4))
    assert found > 60
