"""Calls that go on beside a test."""

from __future__ import annotations

import threading
from typing import Self


class Traffic:
    """Makes one call after the other on a thread of its own, without pause, from entering to leaving."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def call(self) -> None:
        """Make one call."""
        raise NotImplementedError

    def _run(self) -> None:
        while not self._stop.is_set():
            self.call()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
