"""The supervisor with real children: starts, restarts, stops in order, recycles warm, and leaves no process behind."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from roadworthy.foundation.child import EXIT_REFUSED
from roadworthy.foundation.slab import SlabReader
from roadworthy.foundation.sockets import listen
from roadworthy.supervisor.plan import ChildPlan, WorkerLimits
from roadworthy.supervisor.supervise import Supervisor
from tests.supervisor.running import Running, is_running, running
from tests.waiting import DEADLINE_S, eventually

__all__ = ["running"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_children_stop_stage_by_stage(running: Running, number: int) -> None:
    """The lowest stage has stopped completely before the next is asked to stop; the exit status is 0."""
    running.start(running.plan("control", stage=2), running.plan("agent", stage=1), *(running.plan(f"w{i}") for i in (0, 1)))
    running.wait_ready(4)
    assert running.end(number) == 0
    order = [name for name, _, _ in running.events("stop")]
    assert (set(order[:2]), order[2:]) == ({"w0", "w1"}, ["agent", "control"])


def test_a_killed_child_is_started_again_at_once(running: Running) -> None:
    """After kill -9 of a child that ran well: a new one without delay, in the same slot."""
    running.start(running.plan("w", slot=0))
    running.wait_ready(1)
    os.kill(running.events("ready")[0][1], signal.SIGKILL)
    running.wait_ready(2)
    eventually(lambda: "starting it again in 0.0 s" in running.said(), "the log tells of no pause")
    (_, first, _), (_, second, slot) = running.events("ready")
    assert (first != second, slot) == (True, "0")
    status = SlabReader(running.slab).status(0)
    assert (status.starts, status.crashes, status.pid) == (2, 1, second)
    assert running.end(signal.SIGTERM) == 0


def test_a_child_that_keeps_dying_gets_growing_pauses(running: Running) -> None:
    """No restarts faster than the backoff (0, 0.1, 0.2, 0.4, 0.4 s here), and the others are not affected."""
    running.start(running.plan("bad", fail=3), running.plan("good"))
    eventually(lambda: len(running.events("start", "bad")) >= 6, "six starts")
    assert len(running.events("start", "good")) == 1
    assert running.end(signal.SIGTERM) == 0
    assert re.findall(r"starting it again in (\S+) s", running.said())[:5] == ["0.0", "0.1", "0.2", "0.4", "0.4"]


def test_a_child_that_refuses_to_start_stops_everything(running: Running) -> None:
    """There is no half start: EXIT_REFUSED becomes the supervisor's own exit status."""
    running.start(running.plan("good"), running.plan("bad", fail=EXIT_REFUSED))
    assert running.end() == EXIT_REFUSED
    assert len(running.events("start", "bad")) == 1


def test_d4_a_child_that_ignores_sigterm_is_killed_after_its_grace(running: Running) -> None:
    """The grace is kept, then the child is killed, and the exit status says so."""
    running.start(running.plan("deaf", stubborn=True, grace_s=0.3), running.plan("agent", stage=1))
    running.wait_ready(2)
    assert running.end(signal.SIGTERM) == 1
    assert "deaf did not stop in time" in running.said()
    assert [name for name, _, _ in running.events("stop")] == ["agent"]


def test_d4_a_second_signal_forces(running: Running) -> None:
    """A second signal does not wait for the grace; status and log say that some children could not finish."""
    running.start(running.plan("deaf", stubborn=True, grace_s=3_600))
    running.wait_ready(1)
    running.signal(signal.SIGTERM)
    running.signal(signal.SIGINT)
    assert running.end() == 1
    assert "deaf was killed" in running.said()
    assert "stopped by force" in running.said()


