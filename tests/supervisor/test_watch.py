"""How the supervisor treats workers that hang or hold too much memory."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from roadworthy.foundation.slab import READY, SlabReader, SlotWriter, create_slab
from roadworthy.foundation.sockets import listen
from roadworthy.supervisor.plan import WorkerLimits
from roadworthy.supervisor.watch import WorkerWatch
from tests.supervisor.running import Running, is_running, running
from tests.supervisor.test_supervisor import answer
from tests.waiting import HandClock, eventually

__all__ = ["running"]


class Watched:
    """A watch over one READY worker, which is this process, by a clock that the test moves."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **limits: Any) -> None:
        self.clock = HandClock()
        self.said: list[str] = []
        for module in ("roadworthy.supervisor.watch", "roadworthy.foundation.slab"):
            monkeypatch.setattr(f"{module}.time", self.clock)
        monkeypatch.setattr("roadworthy.supervisor.watch.say", self.said.append)
        slab = folder / "slab"
        create_slab(slab, 2)
        self.writer = SlotWriter(slab, 0)
        self.writer.take()
        self.writer.state(READY)
        self.limits = WorkerLimits(**{"hang_s": 15.0, **limits})
        self.watch = WorkerWatch(SlabReader(slab), self.limits)
        process = SimpleNamespace(pid=os.getpid())
        self.child: Any = SimpleNamespace(process=process, slot=0, stop_by=None, plan=SimpleNamespace(name="w"))

    def look(self) -> tuple[list[Any], list[Any]]:
        """Look at it, when it is time."""
        self.clock.step(self.limits.look_s)
        return self.watch.look([self.child])


def test_c4_a_worker_without_a_sign_of_life_is_killed_and_started_again(running: Running) -> None:
    """The other worker is not affected; the log has the reason."""
    running.start(running.plan("mute", slot=0, mute=True), running.plan("w", slot=1), hang_s=4.0, look_s=0.1)
    running.wait_ready(2)
    (_, pid, _) = running.events("ready", "mute")[0]
    eventually(lambda: len(running.events("ready", "mute")) >= 2, "another one is there")
    assert not is_running(pid)
    assert not running.events("stop", "mute")
    assert len(running.events("start", "w")) == 1
    running.end(signal.SIGTERM)
    assert "mute died (hung, signal 9)" in running.said()


def test_a_machine_that_stood_still_kills_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All processes stood still for longer than a worker may be silent: it has had no time for a heartbeat."""
    watched = Watched(tmp_path, monkeypatch, hang_s=15.0, look_s=1.0)
    for _ in range(2):
        watched.clock.step(100.0)
        assert watched.look() == ([], [])
        watched.writer.heartbeat()
        assert watched.look() == ([], [])
    watched.clock.step(100.0)
    assert watched.look() == ([], [])
    assert watched.look() == ([watched.child], [])


def test_c11_a_worker_that_outgrows_its_bound_is_replaced_warm(running: Running) -> None:
    """The replacement is READY before the old worker is asked to stop; every call is answered."""
    with listen("127.0.0.1", 0) as listener:
        port, fd = listener.getsockname()[1], listener.fileno()
        plan = running.plan("w", fds=(fd,), fd=fd, slot=0, grows=True)
        running.start(plan, fds=(fd,), memory_bytes=70 << 20, look_s=0.05, recycle_every_s=0.2)
    running.wait_ready(1)
    answers = set()

    def replaced() -> bool:
        answers.add(answer(port))
        return len(running.events("stop")) >= 2

    eventually(replaced, "two are replaced")
    order = [line.split()[1] for line in running.log.read_text().splitlines()]
    assert order[:8] == ["start", "ready", "start", "ready", "stop", "start", "ready", "stop"]
    assert len(answers) >= 2
    assert running.end(signal.SIGTERM) == 0


def test_c11_workers_are_replaced_no_more_often_than_they_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a replacement the next one waits."""
    watched = Watched(tmp_path, monkeypatch, recycle_every_s=10.0)
    assert watched.watch.may_recycle
    watched.watch.recycled()
    watched.clock.step(9.9)
    assert not watched.watch.may_recycle
    watched.clock.step(0.2)
    assert watched.watch.may_recycle


def test_c11_a_worker_that_leaks_is_replaced_below_its_bound(running: Running) -> None:
    """Growth since it was warm is enough."""
    plan = running.plan("w", slot=0, grows=True)
    running.start(plan, growth_bytes=40 << 20, warm_up_s=0.2, look_s=0.05)
    running.wait_ready(2)
    eventually(lambda: running.events("stop"), "the old one stopped in order")
    assert running.end(signal.SIGTERM) == 0


def test_a_worker_that_is_born_too_large_is_not_replaced_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one would be as large; the log says so once."""
    watched = Watched(tmp_path, monkeypatch, memory_bytes=1 << 20)
    for _ in range(20):
        watched.writer.heartbeat()
        assert watched.look() == ([], [])
    (line,) = watched.said
    assert line.startswith("w has held ")
    assert line.endswith("since its start, more than its bound")
