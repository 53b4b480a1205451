"""Joins the requests that wait at the same moment into one run. Called by `gateway/predict.py` or a layer, calls a runner.

Unless the endpoint asks for it nothing waits in order to be joined: a run starts at the end of the event loop's present turn, or,
for a model that has a thread of its own, when that thread is free. What arrived until then runs together.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from itertools import zip_longest

from roadworthy.contract.policy import Batching
from roadworthy.foundation.errors import DeadlineExceeded, ModelFault
from roadworthy.runtime.gain import Gain
from roadworthy.runtime.runners.inline import WRONG_COUNT
from roadworthy.runtime.runners.runner import Runner
from roadworthy.runtime.thread import ModelThread
from roadworthy.runtime.ticket import Answer, Ticket
from roadworthy.schema.batch import Batch

MAX_JOINED_ROWS = 1_024
"""Requests are joined up to this many rows; a single request may have more and then runs alone."""

_Member = tuple[Batch, Ticket]
Result = Answer | ModelFault


class Batcher:
    """A `Submitter` over one runner. Event loop only.

    Attributes:
        busy_since: monotonic clock, seconds, when the present run began; None when none is under way. A run that never ends is
            seen here, whatever its thread does.
    """

    def __init__(self, runner: Runner, loop: asyncio.AbstractEventLoop, batching: Batching | None = None) -> None:
        self._runner = runner
        self._loop = loop
        self._batching = batching or Batching()
        self._gain = Gain(self._batching.max_rows, MAX_JOINED_ROWS)
        self._waiting: list[_Member] = []
        self._running: list[_Member] = []
        self._scheduled: asyncio.Handle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._thread = None if runner.concurrent else ModelThread(loop)
        self._may_go_alone = self._thread is None and self._batching.max_wait_ms <= 0
        self._alone = False
        self._went_alone = 0
        self.busy_since: float | None = None

    def __repr__(self) -> str:
        place = "loop" if self._thread is None else "thread"
        return f"Batcher({self._runner!r}, on its {place}, {self._batching})"

    @property
    def waiting(self) -> int:
        """Requests that have not begun to run."""
        return len(self._waiting)

    def configure(self, batching: Batching) -> None:
        """Take other settings from the next run on."""
        if batching != self._batching:
            self._batching = batching
            self._gain = Gain(batching.max_rows, MAX_JOINED_ROWS)
            self._may_go_alone = self._thread is None and batching.max_wait_ms <= 0
            self._alone = False

    def submit(self, batch: Batch, ticket: Ticket) -> None:
        """Answer `batch`, together with whatever else waits.

        The ticket is settled with ModelFault when the model fails, and with DeadlineExceeded when its deadline passes first; a
        request that then still waits, or whose ticket is done, is never run.
        """
        if self._alone and self._scheduled is None and ticket.deadline > time.monotonic():
            # For the last moments one request came at a time: this one need not wait to see whether another does. If one does, the
            # next turn finds it waiting, and from then on they are joined again.
            self._scheduled = self._loop.call_soon(self._turn)
            self._went_alone = 1
            ticket.running = True
            self._run([(batch, ticket)])
            return
        self._waiting.append((batch, ticket))
        if self._scheduled is None:
            wait_ms = self._batching.max_wait_ms
            if wait_ms <= 0:
                self._scheduled = self._loop.call_soon(self._turn)
            else:
                self._scheduled = self._loop.call_later(wait_ms / 1_000, self._turn)
        elif self._batching.max_wait_ms > 0 and self._is_full():
            self._scheduled.cancel()
            self._scheduled = self._loop.call_soon(self._turn)
        if self._thread is not None:
            self._watch(ticket.deadline)

    def close(self) -> None:
        """Stop; the caller has made sure that nobody waits. The runner is closed after its last run."""
        if self._alarm is not None:
            self._alarm.cancel()
        if self._thread is None:
            self._runner.close()
        else:
            self._thread.close(self._runner.close)

    def _is_full(self) -> bool:
        return sum(batch.rows for batch, _ in self._waiting) >= self._gain.limit()

    def _turn(self) -> None:
        self._scheduled = None
        if self._thread is not None:
            self._feed(self._thread)
            return
        self._alone = self._may_go_alone and len(self._waiting) + self._went_alone <= 1
        self._went_alone = 0
        while self._waiting:
            group = self._next_group()
            if group:
                self._run(group)

    def _run(self, group: list[_Member]) -> None:
        begun = time.perf_counter()
        results = run_joined(self._runner, [batch for batch, _ in group])
        self._learn(group, time.perf_counter() - begun)
        _settle(group, results)

    def _feed(self, thread: ModelThread) -> None:
        while self._waiting and not self._running:
            group = self._running = self._next_group()
            if group:
                self.busy_since = time.monotonic()
                batches = [batch for batch, _ in group]
                thread.call(partial(_timed, self._runner, batches), self._ran)

    def _ran(self, outcome: tuple[list[Result], float]) -> None:
        group, self._running = self._running, []
        self.busy_since = None
        results, seconds = outcome
        self._learn(group, seconds)
        _settle(group, results)
        if self._waiting and self._scheduled is None:
            self._scheduled = self._loop.call_soon(self._turn)

    def _learn(self, group: list[_Member], seconds: float) -> None:
        self._gain.ran(sum([batch.rows for batch, _ in group]), seconds)

    def _next_group(self) -> list[_Member]:
        """Take the requests of the next run, without those that nobody waits for any more."""
        now = time.monotonic()
        waiting = [member for member in self._waiting if not member[1].done and not _expire(member, now)]
        limit = self._gain.limit()
        group: list[_Member] = []
        rows = 0
        # Whether all fit is mostly so, and then their order does not matter.
        for member in waiting if len(waiting) <= 2 else _by_turns(waiting, limit):
            size = member[0].rows
            if group and rows + size > limit:
                break
            rows += size
            group.append(member)
        if len(group) == len(waiting):
            self._waiting = []
        else:
            taken = set(map(id, group))
            self._waiting = [member for member in waiting if id(member) not in taken]
        for _, ticket in group:
            ticket.running = True
        return group

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
        members = (*self._waiting, *self._running)
        open_deadlines = [member[1].deadline for member in members if not member[1].done and not _expire(member, now)]
        self._waiting = [member for member in self._waiting if not member[1].done]
        if open_deadlines:
            self._watch(min(open_deadlines))


def _by_turns(waiting: list[_Member], limit: int) -> list[_Member]:
    """The same members; when not all of them fit into one run, one of each caller in turn, so that nobody who sends much
    makes the others wait."""
    if sum(batch.rows for batch, _ in waiting) <= limit:
        return waiting
    callers: dict[str, list[_Member]] = {}
    for member in waiting:
        callers.setdefault(member[1].caller, []).append(member)
    if len(callers) == 1:
        return waiting
    return [member for turn in zip_longest(*callers.values()) for member in turn if member is not None]


def run_joined(runner: Runner, batches: list[Batch]) -> list[Result]:
    """Run all batches as one; give each its own rows.

    When the joined run fails, each is run again by itself, so that only the request that the model cannot answer fails. A
    wrong number of rows fails all of them: nobody can tell whose answers are missing.
    """
    try:
        joined = runner.run(batches[0] if len(batches) == 1 else Batch.concatenate(batches))
    except Exception as error:  # noqa: BLE001 - runners promise ModelFault; whatever else it is, the callers get an answer
        fault = error if isinstance(error, ModelFault) else _defect(error)
        if len(batches) == 1:
            return [fault]
        if fault.code == WRONG_COUNT:
            return [fault] * len(batches)
        return [run_joined(runner, [batch])[0] for batch in batches]
    results: list[Result] = []
    start = 0
    for batch in batches:
        stop = start + batch.rows
        results.append(Answer(joined, start, stop))
        start = stop
    return results


def _timed(runner: Runner, batches: list[Batch]) -> tuple[list[Result], float]:
    begun = time.perf_counter()
    return run_joined(runner, batches), time.perf_counter() - begun


def _defect(error: Exception) -> ModelFault:
    fault = ModelFault("the model's answer could not be used", code="model-failed")
    fault.__cause__ = error
    return fault


def _expire(member: _Member, now: float) -> bool:
    ticket = member[1]
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


def _settle(group: list[_Member], results: list[Result]) -> None:
    for (_, ticket), result in zip(group, results, strict=True):
        ticket.settle(result)
