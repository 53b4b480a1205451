"""Waiting in tests: for a condition, up to a limit that only a hang exceeds. No other test file sleeps between looks."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable
from typing import Any

import httpx

DEADLINE_S = 120.0
"""The limit in seconds. Waits take seconds at most on a quiet machine, and many times as long on a busy one."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.02
"""Pauses between two looks grow by a quarter each: a look may cost as much as a request or a command."""
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""`verify` of clients for http:// addresses. By default each client loads the machine's certificates, which takes longer than
starting a warm process."""


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`; fails after the limit."""
    until = time.monotonic() + DEADLINE_S
    pause_s = _FIRST_PAUSE_S
    while time.monotonic() < until:
        with contextlib.suppress(httpx.TransportError):
            if value := condition():
                return value
        time.sleep(pause_s)
        pause_s = min(1.25 * pause_s, _LONGEST_PAUSE_S)
    raise AssertionError(f"never happened: {what}")


async def soon(condition: Callable[[], Any], what: str) -> Any:
    """As `eventually`, for a test in an event loop, whose other tasks continue."""
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        if value := condition():
            return value
        await asyncio.sleep(_FIRST_PAUSE_S / 5)
    raise AssertionError(f"never happened: {what}")


def dawdle(seconds: float) -> None:
    """The pause of a planted slow model. No test may depend on its length."""
    time.sleep(seconds)


class HandClock:
    """Replaces the module `time` in one module of the product: its monotonic clock moves only when the test moves it.

    `monkeypatch.setattr("roadworthy.runtime.layers.cache.time", clock)`. It starts at the machine's time, so that deadlines made
    with either clock can be compared.

    Attributes:
        passed_s: seconds by which it is ahead of its start.
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
