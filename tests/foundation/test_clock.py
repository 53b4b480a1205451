"""The machine's clocks have the units that the protocol promises."""

from __future__ import annotations

import time

from roadworthy.foundation.clock import Clock, SystemClock


def test_units() -> None:
    """Seconds that never step back, and microseconds since 1970."""
    clock: Clock = SystemClock()
    first = clock.monotonic()
    assert clock.monotonic() >= first
    assert abs(clock.now_us() / 1e6 - time.time()) < 5
