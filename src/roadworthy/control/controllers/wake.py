"""Wakes the controllers when a fact was stored that they should look at."""

from __future__ import annotations

import threading

REPLY_WAIT_S = 5.0
"""Longest time for which a verb waits for a look, in seconds. After it the reply shows what is stored by then."""


class Wake:
    """Counts calls, so that calls during a look lead to one further look. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls = self._looked = self._followed = 0
        self._driven = False

    def ring(self) -> None:
        """Let the controllers look soon. Call it after the transaction that stored the fact."""
        with self._changed:
            self._calls += 1
            self._changed.notify_all()

    def followed(self, wait_s: float = REPLY_WAIT_S) -> None:
        """Let the controllers look, and wait until a look that began after this call has ended; not at all where none run."""
        with self._changed:
            self._calls += 1
            mine = self._followed = self._calls
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._looked >= mine or not self._driven, wait_s)

    def wait(self, wait_s: float) -> int:
        """Called by the controllers: wait for a call, `wait_s` at most. The number of calls, for `looked`."""
        with self._changed:
            self._driven = True
            self._changed.wait_for(lambda: self._calls > self._looked, wait_s)
            return self._calls

    def looked(self, calls: int) -> None:
        """Called by the controllers: a look that began after so many calls has ended."""
        with self._changed:
            self._looked = calls
            self._changed.notify_all()

    def rest(self, rest_s: float) -> None:
        """Called by the controllers: leave the store to others for `rest_s`, or until a verb waits for a look."""
        with self._changed:
            self._changed.wait_for(lambda: self._followed > self._looked, rest_s)

    def end(self) -> None:
        """Called by the controllers: no look follows."""
        with self._changed:
            self._driven = False
            self._changed.notify_all()
