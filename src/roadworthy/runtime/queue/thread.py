"""The thread of a model that must not run on the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any


class ModelThread:
    """A daemon thread that runs one call at a time and passes the result to the event loop. A model that never returns blocks its
    own version, but not the exit of the process."""

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
        """Run `last` on the thread after all other calls, then end the thread."""
        self._last = last
        self._calls.put(None)

    def _work(self) -> None:
        while self._do_next():
            pass
        if self._last is not None:
            self._last()

    def _do_next(self) -> bool:
        """Wait for one call and run it; False at the end. As a separate function it releases the call's objects when it returns,
        not only with the next call."""
        call = self._calls.get()
        if call is None:
            return False
        work, then = call
        try:
            self._loop.call_soon_threadsafe(then, work())
        except RuntimeError:  # the loop is closed: the process is exiting
            self._last = None
            return False
        return True
