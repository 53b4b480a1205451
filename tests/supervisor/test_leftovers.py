"""All processes that a child has started end when the child has exited, and are waited for."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.supervisor.running import Running, is_running, running
from tests.waiting import eventually

__all__ = ["running"]


def left_by(place: Running, count: int = 1) -> int:
    """The process that a child has left last, of so many."""
    eventually(lambda: len(place.events("left")) == count, "it has left one")
    return place.events("left")[-1][1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_g8_what_a_child_leaves_ends_with_it(running: Running, number: int) -> None:
    """However it exits. No zombie stays either: `is_running` would see it."""
    running.start(running.plan("a", leaves=True))
    running.wait_ready(1)
    left = left_by(running)
    assert is_running(left)
    ((_, child, _),) = running.events("start")
    os.kill(child, number)
    eventually(lambda: not is_running(left), "it has ended")
    running.wait_ready(2)
    left = left_by(running, 2)
    assert running.end(signal.SIGTERM) == 0
    assert not is_running(left)


def test_g8_what_was_there_before_the_supervisor_stays(running: Running, tmp_path: Path) -> None:
    """A shell may have become the supervisor: its own background processes are spared."""
    told = tmp_path / "told"
    running.start(
        running.plan("a", leaves=True),
        under=("sh", "-c", f'sleep 600 & echo $! >"{told}"; exec "$@"', "sh"),
    )
    running.wait_ready(1)
    left, before = left_by(running), int(told.read_text())
    assert running.end(signal.SIGTERM) == 0
    assert not is_running(left)
    assert is_running(before)
    os.kill(before, signal.SIGKILL)
