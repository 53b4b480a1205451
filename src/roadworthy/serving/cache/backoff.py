"""How long to wait for somebody else, and for how long to leave him alone once he has failed. `shared.py` uses both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from roadworthy.foundation.backoff import Backoff

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
_RETRIES = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
STEADY_S = 10.0
"""What has worked for so long begins with short pauses again."""
LATE_S, GRACES = 0.005, 3
"""An alarm that goes off later than this tells of this process, not of the other: his answer may be lying here unread."""


class Alarm:
    """Calls `ring` once the time that `due` tells has passed; with some grace where this process itself was late.

    Attributes:
        at: when it goes off, monotonic clock, seconds; None when it is not set.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, due: Callable[[], float | None], ring: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._due = due
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._graces = 0
        self.at: float | None = None

    def watch(self, at: float) -> None:
        """Go off at `at` at the latest."""
        if self.at is None or at < self.at:
            self.cancel()
            self._set(at)

    def cancel(self) -> None:
        """Do not go off."""
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
            self._ring()
            self._set(now + LATE_S)  # in case that nothing was under way yet


class Pauses:
    """How long to leave somebody alone who has failed: longer each time, and short again after a steady while."""

    def __init__(self) -> None:
        self._delays = _RETRIES.delays()
        self._since = self._until = 0.0
        self._failing = False

    def began(self) -> None:
        """It works."""
        self._since = time.monotonic()

    def next_s(self) -> float:
        """The next pause."""
        now = time.monotonic()
        if self._since and now - self._since > STEADY_S:
            self._delays = _RETRIES.delays()
        self._since = 0.0
        return next(self._delays)

    def holds(self) -> bool:
        """Whether a pause that `begin` began goes on."""
        return self._failing and time.monotonic() < self._until

    def begin(self) -> bool:
        """Begin one; whether it is the first of a row."""
        first, self._failing = not self._failing, True
        if time.monotonic() >= self._until:
            self._until = time.monotonic() + self.next_s()
        return first

    def over(self) -> bool:
        """It works; whether it did not before."""
        was, self._failing = self._failing, False
        if was:
            self.began()
        return was
