"""Wakes whoever waits for the next event. The number of the newest one is kept here, so that waiting asks no database."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

from roadworthy.audit.events import newest
from roadworthy.store.engine import Database

_LOOK_AGAIN_S = 0.5


class Feed:
    """`expect` and `catch_up` may be called from any thread, `wait` from the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._newest = self._expected = self._read()

    def _read(self) -> int:
        with self._database.begin() as connection:
            return newest(connection)

    def expect(self, number: int) -> None:
        """An event of that number is being written."""
        self._expected = max(self._expected, number)

    def catch_up(self) -> None:
        """Read the newest number again if one is expected, and wake whoever waits if it grew.

        Raises:
            Unavailable: "database-busy".
        """
        if self._expected <= self._newest:
            return
        number = self._read()
        with self._lock:
            if number <= self._newest:
                return
            self._newest = number
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            loop.call_soon_threadsafe(event.set)

    async def wait(self, after: int, wait_s: float, stopping: Callable[[], bool]) -> None:
        """Until there is an event with a number greater than `after`, `wait_s` passed, or the process is stopping."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        while True:
            event = asyncio.Event()
            with self._lock:
                if self._newest > after:
                    return
                self._waiting.append((loop, event))
            left = until - loop.time()
            if left > 0 and not stopping():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), min(left, _LOOK_AGAIN_S))
            with self._lock:
                self._waiting = [pair for pair in self._waiting if pair[1] is not event]
            if until <= loop.time() or stopping():
                return
