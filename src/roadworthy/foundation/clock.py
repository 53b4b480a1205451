"""Clocks to pass in: durations from the monotonic clock, timestamps from the wall clock."""

from __future__ import annotations

import threading
import time
from typing import Protocol

_DAY_US = 86_400_000_000


class Clock(Protocol):
    """Measures time; tests pass in a clock that they move by hand."""

    def monotonic(self) -> float:
        """Seconds that only ever grow; for durations and deadlines."""
        ...

    def now_us(self) -> int:
        """Microseconds since 1970-01-01 UTC; for timestamps, never for durations."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now_us(self) -> int:
        return time.time_ns() // 1000


class SteadyClock:
    """A clock whose timestamps never step back, even when the machine's wall clock is set back.

    After a step back it runs at half speed until the wall clock has caught up, so that order and, roughly, distances hold. It
    follows a step forward at once, and also a step back of more than a day: the clock was wrong before. Any thread.

    Args:
        clock: the machine's clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last_us = clock.now_us()
        self._last_s = clock.monotonic()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def now_us(self) -> int:
        with self._lock:
            wall_us, now_s = self._clock.now_us(), self._clock.monotonic()
            least_us = self._last_us + max(1, int((now_s - self._last_s) * 5e5))
            self._last_us = wall_us if least_us - wall_us > _DAY_US else max(wall_us, least_us)
            self._last_s = now_s
            return self._last_us
