"""A stopping worker loses no request; after a second signal, or if requests do not end, it reports what it gave up."""

from __future__ import annotations

import http.client
import json
import signal
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.gates import closed
from tests.gateway.planted_worker import GATED
from tests.waiting import DEADLINE_S, NO_TLS, eventually

BODY = json.dumps({"instances": [[1, 2, 3]]})
HEADERS = {"Content-Type": "application/json"}


class Client(threading.Thread):
    """Sends requests on one connection until an answer announces the connection's end. Never retries."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.answers = 0
        self.fault = ""

    def run(self) -> None:
        """Send requests until the connection ends."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            while True:
                connection.request("POST", "/v1/models/sum:predict", BODY, HEADERS)
                reply = connection.getresponse()
                body = reply.read()
                if reply.status != 200 or json.loads(body) != {"predictions": [6.0]}:
                    self.fault = f"{reply.status} {body!r}"
                    return
                self.answers += 1
                if reply.will_close:
                    return
        except (OSError, http.client.HTTPException) as error:
            self.fault = repr(error)
        finally:
            connection.close()


@pytest.fixture
def plan(make_plan: type[Any]) -> Any:
    """An endpoint, and one whose model waits at a gate."""
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)])
    plan.endpoint("gated", [plan.package(2, "noting")])
    return plan


def test_d3_sigterm_under_load_fails_no_request(start_worker: Callable[..., Any], plan: Any) -> None:
    """An answer announces the end of each connection; no client meets a closed one."""
    worker = start_worker(plan).wait_ready()
    clients = [Client(worker.port) for _ in range(16)]
    for client in clients:
        client.start()
    eventually(lambda: all(client.answers > 20 for client in clients), "all clients are answered")
    worker.process.send_signal(signal.SIGTERM)
    for client in clients:
        client.join(DEADLINE_S)
    assert [client.fault for client in clients if client.fault or client.is_alive()] == []
    assert worker.process.wait(DEADLINE_S) == 0


def test_d3_the_probe_says_no_before_connections_are_refused(start_worker: Callable[..., Any], plan: Any) -> None:
    """Until load balancers notice the probe, everything is answered as before."""
    worker = start_worker(plan, drain_delay_s=DEADLINE_S).wait_ready()
    worker.process.send_signal(signal.SIGTERM)
    eventually(
        lambda: httpx.get(f"http://127.0.0.1:{worker.port}/readyz", timeout=DEADLINE_S, verify=NO_TLS).status_code == 503,
        "the probe says no",
    )
    late = httpx.post(
        f"http://127.0.0.1:{worker.port}/v1/models/sum:predict",
        content=BODY,
        headers=HEADERS,
        timeout=DEADLINE_S,
        verify=NO_TLS,
    )
    assert (late.status_code, late.json()) == (200, {"predictions": [6.0]})
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(DEADLINE_S) == 0


def test_d3_an_idle_connection_may_ask_once_more(start_worker: Callable[..., Any], plan: Any) -> None:
    """A request that crosses the stop on an open connection is answered, and its answer announces the end."""
    worker = start_worker(plan, linger_s=DEADLINE_S).wait_ready()
    worker.client.close()  # the stop would wait for the probe's idle connection
    connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=DEADLINE_S)
    connection.connect()
    worker.process.send_signal(signal.SIGTERM)
    eventually(lambda: _refuses(worker.port), "new connections are refused")
    connection.request("POST", "/v1/models/sum:predict", BODY, HEADERS)
    reply = connection.getresponse()
    assert (reply.status, reply.getheader("connection")) == (200, "close")
    reply.read()
    connection.close()
    assert worker.process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("twice", [False, True], ids=["grace", "second-signal"])
def test_d4_what_does_not_end_is_told_so(start_worker: Callable[..., Any], plan: Any, twice: bool) -> None:
    """At the end of the grace period, or at a second signal, open requests get 503, and the exit status shows it."""
    worker = start_worker(plan, grace_s=10 * DEADLINE_S if twice else 0.1).wait_ready()
    replies: list[httpx.Response] = []

    def ask() -> None:
        url = f"http://127.0.0.1:{worker.port}/v1/models/gated:predict"
        replies.append(httpx.post(url, json={"instances": [[1, GATED, 0]]}, timeout=DEADLINE_S, verify=NO_TLS))

    with closed(worker.folder / "gate"):
        asking = [threading.Thread(target=ask, daemon=True) for _ in range(2)]
        for number, thread in enumerate(asking, 1):
            thread.start()
            eventually(lambda number=number: _busy(worker) == number, "it is inside")
        worker.process.send_signal(signal.SIGTERM)
        if twice:
            eventually(lambda: _refuses(worker.port), "new connections are refused")
            worker.process.send_signal(signal.SIGTERM)
        for thread in asking:
            thread.join(DEADLINE_S)
    assert [(reply.status_code, reply.json().get("code")) for reply in replies] == [(503, "stopping")] * 2
    assert worker.process.wait(DEADLINE_S) == 1
    assert "given-up" in _log(worker)


def _refuses(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/livez", timeout=DEADLINE_S, verify=NO_TLS)
    except httpx.ConnectError:
        return True
    return False


def _busy(worker: Any) -> int:
    """Number of requests in the waiting version, from the slab."""
    from roadworthy.foundation.slab import SlabReader
    from roadworthy.serving.metrics import read_totals

    reader = SlabReader(worker.folder / "run" / "slab")
    try:
        return read_totals(reader).in_flight.get("gated", 0)
    finally:
        reader.close()


def _log(worker: Any) -> str:
    text: str = (worker.folder / "log").read_text()
    return text
