"""B9: connections beyond the number of files that the worker may open."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psutil
import pytest

from bench.load.hostile import JSON
from bench.load.raw import ClosedError, Connection, connected, request
from tests.waiting import eventually

PREDICT = b"/v1/models/sum:predict"
SPARE = 40


@pytest.fixture
def worker(start_worker: Callable[..., Any], make_plan: type[Any]) -> Any:
    """A worker that may open SPARE more files than it has now."""
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)])
    running = start_worker(plan).wait_ready()
    used = psutil.Process(running.process.pid).num_fds()
    resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (used + SPARE, used + SPARE))
    return running


@pytest.fixture
def idle(worker: Any) -> Iterator[list[Connection]]:
    """Four times as many connections as there are descriptors; closed at the end."""
    with ExitStack() as stack:
        yield [stack.enter_context(connected(worker.port, timeout_s=5)) for _ in range(4 * SPARE)]


def test_b9_out_of_descriptors(worker: Any, idle: list[Connection]) -> None:
    """Those that are connected are answered meanwhile; when they end, new ones are answered, by the same process."""
    process = psutil.Process(worker.process.pid)
    for _ in range(20):
        idle[0].send(request(PREDICT, JSON))
        assert idle[0].reply().body == b'{"predictions":[6.0]}'
    used = sum(process.cpu_times()[:2])
    assert not worker.process.poll()
    assert idle[0].closed(1.0) is False
    assert sum(process.cpu_times()[:2]) - used < 0.5, "it turns round and round over a connection that it cannot accept"
    for connection in idle[1:]:
        connection.close()

    def answered() -> bool:
        with connected(worker.port, timeout_s=1) as connection, contextlib.suppress(ClosedError):
            connection.send(request(PREDICT, JSON))
            return connection.reply().status == 200
        return False

    eventually(answered, "a new connection is answered")
    assert process.is_running()
    assert process.num_fds() <= SPARE + 60