def test_d2_kill_9_of_the_supervisor_ends_the_children_and_frees_the_port(running: Running) -> None:
    """The children are gone and the port can be bound; a new supervisor serves on it again."""
    with listen("127.0.0.1", 0) as listener:
        host, port = listener.getsockname()
        fd = listener.fileno()
        running.start(running.plan("w", fds=(fd,), fd=fd), running.plan("stubborn", stubborn=True), fds=(fd,))
    running.wait_ready(2)
    running.signal(signal.SIGKILL)
    pids = [pid for _, pid, _ in running.events("ready")]
    eventually(lambda: not any(map(is_running, pids)), "the children are gone")
    assert running.process is not None
    running.process.wait()
    with listen(host, port) as listener:
        fd = listener.fileno()
        running.start(running.plan("w", fds=(fd,), fd=fd), fds=(fd,))
    running.wait_ready(3)
    assert answer(port) not in pids
    assert running.end(signal.SIGTERM) == 0


def answer(port: int) -> int:
    """Which process answers on the port."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        return int(connection.recv(100))


def test_workers_are_recycled_without_a_gap(running: Running) -> None:
    """On SIGHUP each worker's replacement is READY in the spare slot before the worker stops; every call is answered."""
    with listen("127.0.0.1", 0) as listener:
        port, fd = listener.getsockname()[1], listener.fileno()
        plans = [running.plan(f"w{slot}", fds=(fd,), fd=fd, slot=slot) for slot in (0, 1)]
        running.start(*plans, running.plan("agent", stage=1), fds=(fd,))
    running.wait_ready(3)
    first = {pid for name, pid, _ in running.events("ready") if name != "agent"}
    running.signal(signal.SIGHUP)
    answers = set()

    def switched() -> bool:
        answers.add(answer(port))
        return len(running.events("stop")) >= 2 and bool(answers - first)

    eventually(switched, "both are replaced")
    running.wait_ready(5)
    eventually(lambda: not any(map(is_running, first)), "the old workers are gone")
    order = [event for name, event in (line.split()[:2] for line in running.log.read_text().splitlines()) if name != "agent"]
    assert order[4:] == ["start", "ready", "stop", "start", "ready", "stop"]
    assert [slot for _, _, slot in running.events("ready") if slot != "-"][2:] == ["2", "0"]
    assert len(running.events("start", "agent")) == 1
    assert running.end(signal.SIGTERM) == 0


def test_a_replacement_that_does_not_become_ready_costs_nothing(running: Running) -> None:
    """It is given up; the old worker stays, and the next recycle tries again in the same spare slot."""
    running.start(running.plan("w", slot=0, never_ready=True), ready_s=0.3)
    running.wait_ready(1)
    for count in (1, 2):
        running.signal(signal.SIGHUP)
        eventually(lambda count=count: running.said().count("did not become ready") == count, "it was given up")
    (_, first, slot), *replacements = running.events("start")  # one may have been given up before it could write
    assert (slot, {slot for _, _, slot in replacements} - {"1"}) == ("0", set())
    eventually(lambda: not any(is_running(pid) for _, pid, _ in replacements), "the replacements are gone")
    assert is_running(first)
    assert running.end(signal.SIGTERM) == 0


@pytest.mark.parametrize("worker", [False, True])
def test_an_idle_supervisor_sleeps(running: Running, monkeypatch: pytest.MonkeyPatch, worker: bool) -> None:
    """With nothing under way it waits for an event without limit; with workers, until the next look at them."""
    document = running.plan("w", **({"slot": 0} if worker else {}))
    plan = ChildPlan(**{**document, "fds": ()})
    limits = WorkerLimits(hang_s=15.0, look_s=3_600.0)
    supervisor = Supervisor([plan], slab=running.slab if worker else None, limits=limits)
    waits: list[float | None] = []

    def asleep(reads: list[Any], writes: list[Any], errors: list[Any], wait_s: float | None) -> Any:
        waits.append(wait_s)
        if len(waits) == 1:
            supervisor.stop()
        return select.select(reads, writes, errors, wait_s)

    monkeypatch.setattr("roadworthy.supervisor.supervise.select", SimpleNamespace(select=asleep))
    supervisor.run()
    if worker:
        assert waits[0] is not None
        assert waits[0] > limits.look_s / 2
    else:
        assert waits[0] is None
