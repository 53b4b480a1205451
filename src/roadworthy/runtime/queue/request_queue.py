"""Requests that wait for a run: by turns among callers, each to its deadline. Both batchers, inline and apart, keep one."""

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
"""Of the time that is left to who waits longest: a run is made no longer than that."""
_DOOR_SHARE = 0.6
"""Of the time that a request has: with a longer line before it, it is not let in. What is sent but not answered comes on top."""
_MOST_CALLERS = 4_096


class RequestQueue:
    """The line before one version. Event loop only.

    Who would not be answered in time is refused at once, as far as that is known: an answer that nobody waits for any more costs
    as much as one that is still wanted.

    Args:
        loop: the event loop.
        gain: what runs cost.
        running: tickets that have left the line and are not answered yet; their deadlines are kept here too. None where a run
            is over before the event loop goes on: then nobody needs to be told that time is up.

    Attributes:
        gain: see above. lanes: how many runs go on at the same time.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, gain: BatchSizer, running: Callable[[], Iterable[PendingRequest]] | None
    ) -> None:
        self._loop = loop
        self._running = running
        self._members: list[Member] = []
        self._rows = 0
        self._alarm: asyncio.Handle | None = None
        self._alarm_at = 0.0
        self._turn = 0
        self._served: dict[str, int] = {}
        self.gain = gain
        self.lanes = 1
        self._pace_s = 0.0

    def __len__(self) -> int:
        return len(self._members)

    def __repr__(self) -> str:
        return f"RequestQueue({len(self._members)})"

    @property
    def rows(self) -> int:
        """Rows of all that wait."""
        return self._rows

    def join(self, batch: Batch, ticket: PendingRequest) -> None:
        """Wait at the end. Settled with Unavailable "overloaded" when too many are before it, and with DeadlineExceeded when
        the deadline comes first."""
        if self._running is not None:
            if len(self._members) >= _FEW:
                rows = self._rows + batch.rows
                wait_s = max(self.gain.seconds(rows), self._pace_s * rows) / self.lanes
                if wait_s > _DOOR_SHARE * (ticket.deadline - time.monotonic()):
                    ticket.settle(_overloaded(wait_s))
                    return
            self._watch(ticket.deadline)
        self._members.append((batch, ticket))
        self._rows += batch.rows

    def moved(self, rows: int, seconds: float) -> None:
        """So many rows of the line were answered in so many seconds, one after the other."""
        if len(self._members) >= _FEW and rows:
            before, now = self._pace_s, seconds / rows
            self._pace_s = now if not before else 0.95 * before + 0.05 * now

    def return_to_front(self, members: list[Member]) -> None:
        """Wait again, before all others: their run never began."""
        for batch, ticket in members:
            ticket.running = False
            self._rows += batch.rows
        self._members[:0] = members

    def next_group(self) -> list[Member]:
        """Take the requests of the next run, as many rows as pay or the first alone, without those that nobody waits for."""
        now = time.monotonic()
        waiting = [
            member
            for member in self._members
            if not member[1].done and (member[1].deadline > now or not _expire(member[1], now))
        ]
        limit = self._limit(waiting, now)
        group = waiting if self._rows <= limit or len(waiting) <= 1 else self._within(limit, waiting)
        for _, ticket in group:
            ticket.running = True
        if len(group) == len(waiting):
            self._members = []
            self._rows = 0
        else:
            taken = set(map(id, group))
            self._members = [member for member in waiting if id(member) not in taken]
            self._rows = sum(batch.rows for batch, _ in self._members)
        return group

    def refuse(self, make: Callable[[], RoadworthyError]) -> None:
        """Settle everybody with an error of their own."""
        members, self._members = self._members, []
        self._rows = 0
        for _, ticket in members:
            ticket.settle(make())

    def close(self) -> None:
        """No more alarms."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _limit(self, waiting: list[Member], now: float) -> int:
        """Rows of the next run: what pays, but not so many that the first would not be answered in time."""
        limit = self.gain.limit()
        if self._running is None or not waiting or limit == 1:
            return limit
        left_s = min(ticket.deadline for _, ticket in waiting) - now
        return min(limit, self.gain.rows_within(_SHARE * left_s))

    def _within(self, limit: int, waiting: list[Member]) -> list[Member]:
        """The first of them, with so many rows in all; one in any case."""
        group: list[Member] = []
        rows = 0
        for member in self._by_turns(waiting, limit):
            rows += member[0].rows
            if group and rows > limit:
                break
            group.append(member)
        return group

    def _by_turns(self, waiting: list[Member], limit: int) -> list[Member]:
        """The same members, of whom not all fit into one run: one of each caller in turn, those first whose last turn is longest
        ago, so that nobody who sends much makes the others wait."""
        callers: dict[str, list[Member]] = {}
        for member in waiting:
            callers.setdefault(member[1].caller, []).append(member)
        if len(callers) == 1:
            return waiting
        order = sorted(callers, key=lambda caller: self._served.get(caller, -1))
        members = [member for turn in zip_longest(*(callers[caller] for caller in order)) for member in turn if member]
        self._turn += 1
        if len(self._served) > _MOST_CALLERS:
            self._served.clear()
        rows = 0
        for batch, ticket in members:
            rows += batch.rows
            self._served[ticket.caller] = self._turn
            if rows >= limit:
                break
        return members

    def _watch(self, deadline: float) -> None:
        """Make sure that the alarm goes off no later than `deadline`."""
        if self._alarm is not None:
            if self._alarm_at <= deadline:
                return
            self._alarm.cancel()
        self._alarm_at = deadline
        self._alarm = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._expire_due)

    def _expire_due(self) -> None:
        self._alarm = None
        now = time.monotonic()
        tickets = (*(ticket for _, ticket in self._members), *(self._running() if self._running is not None else ()))
        deadlines = [ticket.deadline for ticket in tickets if not ticket.done and not _expire(ticket, now)]
        self._members = [member for member in self._members if not member[1].done]
        self._rows = sum(batch.rows for batch, _ in self._members)
        if deadlines:
            self._watch(min(deadlines))


def _expire(ticket: PendingRequest, now: float) -> bool:
    if ticket.deadline > now:
        return False
    ticket.settle(too_late())
    return True


def too_late() -> DeadlineExceeded:
    """The error of a request whose deadline passed before it was answered."""
    return DeadlineExceeded(
        "the time for this request was up before the model answered",
        hint="send fewer rows at a time, or raise the endpoint's timeout_ms",
        retry_after_s=1,
    )


def _overloaded(wait_s: float) -> Unavailable:
    return Unavailable(
        "too many requests are waiting for this version to be answered in time",
        code="overloaded",
        hint="try again, with growing pauses",
        retry_after_s=min(60, max(1, math.ceil(wait_s))),
    )
