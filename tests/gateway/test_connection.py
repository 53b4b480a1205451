"""A connection's duties to every HTTP client: order, keep-alive, early refusals, old versions, and requests cut anywhere."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from bench.load.raw import Reply, connected, request
from roadworthy.contract.policy import Policy
from roadworthy.contract.snapshot import KeyEntry

KEY = "rw_callerxx_" + "k" * 40
BEARER = b"Authorization: Bearer " + KEY.encode()
PREDICT = b"/v1/models/sum:predict"
NOTING = b"/v1/models/noting:predict"
LIVE = {"status": "alive"}
EXPECT = b"Expect: 100-continue"


@pytest.fixture(scope="module")
def worker(start_worker: Callable[..., Any], make_plan: type[Any]) -> Any:
    """A worker that requires a key."""
    plan = make_plan()
    total = plan.package(1)
    plan.endpoint("sum", [total])
    plan.endpoint("small", [total], Policy(max_body_bytes=1_000))
    plan.endpoint("noting", [plan.package(2, "noting")])
    keys = (KeyEntry("key-callerxx", hashlib.sha256(KEY.encode()).hexdigest(), "predictor", None),)
    return start_worker(plan, snapshot=plan.snapshot(keys=keys)).wait_ready()


def rows(*row: float) -> bytes:
    """A body with one row."""
    return json.dumps({"instances": [row]}).encode()


def predict(*row: float, path: bytes = PREDICT) -> bytes:
    """A request with the key."""
    return request(path, rows(*row), BEARER)


def show(reply: Reply) -> tuple[int, Any]:
    """The status, and the body's document or error code."""
    body = json.loads(reply.body)
    return reply.status, body.get("code", body)


def answer(total: float) -> tuple[int, Any]:
    """The checked part of a correct prediction."""
    return 200, {"predictions": [total]}


MIXED = [
    (predict(1, 2, 3), answer(6)),
    (request(b"/livez"), (200, LIVE)),
    (predict(7, 0.2, 0, path=NOTING), answer(7.2)),
    (predict(4, 5, 6), answer(15)),
    (request(b"/v1/models/unknown:predict", rows(1, 2, 3), BEARER), (404, "unknown-endpoint")),
    (request(PREDICT, b'{"instances": [[1, 2]]}', BEARER), (422, None)),
    (request(PREDICT, rows(1, 2, 3)), (401, "no-key")),
    (request(PREDICT, b"{", BEARER), (400, None)),
    (request(b"/v1/models/sum", None, BEARER), (200, None)),
    (predict(8, 0.1, 0, path=NOTING), answer(8.1)),
    (request(b"/readyz"), (200, None)),
    (request(PREDICT, rows(1, 1, 1), b"Authorization: Bearer wrong"), (401, "unknown-key")),
    (predict(10, 20, 30), answer(60)),
    (request(PREDICT, None, BEARER), (405, "method-not-allowed")),
    (predict(0, 0, 1), answer(1)),
    (predict(0, 0, 2), answer(2)),
    (request(b"/nothing", rows(1), BEARER), (404, "unknown-path")),
    (predict(9, 0.0, 0, path=NOTING), answer(9)),
    (predict(0, 0, 3), answer(3)),
    (request(b"/livez"), (200, LIVE)),
]


def check_mixed(replies: list[Reply]) -> None:
    """Check that each answer belongs to its own request."""
    for number, (reply, (_, (status, shown))) in enumerate(zip(replies, MIXED, strict=True)):
        given = show(reply)
        assert given[0] == status, number
        assert shown is None or given[1] == shown, number


def test_twenty_pipelined_requests(worker: Any) -> None:
    """Slow and fast predictions, probes and refusals on one connection are answered in order."""
    with connected(worker.port) as connection:
        connection.send(b"".join(data for data, _ in MIXED))
        check_mixed([connection.reply() for _ in MIXED])
        connection.send(predict(1, 1, 1))
        assert show(connection.reply()) == answer(3)


def test_pipelined_requests_and_the_end(worker: Any) -> None:
    """A client that ends its side after all requests gets all answers, then the end of the connection."""
    with connected(worker.port) as connection:
        connection.send(b"".join(data for data, _ in MIXED))
        connection.finish()
        check_mixed(connection.replies())


def test_a_thousand_pipelined_predictions(worker: Any) -> None:
    """More than the gateway reads ahead: all are answered, in order."""
    with connected(worker.port) as connection:
        connection.send(b"".join(predict(number, 0, 0) for number in range(1_000)))
        assert [show(connection.reply()) for _ in range(1_000)] == [answer(number) for number in range(1_000)]


