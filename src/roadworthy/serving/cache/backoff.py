"""Timeouts and backoff for a server that many requests wait for. `shared.py` uses both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from roadworthy.foundation.backoff import Backoff

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
_RETRIES = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
STEADY_S = 10.0
"""After this much steady service the backoff starts short again."""
LATE_S, GRACES = 0.005, 3
"""A timer that fires later than this shows that this process is slow, not the server: the answer may have arrived unread."""


class DeadlineTimer:
    """Calls `expired` when the deadline that `due` returns has passed, with some grace where this process itself was late.

    Attributes:
        at: when it fires, monotonic clock, seconds; None when it is not set.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, due: Callable[[], float | None], expired: Callable[[], None]) -> None:
        self._loop = loop
        self._due = due
        self._expired = expired
        self._timer: asyncio.TimerHandle | None = None
        self._graces = 0
        self.at: float | None = None

    def watch(self, at: float) -> None:
        """Fire at `at` at the latest."""
        if self.at is None or at < self.at:
            self.cancel()
            self._set(at)

    def cancel(self) -> None:
        """Do not fire."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.at = None

    def _set(self, at: float) -> None:
        self.at = at
        self._timer = self._loop.call_later(max(0.0, at - time.monotonic()), self._go_off)

    def _go_off(self) -> None:
        now, due = time.monotonic(), self._due()
        late = now - (self.at or now)
        self._timer = self.at = None
        if due is None or due > now:
            self._graces = 0
            if due is not None:
                self._set(due)
        elif late > LATE_S and self._graces < GRACES:
            self._graces += 1
            self._set(now + LATE_S)
        else:
            self._graces = 0
            self._expired()
            self._set(now + LATE_S)  # in case nothing was in progress yet


class ServerBackoff:
    """Exponential backoff that starts short again after a steady period."""

    def __init__(self) -> None:
        self._delays = _RETRIES.delays()
        self._since = self._until = 0.0
        self._failing = False

    def began(self) -> None:
        """The service has begun."""
        self._since = time.monotonic()

    def next_s(self) -> float:
        """The next pause."""
        now = time.monotonic()
        if self._since and now - self._since > STEADY_S:
            self._delays = _RETRIES.delays()
        self._since = 0.0
        return next(self._delays)

    def holds(self) -> bool:
        """Whether a pause that `begin` started is still on."""
        return self._failing and time.monotonic() < self._until

    def begin(self) -> bool:
        """Start a pause; returns whether it is the first since the last success."""
        first, self._failing = not self._failing, True
        if time.monotonic() >= self._until:
            self._until = time.monotonic() + self.next_s()
        return first

    def over(self) -> bool:
        """End a failure; returns whether there was one."""
        was, self._failing = self._failing, False
        if was:
            self.began()
        return was
