"""The machine's clocks have the units that the protocol promises."""

from __future__ import annotations

import time

from roadworthy.foundation.clock import Clock, SteadyClock, SystemClock


def test_units() -> None:
    """Seconds that never step back, and microseconds since 1970."""
    clock: Clock = SystemClock()
    first = clock.monotonic()
    assert clock.monotonic() >= first
    before_ns = time.time_ns()
    assert before_ns // 1_000 <= clock.now_us() <= time.time_ns() // 1_000


class Planted:
    """A clock that is moved by hand: wall time in microseconds, monotonic time in seconds."""

    def __init__(self) -> None:
        self.wall_us, self.at_s = 10**15, 50.0

    def monotonic(self) -> float:
        return self.at_s

    def now_us(self) -> int:
        return self.wall_us

    def step(self, seconds: float, jump_s: float = 0.0) -> None:
        """Let time pass; the wall clock jumps besides."""
        self.at_s += seconds
        self.wall_us += int((seconds + jump_s) * 1e6)


HOUR_S = 3_600.0


def test_d14_a_steady_clock_follows_the_wall_clock() -> None:
    """As long as it runs forward, and when it steps forward."""
    planted = Planted()
    steady = SteadyClock(planted)
    for jump_s in (0.0, 0.0, HOUR_S, 0.0, 400 * 24 * HOUR_S):
        planted.step(1.0, jump_s)
        assert steady.now_us() == planted.wall_us
    assert steady.monotonic() == planted.at_s


def test_d14_a_steady_clock_never_steps_back() -> None:
    """After a step back of an hour it runs at half speed until the wall clock has caught up."""
    planted = Planted()
    steady = SteadyClock(planted)
    planted.step(1.0)
    before = steady.now_us()
    planted.step(0.0, -HOUR_S)
    assert steady.now_us() == before + 1
    planted.step(10.0)
    assert 5_000_000 <= steady.now_us() - before < 5_000_010
    planted.step(2 * HOUR_S)
    assert steady.now_us() == planted.wall_us


def test_d14_a_clock_that_was_wrong_by_years_is_set_right_at_once() -> None:
    """Otherwise timestamps of the next century would stay for a century."""
    planted = Planted()
    steady = SteadyClock(planted)
    planted.step(1.0, -400 * 24 * HOUR_S)
    assert steady.now_us() == planted.wall_us
