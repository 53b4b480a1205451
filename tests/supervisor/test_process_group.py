"""The supervisor's children by a clock that the test moves: when an exited one restarts, and how long a stop may take."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from roadworthy.foundation.backoff import Backoff
from roadworthy.supervisor.plan import ChildPlan, Restarts
from roadworthy.supervisor.process_group import LEFT_S, Callbacks, ManagedProcess, ProcessExit, ProcessGroup
from tests.waiting import DEADLINE_S, HandClock

FOREVER = (sys.executable, "-c", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()")
RESTARTS = Restarts(Backoff(0.2, 1.0), healthy_s=10.0)


@contextmanager
def running_child(plan: ChildPlan) -> Iterator[tuple[ProcessGroup, ManagedProcess, list[ProcessExit]]]:
    """One child, which is started, and its deaths."""
    quick_exits: list[ProcessExit] = []
    group = ProcessGroup(
        [plan], RESTARTS, Callbacks(lambda _: None, lambda _child, _pid: None, lambda _, d: quick_exits.append(d))
    )
    try:
        group.start_due()
        yield group, group.members[0], quick_exits
    finally:
        group.kill_all()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    """The process group's clock."""
    clock = HandClock()
    monkeypatch.setattr("roadworthy.supervisor.process_group.time", clock)
    return clock


def test_d4_a_child_has_its_whole_grace(clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not killed a moment before the grace is over, killed after it, which is said once."""
    log = io.StringIO()
    monkeypatch.setattr("roadworthy.supervisor.process_group._log", log)
    with running_child(ChildPlan("deaf", FOREVER, {}, grace_s=30.0)) as (group, child, _):
        process = child.process
        assert process is not None
        group.ask_to_stop(child)
        clock.step(29.9)
        group.kill_overdue()
        assert not group.forced
        clock.step(0.2)
        group.kill_overdue()
        group.kill_overdue()
        assert group.forced
        assert log.getvalue().count("did not stop in time") == 1
        process.wait(DEADLINE_S)


def test_d4_what_was_ordered_does_not_hold_up_the_stop_of_everything(clock: HandClock) -> None:
    """Its callers are gone: a long run of a hanging model delays a stop of this child alone only."""
    with running_child(ChildPlan("runner", FOREVER, {}, grace_s=125.0)) as (group, child, _):
        child.ordered = True
        group.ask_to_stop(child)
        clock.step(124.0)
        group.kill_overdue()
        assert not group.forced
        group.stopping = True
        group.ask_to_stop(child)
        clock.step(LEFT_S + 0.1)
        group.kill_overdue()
        assert group.forced


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_openmp_threads_of_a_child_do_not_spin(monkeypatch: pytest.MonkeyPatch, given: str | None, expected: str) -> None:
    """Unless the operator wants it."""
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    else:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    look = f"import os; raise SystemExit(3 if os.environ['OMP_WAIT_POLICY'] == {expected!r} else 4)"
    with running_child(ChildPlan("looks", (sys.executable, "-c", look), {})) as (group, child, exits):
        assert child.process is not None
        child.process.wait(DEADLINE_S)
        group.reap()
        assert exits[0].status == 3


def test_a_child_that_keeps_dying_is_started_again_after_its_pause(clock: HandClock) -> None:
    """No delay after the first quick exit, then doubling up to the cap; a healthy life resets it."""
    with running_child(ChildPlan("bad", (sys.executable, "-c", "raise SystemExit(3)"), {})) as (
        group,
        child,
        quick_exits,
    ):

        def die() -> float:
            assert child.process is not None
            child.process.wait(DEADLINE_S)
            group.reap()
            pause_s = quick_exits[-1].next_start_s
            assert pause_s is not None
            if pause_s > 0:
                clock.step(pause_s - 0.01)
                group.start_due()
                assert child.process is None
            clock.step(0.02)
            group.start_due()
            return pause_s

        assert [die() for _ in range(6)] == pytest.approx([0.0, 0.2, 0.4, 0.8, 1.0, 1.0])
        assert child.process is not None
        child.process.wait(DEADLINE_S)
        clock.step(11.0)
        assert die() == pytest.approx(0.0)
