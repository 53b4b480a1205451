"""The thread of a model that must not run on the event loop. `batching.py` gives it one joined run at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any


class ModelThread:
    """One daemon thread that runs one call at a time and hands the result to the event loop. A model that never returns
    holds up its own version, never the process's exit."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]] | None] = SimpleQueue()
        self._last: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def call(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Run `work` on the thread, then `then` with its result on the event loop. `work` must not raise."""
        self._calls.put((work, then))

    def close(self, last: Callable[[], None]) -> None:
        """Run `last` on the thread after everything else, and end it."""
        self._last = last
        self._calls.put(None)

    def _work(self) -> None:
        while self._do_next():
            pass
        if self._last is not None:
            self._last()

    def _do_next(self) -> bool:
        """Wait for one call and do it; False at the end. What it held is free when this returns, and not with the next call."""
        call = self._calls.get()
        if call is None:
            return False
        work, then = call
        try:
            self._loop.call_soon_threadsafe(then, work())
        except RuntimeError:  # the loop has been closed: the process is on its way out
            self._last = None
            return False
        return True