def test_pipelined_requests_with_large_bodies(worker: Any) -> None:
    """Reading pauses while many wait, and continues although the last request is still incomplete."""
    body = json.dumps({"instances": [[1, 2, 3]] * 5_000}).encode()
    with connected(worker.port) as connection:
        sender = threading.Thread(target=connection.send, args=(request(PREDICT, body, BEARER) * 60,))
        sender.start()
        assert [connection.reply().status for _ in range(60)] == [200] * 60
        sender.join()


@pytest.mark.parametrize("first", [predict(1, 2, 3), request(b"/livez")], ids=["prediction", "probe"])
def test_close_ends_a_pipeline(worker: Any, first: bytes) -> None:
    """Requests after one with `Connection: close` get no answer."""
    last = first.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with connected(worker.port) as connection:
        connection.send(first + last + first)
        replies = connection.replies()
    assert [reply.status for reply in replies] == [200, 200]
    assert [reply.closes for reply in replies] == [False, True]


@pytest.mark.parametrize(
    ("data", "right"),
    [(predict(1, 2, 3), answer(6)), (predict(7, 0.3, 0, path=NOTING), answer(7.3)), (request(b"/livez"), (200, LIVE))],
    ids=["prediction", "slow prediction", "probe"],
)
def test_half_closed(worker: Any, data: bytes, right: Any) -> None:
    """A client that ends its side after the request still gets its answer, then the end of the connection."""
    with connected(worker.port) as connection:
        connection.send(data)
        connection.finish()
        assert [show(reply) for reply in connection.replies() if reply.status >= 200] == [right]


def chunked(*row: float) -> bytes:
    """A prediction whose body comes in two chunks."""
    body = rows(*row)
    head = request(PREDICT, b"", BEARER).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    return head + b"5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (body[:5], len(body) - 5, body[5:])


@pytest.mark.parametrize(
    ("data", "right"),
    [(predict(1, 2, 3), answer(6)), (chunked(1, 2, 3), answer(6)), (request(b"/livez"), (200, LIVE)),
     (request(PREDICT, rows(1, 2), BEARER), (422, "wrong-shape"))],
    ids=["length", "chunked", "probe", "refused"],
)  # fmt: skip
def test_cut_anywhere(worker: Any, data: bytes, right: Any) -> None:
    """Wherever a request is cut into two segments, the answer is the same; also if each byte arrives separately."""
    with ExitStack() as stack:
        cut = [stack.enter_context(connected(worker.port)) for _ in range(1, len(data))]
        for place, connection in enumerate(cut, 1):
            connection.send(data[:place])
        round_trip(worker)
        for place, connection in enumerate(cut, 1):
            connection.send(data[place:])
        for connection in cut:
            status, shown = show(connection.reply())
            assert (status, shown) == right
        drop = stack.enter_context(connected(worker.port))
        for byte in data:
            drop.send(bytes([byte]))
            round_trip(worker)
        assert show(drop.reply()) == right


def round_trip(worker: Any) -> None:
    """A request on another connection: when it is answered, the worker has read what was sent before it."""
    assert worker.client.get("/livez").status_code == 200


@pytest.mark.parametrize("place", [1, 40, 150])
def test_two_requests_in_one_segment(worker: Any, place: int) -> None:
    """A segment that holds one request and a part of the next."""
    first, second = predict(1, 2, 3), predict(4, 5, 6)
    with connected(worker.port) as connection:
        connection.send(first + second[:place])
        assert show(connection.reply()) == answer(6)
        connection.send(second[place:])
        assert show(connection.reply()) == answer(15)


def test_expect_continue(worker: Any) -> None:
    """A client that waits for 100 Continue gets it, sends its body, and is answered."""
    for path in (PREDICT, b"/v2/models/sum/infer"):
        data = request(path, rows(1, 2, 3), BEARER, EXPECT)
        head, _, body = data.partition(b"\r\n\r\n")
        with connected(worker.port) as connection:
            connection.send(head + b"\r\n\r\n")
            interim = connection.reply()
            assert (interim.status, interim.headers) == (100, {})
            connection.send(body)
            assert connection.reply().status == (200 if path == PREDICT else 400)


def test_expect_continue_without_waiting(worker: Any) -> None:
    """A client that sends its body at once is answered once."""
    with connected(worker.port) as connection:
        connection.send(request(PREDICT, rows(1, 2, 3), BEARER, EXPECT) + predict(1, 1, 1))
        replies = [connection.reply() for _ in range(2)]
        if replies[0].status == 100:
            replies = [replies[1], connection.reply()]
        assert [show(reply) for reply in replies] == [answer(6), answer(3)]


