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
        yield [stack.enter_context(connected(worker.port)) for _ in range(4 * SPARE)]


def test_b9_out_of_descriptors(worker: Any, idle: list[Connection]) -> None:
    """Established connections are answered meanwhile; when they end, the same process answers new ones."""
    process = psutil.Process(worker.process.pid)
    for _ in range(20):
        idle[0].send(request(PREDICT, JSON))
        assert idle[0].reply().body == b'{"predictions":[6.0]}'
    for _ in range(20):
        eventually(lambda: process.status() == psutil.STATUS_SLEEPING, "it does not spin because a connection waits")
    assert worker.process.poll() is None
    assert idle[0].closed() is False
    for connection in idle[1:]:
        connection.close()

    def answered() -> bool:
        with connected(worker.port) as connection, contextlib.suppress(ClosedError):
            connection.send(request(PREDICT, JSON))
            return connection.reply().status == 200
        return False

    eventually(answered, "a new connection is answered")
    assert process.is_running()
    assert process.num_fds() <= SPARE + 60
