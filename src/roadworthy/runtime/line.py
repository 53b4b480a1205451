"""Requests that wait for a run: in order, by turns among callers, each to its deadline. `runners/process.py` keeps one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from itertools import zip_longest

from roadworthy.foundation.errors import DeadlineExceeded, RoadworthyError
from roadworthy.runtime.ticket import Ticket
from roadworthy.schema.batch import Batch

Member = tuple[Batch, Ticket]


class Line:
    """The line before one version. Event loop only.

    Args:
        loop: the event loop.
        running: tickets that have left the line and are not answered yet; their deadlines are kept here too.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, running: Callable[[], Iterable[Ticket]]) -> None:
        self._loop = loop
        self._running = running
        self._members: list[Member] = []
        self._alarm: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._members)

    def __repr__(self) -> str:
        return f"Line({len(self._members)})"

    @property
    def rows(self) -> int:
        """Rows of all that wait."""
        return sum(batch.rows for batch, _ in self._members)

    def join(self, batch: Batch, ticket: Ticket) -> None:
        """Wait at the end; settled with DeadlineExceeded when the deadline comes first."""
        self._members.append((batch, ticket))
        self._watch(ticket.deadline)

    def return_to_front(self, members: list[Member]) -> None:
        """Wait again, before all others: their run never began."""
        for _, ticket in members:
            ticket.running = False
        self._members[:0] = members

    def next_group(self, limit: int) -> list[Member]:
        """Take the requests of the next run, up to `limit` rows or the first alone, without those that nobody waits for."""
        now = time.monotonic()
        waiting = [member for member in self._members if not member[1].done and not _expire(member[1], now)]
        group: list[Member] = []
        rows = 0
        for member in waiting if len(waiting) <= 2 else _by_turns(waiting, limit):
            size = member[0].rows
            if group and rows + size > limit:
                break
            rows += size
            group.append(member)
        if len(group) == len(waiting):
            self._members = []
        else:
            taken = set(map(id, group))
            self._members = [member for member in waiting if id(member) not in taken]
        return group

    def refuse(self, make: Callable[[], RoadworthyError]) -> None:
        """Settle everybody with an error of their own."""
        members, self._members = self._members, []
        for _, ticket in members:
            ticket.settle(make())

    def close(self) -> None:
        """No more alarms."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _watch(self, deadline: float) -> None:
        """Make sure that the alarm goes off no later than `deadline`."""
        when = self._loop.time() + deadline - time.monotonic()
        if self._alarm is not None:
            if self._alarm.when() <= when:
                return
            self._alarm.cancel()
        self._alarm = self._loop.call_at(when, self._expire_due)

    def _expire_due(self) -> None:
        self._alarm = None
        now = time.monotonic()
        tickets = (*(ticket for _, ticket in self._members), *self._running())
        deadlines = [ticket.deadline for ticket in tickets if not ticket.done and not _expire(ticket, now)]
        self._members = [member for member in self._members if not member[1].done]
        if deadlines:
            self._watch(min(deadlines))


def _by_turns(waiting: list[Member], limit: int) -> list[Member]:
    """The same members; when not all of them fit into one run, one of each caller in turn, so that nobody who sends much
    makes the others wait."""
    if sum(batch.rows for batch, _ in waiting) <= limit:
        return waiting
    callers: dict[str, list[Member]] = {}
    for member in waiting:
        callers.setdefault(member[1].caller, []).append(member)
    if len(callers) == 1:
        return waiting
    return [member for turn in zip_longest(*callers.values()) for member in turn if member is not None]


def _expire(ticket: Ticket, now: float) -> bool:
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