@pytest.mark.parametrize(
    ("path", "lines", "status"),
    [(PREDICT, (), 401), (PREDICT, (b"Authorization: Bearer wrong",), 401), (b"/v1/models/small:predict", (BEARER,), 413),
     (b"/v1/models/unknown:predict", (BEARER,), 404), (b"/livez", (), 405),
     (PREDICT, (BEARER, b"Content-Encoding: unknown"), 415), (PREDICT, (BEARER, b"Request-Timeout-Ms: x"), 400)],
)  # fmt: skip
def test_expect_continue_refused(worker: Any, path: bytes, lines: tuple[bytes, ...], status: int) -> None:
    """A request with a bad head is refused at once: no 100, no reading of the body, and the connection closes."""
    head = request(path, b" " * 5_000, *lines, EXPECT).partition(b"\r\n\r\n")[0]
    with connected(worker.port) as connection:
        connection.send(head + b"\r\n\r\n")
        (reply,) = connection.replies()
    assert reply.status == status
    assert reply.closes


def test_expect_continue_in_its_turn(worker: Any) -> None:
    """100 Continue does not come between the answers to earlier requests."""
    head, _, body = request(PREDICT, rows(1, 2, 3), BEARER, EXPECT).partition(b"\r\n\r\n")
    with connected(worker.port) as connection:
        connection.send(predict(7, 0.2, 0, path=NOTING) + head + b"\r\n\r\n")
        assert show(connection.reply()) == answer(7.2)
        assert connection.reply().status == 100
        connection.send(body)
        assert show(connection.reply()) == answer(6)


@pytest.mark.parametrize("path", [PREDICT, b"/livez"])
def test_http_1_0(worker: Any, path: bytes) -> None:
    """One answer, then the end of the connection, unless the answer itself promises keep-alive; never an interim answer."""
    body = None if path == b"/livez" else rows(1, 2, 3)
    with connected(worker.port) as connection:
        connection.send(request(path, body, BEARER, EXPECT, version=b"HTTP/1.0"))
        assert [reply.status for reply in connection.replies()] == [200]
    with connected(worker.port) as connection:
        data = request(path, body, BEARER, b"Connection: keep-alive", version=b"HTTP/1.0")
        connection.send(data)
        if connection.reply().headers.get(b"connection", b"").lower() == b"keep-alive":
            connection.send(data)
            assert connection.reply().status == 200
        else:
            assert connection.rest() == b""


def test_http_1_0_without_host(worker: Any) -> None:
    """HTTP/1.0 had no Host header. A request that could have come through any name is refused, except for probes."""
    for path, status in ((b"/nothing", 400), (b"/livez", 200)):
        with connected(worker.port) as connection:
            connection.send(b"GET " + path + b" HTTP/1.0\r\n\r\n")
            assert [reply.status for reply in connection.replies()] == [status], path


@pytest.mark.parametrize(
    ("path", "status"), [(b"/livez", 200), (b"/readyz", 200), (PREDICT, 405), (b"/nothing", 401), (b"/v1/models", 405)]
)
def test_head(worker: Any, path: bytes, status: int) -> None:
    """A HEAD answer has no body, whatever its headers say; the next answer follows at once."""
    with connected(worker.port) as connection:
        connection.send(request(path, None, method=b"HEAD") + request(b"/livez"))
        assert connection.reply(to_head=True).status == status
        assert show(connection.reply()) == (200, LIVE)


def test_absolute_form(worker: Any) -> None:
    """The target may be a whole URL, as clients send it to proxies; its host must pass the check of the Host header, and be the
    same."""
    for base in (b"http://localhost", b"http://127.0.0.1:%d" % worker.port):
        with connected(worker.port) as connection:
            connection.send(predict(1, 2, 3, path=base + PREDICT) + request(base + b"/livez"))
            assert [connection.reply().status, connection.reply().status] == [200, 200]
    for url in (
        b"http://evil.example" + PREDICT,
        b"http://localhost@evil.example" + PREDICT,
        b"ftp://localhost" + PREDICT,
    ):
        with connected(worker.port) as connection:
            connection.send(predict(1, 2, 3, path=url))
            assert connection.reply().status in (400, 421)


@pytest.mark.parametrize(
    ("method", "url"),
    [(b"OPTIONS", b"*"), (b"GET", b"*"), (b"GET", b"http://"), (b"GET", b"//"), (b"GET", b"/%"), (b"GET", b"/nothing?")],
)
def test_odd_addresses(worker: Any, method: bytes, url: bytes) -> None:
    """They are refused like any unknown path."""
    with connected(worker.port) as connection:
        connection.send(request(url, None, BEARER, method=method))
        assert connection.reply().status in (400, 404, 405)
    round_trip(worker)


def test_gone_in_the_middle(worker: Any) -> None:
    """Clients that vanish anywhere in their request leave nothing behind."""
    data = predict(1, 2, 3)
    for place in range(0, len(data), 3):
        with connected(worker.port) as connection:
            connection.send(data[:place])
    round_trip(worker)
    with connected(worker.port) as connection:
        connection.send(data)
        assert show(connection.reply()) == answer(6)
