"""A1 to A22 by the hundred: no crash, memory does not grow with hostile requests, and a planted leak is detected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from bench.load.hostile import Route
from bench.load.hostile_load import Growth, assaults, growth
from roadworthy.gateway.readers.pool import MOST
from tests.conftest import PLANTED_WORKER

LEAKING_WORKER = Path(__file__).parents[2] / "bench" / "load" / "leaking_worker.py"


def attacked(worker: Any) -> Growth:
    """The growth after 1,000 hostile requests."""
    process = psutil.Process(worker.process.pid)
    return growth(worker.port, Route(), lambda: [process], requests=1_000, warm=2 * len(assaults(Route())))


def test_a21_hostile_requests_leave_nothing_behind(start_worker: Callable[..., Any], make_plan: type[Any]) -> None:
    """Each is refused or gets no answer; process, memory and descriptors stay the same."""
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)])
    worker = start_worker(plan).wait_ready()
    process = psutil.Process(worker.process.pid)
    descriptors, threads = process.num_fds(), process.num_threads()
    seen = attacked(worker)
    assert seen.bounded, seen
    assert not {status for status in seen.outcome.statuses if status >= 500} - {501, 505}
    assert seen.outcome.statuses[-1] == 0
    assert worker.process.poll() is None
    assert process.num_threads() <= threads + MOST  # the threads that wait for reader processes
    assert process.num_fds() <= descriptors + 20  # connections whose end has not been noticed yet
    assert worker.predict("sum", [[1, 2, 3]]).json() == {"predictions": [6.0]}


def test_a21_a_planted_leak_is_seen(start_worker: Callable[..., Any], make_plan: type[Any]) -> None:
    """The same check catches a worker that keeps a little of each request."""
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)])
    worker = start_worker(plan, command=[str(LEAKING_WORKER), str(PLANTED_WORKER)]).wait_ready()
    assert not attacked(worker).bounded
