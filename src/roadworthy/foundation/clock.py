"""Time as something that is handed in: durations on the monotonic clock, timestamps on the wall clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What measures time; tests hand in one that they move by hand."""

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
