"""When records become files: soon on an idle core, later on a busy one, and at once when they are many or old."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from roadworthy.agent.records.pacing import Backlog, IdleCores, Pace, decide, yield_to_others

GIB = 1 << 30


@pytest.mark.parametrize(
    ("age_s", "size_bytes", "idle", "pace"),
    [
        (0.9, 1, 1.0, Pace.WAIT),
        (1.0, 1, 1.0, Pace.IDLE),
        (1.0, 1, 0.2, Pace.IDLE),
        (1.0, 1, 0.19, Pace.WAIT),
        (1.0, 1, 0.0, Pace.WAIT),
        (4.9, GIB // 2 - 1, 0.0, Pace.WAIT),
        (0.9, 1, None, Pace.WAIT),
        (1.0, 1, None, Pace.NOW),
        (5.0, 1, 0.0, Pace.NOW),
        (5.0, 1, 1.0, Pace.NOW),
        (0.0, GIB // 2, 0.0, Pace.NOW),
    ],
)
def test_what_is_decided(age_s: float, size_bytes: int, idle: float | None, pace: Pace) -> None:
    """By age, size and the least busy core; unknown is as if nothing were deferred."""
    assert decide(Backlog(age_s, size_bytes, GIB), idle) is pace


class Machine:
    """The times of two cores, and a clock."""

    def __init__(self, path: Path) -> None:
        self.path, self.now_s = path, 100.0
        self.busy, self.nice, self.idle = [0, 0], [0, 0], [0, 0]

    def look(self, cores: IdleCores, passed_s: float) -> float | None:
        """Look after some time."""
        self.now_s += passed_s
        lines = [f"cpu{n} {self.busy[n]} {self.nice[n]} 0 {self.idle[n]} 0 0 0 0 0 0" for n in (0, 1)]
        self.path.write_text("\n".join(["cpu  9 9 9 9 9 9 9 9 9 9", *lines, "intr 1 2 3", ""]))
        return cores.look()


def test_the_least_busy_core_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those on which the process may run, over half a second; time of niced processes is busy; old figures do not count."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    machine = Machine(tmp_path / "stat")
    cores = IdleCores(machine.path, lambda: machine.now_s)
    assert machine.look(cores, 0.0) is None
    machine.busy, machine.idle = [50, 25], [0, 25]
    assert machine.look(cores, 0.4) is None
    assert machine.look(cores, 0.2) == 0.5
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    machine.busy[0] += 20
    machine.nice[0] += 20
    machine.idle[0] += 10
    assert machine.look(cores, 0.6) == 0.2
    assert machine.look(cores, 60.0) is None


@pytest.mark.parametrize("text", [None, "", "cpu0 a b c d e", "cpu0 1 2"])
def test_a_machine_that_tells_nothing_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    """No file, an empty or a foreign one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    now_s = iter(range(100))
    if text is not None:
        (tmp_path / "stat").write_text(text)
    cores = IdleCores(tmp_path / "stat", lambda: float(next(now_s)))
    assert [cores.look() for _ in range(3)] == [None] * 3


def test_only_the_thread_that_asks_yields() -> None:
    """Its policy is SCHED_IDLE; the rest of the process keeps its own."""
    found: list[int] = []
    before = (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0))
    thread = threading.Thread(target=lambda: (yield_to_others(), found.append(os.sched_getscheduler(0))))
    thread.start()
    thread.join()
    assert found == [os.SCHED_IDLE]
    assert (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)) == before
