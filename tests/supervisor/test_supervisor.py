"""The supervisor with real children: starts, restarts, stops in order, recycles warm, and leaves nobody behind."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from roadworthy.foundation.child import EXIT_REFUSED
from roadworthy.foundation.slab import SlabReader
from roadworthy.foundation.sockets import listen
from tests.supervisor.running import Running, eventually, is_running, running

__all__ = ["running"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_children_stop_stage_by_stage(running: Running, number: int) -> None:
    """The lowest stage has wholly stopped before the next is told; the exit status is 0."""
    running.start(
        running.plan("control", stage=2), running.plan("agent", stage=1), *(running.plan(f"w{i}") for i in (0, 1))
    )
    running.wait_ready(4)
    assert running.end(number) == 0
    order = [name for name, _, _ in running.events("stop")]
    assert (set(order[:2]), order[2:]) == ({"w0", "w1"}, ["agent", "control"])


def test_a_killed_child_is_started_again_at_once(running: Running) -> None:
    """kill -9 of a child that ran well: a new one without a pause, in the same slot."""
    running.start(running.plan("w", slot=0))
    running.wait_ready(1)
    killed = time.monotonic()
    os.kill(running.events("ready")[0][1], signal.SIGKILL)
    running.wait_ready(2)
    assert time.monotonic() - killed < 5
    (_, first, _), (_, second, slot) = running.events("ready")
    assert (first != second, slot) == (True, "0")
    status = SlabReader(running.slab).status(0)
    assert (status.starts, status.crashes, status.pid) == (2, 1, second)
    assert running.end(signal.SIGTERM) == 0


def test_a_child_that_keeps_dying_gets_growing_pauses(running: Running) -> None:
    """No restart loop hotter than its pauses (0, 0.1, 0.2, 0.4, 0.4 s here), and the others are left alone."""
    running.start(running.plan("bad", fail=3), running.plan("good"))
    started = time.monotonic()
    eventually(lambda: len(running.events("start", "bad")) >= 5, "five starts")
    assert time.monotonic() - started >= 0.7
    assert len(running.events("start", "good")) == 1
    assert running.end(signal.SIGTERM) == 0


def test_a_child_that_refuses_to_start_stops_everything(running: Running) -> None:
    """There is no half start: EXIT_REFUSED becomes the supervisor's own exit status."""
    running.start(running.plan("good"), running.plan("bad", fail=EXIT_REFUSED))
    assert running.end() == EXIT_REFUSED
    assert len(running.events("start", "bad")) == 1


def test_d4_a_child_that_ignores_sigterm_is_killed_after_its_grace(running: Running) -> None:
    """The grace is kept, then it is force, and the exit status says so."""
    running.start(running.plan("deaf", stubborn=True, grace_s=0.3), running.plan("agent", stage=1))
    running.wait_ready(2)
    started = time.monotonic()
    assert running.end(signal.SIGTERM) == 1
    assert time.monotonic() - started >= 0.3
    assert [name for name, _, _ in running.events("stop")] == ["agent"]


def test_d4_a_second_signal_forces(running: Running) -> None:
    """Whoever asks twice does not wait for the grace; status and log say that not everything could finish."""
    running.start(running.plan("deaf", stubborn=True, grace_s=60))
    running.wait_ready(1)
    running.signal(signal.SIGTERM)
    started = time.monotonic()
    assert running.process is not None
    running.process.send_signal(signal.SIGINT)
    _, log = running.process.communicate(timeout=20)
    assert running.end() == 1
    assert time.monotonic() - started < 5
    assert "deaf was killed" in log
    assert "stopped by force" in log


def test_d2_kill_9_of_the_supervisor_ends_the_children_and_frees_the_port(running: Running) -> None:
    """Within 5 s the children are gone and the port can be bound; a new supervisor serves on it again."""
    with listen("127.0.0.1", 0) as listener:
        host, port = listener.getsockname()
        fd = listener.fileno()
        running.start(running.plan("w", fds=(fd,), fd=fd), running.plan("stubborn", stubborn=True), fds=(fd,))
    running.wait_ready(2)
    killed = time.monotonic()
    running.signal(signal.SIGKILL)
    pids = [pid for _, pid, _ in running.events("ready")]
    eventually(lambda: not any(map(is_running, pids)), "the children are gone", within_s=5)
    assert time.monotonic() - killed < 5
    assert running.process is not None
    running.process.communicate()
    with listen(host, port) as listener:
        fd = listener.fileno()
        running.start(running.plan("w", fds=(fd,), fd=fd), fds=(fd,))
    running.wait_ready(3)
    assert answer(port) not in pids
    assert running.end(signal.SIGTERM) == 0


def answer(port: int) -> int:
    """Which process answers on the port."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
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
    until = time.monotonic() + 15
    while len(running.events("stop")) < 2 or len(answers - first) < 1:
        answers.add(answer(port))
        assert time.monotonic() < until
    running.wait_ready(5)
    eventually(lambda: not any(map(is_running, first)), "the old workers are gone")
    order = [
        event for name, event in (line.split()[:2] for line in running.log.read_text().splitlines()) if name != "agent"
    ]
    assert order[4:] == ["start", "ready", "stop", "start", "ready", "stop"]
    assert [slot for _, _, slot in running.events("ready") if slot != "-"][2:] == ["2", "0"]
    assert len(running.events("start", "agent")) == 1
    assert running.end(signal.SIGTERM) == 0


def test_a_replacement_that_does_not_become_ready_costs_nothing(running: Running) -> None:
    """It is given up; the old worker goes on, and the next recycle tries again in the same spare slot."""
    running.start(running.plan("w", slot=0, never_ready=True), ready_s=0.3)
    running.wait_ready(1)
    for count in (2, 3):
        running.signal(signal.SIGHUP)
        running.wait_ready(count)
        replacement = running.events("ready")[count - 1]
        assert replacement[2] == "1"
        eventually(lambda pid=replacement[1]: not is_running(pid), "the replacement was given up")
    assert is_running(running.events("ready")[0][1])
    assert running.end(signal.SIGTERM) == 0


def test_an_idle_supervisor_sleeps(running: Running) -> None:
    """With nothing under way it uses no processor time."""
    psutil = pytest.importorskip("psutil")
    running.start(running.plan("w", slot=0))
    running.wait_ready(1)
    assert running.process is not None
    process = psutil.Process(running.process.pid)
    before = sum(process.cpu_times()[:2]), process.num_ctx_switches().voluntary
    time.sleep(0.5)  # the span that is measured
    assert sum(process.cpu_times()[:2]) - before[0] < 0.05
    assert process.num_ctx_switches().voluntary - before[1] <= 2
    assert running.end(signal.SIGTERM) == 0
