"""The queue of requests that wait for a run: round robin among callers, each request until its deadline. Inline and isolated
versions each have one."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from itertools import zip_longest

from roadworthy.foundation.errors import DeadlineExceeded, RoadworthyError, Unavailable
from roadworthy.runtime.pending import PendingRequest
from roadworthy.runtime.queue.sizing import BatchSizer
from roadworthy.schema.batch import Batch

Member = tuple[Batch, PendingRequest]
_FEW = 8
_SHARE = 0.5
"""A run takes at most this share of the time that is left to the request with the earliest deadline."""
_ADMISSION_SHARE = 0.6
"""A request is refused when the requests before it would take more than this share of its time. Runs in progress come on top."""
_MOST_CALLERS = 4_096


class RequestQueue:
    """The queue of one version. Event loop only.

    A request that would not be answered in time is refused at once, as far as that can be known: an answer that comes too late
    costs as much as one in time.

    Args:
        loop: the event loop.
        sizer: learns what runs cost.
        running: the requests that have left the queue and are not answered yet; the queue enforces their deadlines too. None when
            a run ends before the event loop continues: then no deadline can pass in between.

    Attributes:
        sizer: see above. lanes: number of concurrent runs.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sizer: BatchSizer, running: Callable[[], Iterable[PendingRequest]] | None
    ) -> None:
        self._loop = loop
        self._running = running
        self._members: list[Member] = []
        self._rows = 0
        self._alarm: asyncio.Handle | None = None
        self._alarm_at = 0.0
        self._round = 0
        self._served: dict[str, int] = {}
        self.sizer = sizer
        self.lanes = 1
        self._pace_s = 0.0

    def __len__(self) -> int:
        return len(self._members)

    def __repr__(self) -> str:
        return f"RequestQueue({len(self._members)})"

    @property
    def rows(self) -> int:
        """Rows of all waiting requests."""
        return self._rows

    def join(self, batch: Batch, request: PendingRequest) -> None:
        """Queue a request. It is settled with Unavailable "overloaded" when too many are before it, and with DeadlineExceeded
        when its deadline comes first."""
        if self._running is not None:
            if len(self._members) >= _FEW:
                rows = self._rows + batch.rows
                wait_s = max(self.sizer.seconds(rows), self._pace_s * rows) / self.lanes
                if wait_s > _ADMISSION_SHARE * (request.deadline - time.monotonic()):
                    request.settle(_overloaded(wait_s))
                    return
            self._watch(request.deadline)
        self._members.append((batch, request))
        self._rows += batch.rows

    def moved(self, rows: int, seconds: float) -> None:
        """Learn that `rows` rows of the queue were answered in `seconds` seconds, one after the other."""
        if len(self._members) >= _FEW and rows:
            before, now = self._pace_s, seconds / rows
            self._pace_s = now if not before else 0.95 * before + 0.05 * now

    def return_to_front(self, members: list[Member]) -> None:
        """Queue requests again before all others, because their run never began."""
        for batch, request in members:
            request.running = False
            self._rows += batch.rows
        self._members[:0] = members

    def next_group(self) -> list[Member]:
        """Take the requests of the next run: as many rows as pay off, or the first request alone; without requests that are
        done."""
        now = time.monotonic()
        waiting = [
            member for member in self._members if not member[1].done and (member[1].deadline > now or not _expire(member[1], now))
        ]
        limit = self._limit(waiting, now)
        group = waiting if self._rows <= limit or len(waiting) <= 1 else self._within(limit, waiting)
        for _, request in group:
            request.running = True
        if len(group) == len(waiting):
            self._members = []
            self._rows = 0
        else:
            taken = set(map(id, group))
            self._members = [member for member in waiting if id(member) not in taken]
            self._rows = sum(batch.rows for batch, _ in self._members)
        return group

    def refuse(self, make: Callable[[], RoadworthyError]) -> None:
        """Settle each waiting request with a separate error from `make`."""
        members, self._members = self._members, []
        self._rows = 0
        for _, request in members:
            request.settle(make())

    def close(self) -> None:
        """Cancel the timer for deadlines."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _limit(self, waiting: list[Member], now: float) -> int:
        """Rows of the next run: as many as pay off, but not so many that the first request would be answered too late."""
        limit = self.sizer.limit()
        if self._running is None or not waiting or limit == 1:
            return limit
        left_s = min(request.deadline for _, request in waiting) - now
        return min(limit, self.sizer.rows_within(_SHARE * left_s))

    def _within(self, limit: int, waiting: list[Member]) -> list[Member]:
        """The first requests with at most `limit` rows together, but at least one."""
        group: list[Member] = []
        rows = 0
        for member in self._round_robin(waiting, limit):
            rows += member[0].rows
            if group and rows > limit:
                break
            group.append(member)
        return group

    def _round_robin(self, waiting: list[Member], limit: int) -> list[Member]:
        """The waiting requests, one of each caller per round, the caller that was served longest ago first. So a caller that
        sends many requests does not make the others wait."""
        callers: dict[str, list[Member]] = {}
        for member in waiting:
            callers.setdefault(member[1].caller, []).append(member)
        if len(callers) == 1:
            return waiting
        order = sorted(callers, key=lambda caller: self._served.get(caller, -1))
        members = [member for each in zip_longest(*(callers[caller] for caller in order)) for member in each if member]
        self._round += 1
        if len(self._served) > _MOST_CALLERS:
            self._served.clear()
        rows = 0
        for batch, request in members:
            rows += batch.rows
            self._served[request.caller] = self._round
            if rows >= limit:
                break
        return members

    def _watch(self, deadline: float) -> None:
        """Make sure that the timer goes off no later than `deadline`."""
        if self._alarm is not None:
            if self._alarm_at <= deadline:
                return
            self._alarm.cancel()
        self._alarm_at = deadline
        self._alarm = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._expire_due)

    def _expire_due(self) -> None:
        self._alarm = None
        now = time.monotonic()
        requests = (*(request for _, request in self._members), *(self._running() if self._running is not None else ()))
        deadlines = [request.deadline for request in requests if not request.done and not _expire(request, now)]
        self._members = [member for member in self._members if not member[1].done]
        self._rows = sum(batch.rows for batch, _ in self._members)
        if deadlines:
            self._watch(min(deadlines))


def _expire(request: PendingRequest, now: float) -> bool:
    if request.deadline > now:
        return False
    request.settle(too_late())
    return True


def too_late() -> DeadlineExceeded:
    """The error of a request whose deadline passed before it was answered."""
    return DeadlineExceeded(
        "the request's deadline passed before the model answered",
        hint="send fewer rows at a time, or raise the endpoint's timeout_ms",
        retry_after_s=1,
    )


def _overloaded(wait_s: float) -> Unavailable:
    return Unavailable(
        "too many requests wait for this version: this one would not be answered in time",
        code="overloaded",
        hint="try again with backoff",
        retry_after_s=min(60, max(1, math.ceil(wait_s))),
    )
