"""Runs long jobs of the event loop in steps: one step in an iteration of the loop, so that others are served in between."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from typing import Any


class StepScheduler:
    """The jobs of one event loop, which take turns. Event loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: deque[tuple[Generator[None, None, Any], Callable[[Any], None]]] = deque()
        self._scheduled = False

    def __len__(self) -> int:
        return len(self._jobs)

    def __call__(self, job: Generator[None, None, Any], then: Callable[[Any], None]) -> None:
        """Run `job` step by step, then `then` with what it returned or raised. `then` must not raise."""
        self._jobs.append((job, then))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._step)

    def _step(self) -> None:
        job, then = self._jobs[0]
        try:
            next(job)
        except StopIteration as end:
            self._end(then, end.value)
        except Exception as error:  # noqa: BLE001 - passed to `then`, which handles it
            self._end(then, error)
        else:
            self._jobs.rotate(-1)
        finally:
            self._scheduled = bool(self._jobs)
            if self._scheduled:
                self._loop.call_soon(self._step)

    def _end(self, then: Callable[[Any], None], result: Any) -> None:
        self._jobs.popleft()
        then(result)
