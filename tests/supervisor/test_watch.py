"""What the supervisor does about workers that hang or hold too much memory."""

from __future__ import annotations

import os
import signal
import time

from roadworthy.foundation.sockets import listen
from tests.supervisor.running import Running, eventually, is_running, running
from tests.supervisor.test_supervisor import answer

__all__ = ["running"]


def test_c4_a_worker_without_a_sign_of_life_is_killed_and_started_again(running: Running) -> None:
    """The other worker is left alone; the log says why."""
    running.start(running.plan("mute", slot=0, mute_after_s=0.3), running.plan("w", slot=1), hang_s=0.5, look_s=0.1)
    running.wait_ready(2)
    (_, pid, _) = running.events("ready", "mute")[0]
    eventually(lambda: len(running.events("ready", "mute")) >= 2, "another one is there")
    assert not is_running(pid)
    assert not running.events("stop", "mute")
    assert len(running.events("start", "w")) == 1
    running.signal(signal.SIGTERM)
    assert running.process is not None
    _, log = running.process.communicate(timeout=20)
    assert "mute died (hung, signal 9)" in log


def test_a_machine_that_stood_still_kills_no_worker(running: Running) -> None:
    """Everything is stopped for longer than a worker may be silent, and goes on: it has had no time to give a sign."""
    running.start(running.plan("w", slot=0), hang_s=0.4, look_s=0.3)
    running.wait_ready(1)
    assert running.process is not None
    (_, pid, _) = running.events("ready")[0]
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for process in (pid, running.process.pid):
            os.kill(process, number)
        time.sleep(0.8)  # the time that stands still, and the time after it
    assert len(running.events("start")) == 1
    assert running.end(signal.SIGTERM) == 0


def test_c11_a_worker_that_outgrows_its_bound_is_replaced_warm(running: Running) -> None:
    """The replacement is READY before the old one is told to stop; every call is answered; no more often than it may."""
    with listen("127.0.0.1", 0) as listener:
        port, fd = listener.getsockname()[1], listener.fileno()
        plan = running.plan("w", fds=(fd,), fd=fd, slot=0, grow_mb=80)
        limits = {"memory_bytes": 70 << 20, "look_s": 0.05, "recycle_every_s": 1.5}
        running.start(plan, fds=(fd,), **limits)
    running.wait_ready(1)
    begun = time.monotonic()
    answers = set()
    while len(running.events("stop")) < 2:
        answers.add(answer(port))
        assert time.monotonic() - begun < 15
    assert time.monotonic() - begun > 1.5
    order = [line.split()[1] for line in running.log.read_text().splitlines()]
    assert order[:8] == ["start", "ready", "start", "ready", "stop", "start", "ready", "stop"]
    assert len(answers) >= 2
    assert running.end(signal.SIGTERM) == 0


def test_c11_a_worker_that_leaks_is_replaced_below_its_bound(running: Running) -> None:
    """Growth since it was warm is enough."""
    plan = running.plan("w", slot=0, grow_mb=60, grow_after_s=0.8)
    running.start(plan, growth_bytes=40 << 20, warm_up_s=0.2, look_s=0.05)
    running.wait_ready(2)
    eventually(lambda: running.events("stop"), "the old one stopped in order")
    assert running.end(signal.SIGTERM) == 0


def test_a_worker_that_is_born_too_large_is_not_replaced_for_ever(running: Running) -> None:
    """Another one would be as large; the log says so, once."""
    running.start(running.plan("w", slot=0), memory_bytes=1 << 20, look_s=0.05, recycle_every_s=0.1)
    running.wait_ready(1)
    time.sleep(1.0)  # the time in which nothing may happen
    assert len(running.events("start")) == 1
    running.signal(signal.SIGTERM)
    assert running.process is not None
    _, log = running.process.communicate(timeout=20)
    assert log.count("above its bound") == 1
