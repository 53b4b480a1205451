"""How tests wait: for a condition, up to one limit that only bounds a hang. No other file of tests sleeps between looks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import httpx

DEADLINE_S = 120.0
"""The limit. What it bounds takes seconds at most on a quiet machine; on a busy one it may take many times as long."""

_PAUSE_S = 0.01


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`; fails after the limit."""
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        with contextlib.suppress(httpx.TransportError):
            if value := condition():
                return value
        time.sleep(_PAUSE_S)
    raise AssertionError(f"never happened: {what}")


async def soon(condition: Callable[[], Any], what: str) -> Any:
    """As `eventually`, for a test that runs in an event loop: everything else in the loop goes on meanwhile."""
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        if value := condition():
            return value
        await asyncio.sleep(_PAUSE_S / 10)
    raise AssertionError(f"never happened: {what}")


def dawdle(seconds: float) -> None:
    """What a planted model does that takes its time. No test may depend on how its length compares with anything else."""
    time.sleep(seconds)


class HandClock:
    """Stands in for the module `time` in one module of the product: its monotonic clock moves only when the test says so.

    `monkeypatch.setattr("roadworthy.runtime.layers.cache.time", clock)`. It begins at the machine's own time: a deadline that was
    made with one can be compared with the other.

    Attributes:
        passed_s: how far it is ahead of where it began.
    """

    def __init__(self) -> None:
        self._began_ns = time.monotonic_ns()
        self.passed_s = 0.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.monotonic_ns() / 1e9

    def monotonic_ns(self) -> int:
        """Nanoseconds."""
        return self._began_ns + round(self.passed_s * 1e9)

    perf_counter = monotonic

    def step(self, seconds: float) -> None:
        """Let time pass."""
        self.passed_s += seconds
