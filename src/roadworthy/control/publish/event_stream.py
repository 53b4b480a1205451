"""Wakes requests that wait for the next event. It holds the newest event's number, so waiting needs no database."""

from __future__ import annotations

import threading
from collections.abc import Callable

from roadworthy.audit.events import newest
from roadworthy.control.logs import failures_logged
from roadworthy.control.publish.waiters import Waiters
from roadworthy.store.engine import Database


class EventStream:
    """`expect` and `catch_up` may be called from any thread, `wait` from the event loop. While the events cannot be read, the
    newest known number stays, at first 0."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._waiters = Waiters()
        self._newest = self._expected = 0
        with failures_logged("events-cannot-be-read", project=database.project):  # the fault of one project must stop no other
            self.look()

    @property
    def newest(self) -> int:
        """The number of the newest event that this process knows of."""
        return self._newest

    def _read(self) -> int:
        with self._database.begin() as connection:
            return newest(connection)

    def expect(self, number: int) -> None:
        """Note that an event with this number is being written."""
        self._expected = max(self._expected, number)

    def catch_up(self) -> None:
        """Read the newest number again if an event is expected, and wake the waiting requests if it grew.

        Raises:
            Unavailable: "database-busy".
        """
        if self._expected > self._newest:
            self.look()

    def look(self) -> None:
        """Read the newest number again in any case: another control plane may have written an event.

        Raises:
            Unavailable: "database-busy".
        """
        number = self._read()
        with self._lock:
            if number <= self._newest:
                return
            self._newest = number
        self._waiters.wake()

    async def wait(self, after: int, wait_s: float, stopping: Callable[[], bool]) -> None:
        """Wait until an event has a number greater than `after`, `wait_s` passed, or the process is stopping."""
        await self._waiters.until(lambda: self._newest > after, wait_s, stopping)
