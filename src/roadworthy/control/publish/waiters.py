"""Requests that wait for a change made by another thread: a new snapshot (`snapshot_publisher.py`) or event
(`event_stream.py`)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

_LOOK_AGAIN_S = 0.5


class Waiters:
    """`wake` may be called from any thread, `until` from the event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def wake(self) -> None:
        """Let all waiting requests check their condition again; call it after a change."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            loop.call_soon_threadsafe(event.set)

    async def until(self, there: Callable[[], bool], wait_s: float, stopping: Callable[[], bool]) -> bool:
        """Wait until `there`; False when `wait_s` passed first, or the process is stopping."""
        loop = asyncio.get_running_loop()
        end = loop.time() + wait_s
        while True:
            event = asyncio.Event()
            with self._lock:  # before the check, so that any later change wakes this request
                self._waiting.append((loop, event))
            try:
                if there():
                    return True
                left = end - loop.time()
                if left <= 0 or stopping():
                    return False
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, _LOOK_AGAIN_S)):
                        await event.wait()
            finally:
                with self._lock:
                    self._waiting = [pair for pair in self._waiting if pair[1] is not event]
