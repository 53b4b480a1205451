"""Runs long work of the event loop in small portions, so that others are served in between."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from roadworthy.foundation.errors import DeadlineExceeded

Then = Callable[[Any], None]
"""Takes what a piece of work returned or raised. Must not raise."""
_READS_S = 0.002
"""Reads begin in one iteration of the loop for so long. Their results are passed on together, so their requests can be joined."""
_STEPS_S = 0.001
"""Steps begin in one iteration for so long, but at least one does: steps may be tiny."""
_SHARING = 4
"""So many jobs share the loop's time; the others wait. If all shared it, none would end before nearly all of them do."""


class StepScheduler:
    """The reads and jobs of one event loop. Each iteration begins with reads, then runs steps of jobs. Event loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._reads: deque[tuple[Callable[[], Any], Then]] = deque()
        self._jobs: deque[tuple[Generator[None, None, Any], float, Then]] = deque()
        self._earliest = math.inf
        self._scheduled = False

    def __len__(self) -> int:
        return len(self._reads) + len(self._jobs)

    def read(self, read: Callable[[], Any], then: Then) -> None:
        """Call `read` in the next iteration or, after other reads, in a later one; then `then` with its result or exception."""
        self._reads.append((read, then))
        self._schedule()

    def __call__(self, job: Generator[None, None, Any], then: Then, deadline: float = math.inf) -> None:
        """Run `job` step by step, then `then` with its result or exception. At `deadline`, on the monotonic clock, the job
        is given up with DeadlineExceeded."""
        self._jobs.append((job, deadline, then))
        self._earliest = min(self._earliest, deadline)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        begun = time.monotonic()
        try:
            self._read(begun + _READS_S)
            self._give_up_late()
            while self._jobs:
                self._step()
                if time.monotonic() >= begun + _STEPS_S:
                    break
        finally:
            self._scheduled = False
            if len(self):
                self._schedule()

    def _read(self, until: float) -> None:
        results: list[tuple[Then, Any]] = []
        while self._reads:
            read, then = self._reads.popleft()
            try:
                results.append((then, read()))
            except Exception as error:  # noqa: BLE001 - passed to `then`, which handles it
                results.append((then, error))
            if time.monotonic() >= until:
                break
        for then, result in results:
            then(result)

    def _step(self) -> None:
        job, deadline, then = self._jobs.popleft()
        try:
            next(job)
        except StopIteration as end:
            then(end.value)
        except Exception as error:  # noqa: BLE001 - passed to `then`, which handles it
            then(error)
        else:
            self._jobs.insert(_SHARING - 1, (job, deadline, then))

    def _give_up_late(self) -> None:
        now = time.monotonic()
        if now < self._earliest:
            return
        late = [then for _, deadline, then in self._jobs if deadline <= now]
        self._jobs = deque(each for each in self._jobs if each[1] > now)
        self._earliest = min((deadline for _, deadline, _ in self._jobs), default=math.inf)
        for then in late:
            then(_too_late())


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded(
        "the request's deadline passed before its answer was written",
        hint="send fewer rows at a time, or raise the endpoint's timeout_ms",
        retry_after_s=1,
    )
