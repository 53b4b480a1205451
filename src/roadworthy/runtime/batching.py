"""Joins the requests that wait at the same moment into one run. Called by `gateway/predict.py`, calls a runner.

Nothing waits in order to be joined: a run starts at the end of the event loop's present turn, or, for a model that has a thread
of its own, when that thread is free. What arrived until then runs together.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

from roadworthy.foundation.errors import DeadlineExceeded, ModelFault
from roadworthy.runtime.runners.inline import WRONG_COUNT
from roadworthy.runtime.runners.runner import Runner
from roadworthy.schema.batch import Batch

MAX_JOINED_ROWS = 1_024
"""Requests are joined up to this many rows; a single request may have more and then runs alone."""


class Context:
    """What travels with a request through the layers that answer it.

    Attributes:
        deadline: on the monotonic clock, seconds; after it nobody waits for the answer any more.
    """

    __slots__ = ("deadline",)

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline


class Answer:
    """The answer to one request: rows `start` to `stop` (exclusive) of a run that it shared with others.

    Protocols that encode row by row may encode `joined` once and cut; the others take `batch()`.
    """

    __slots__ = ("joined", "start", "stop")

    def __init__(self, joined: Batch, start: int, stop: int) -> None:
        self.joined = joined
        self.start = start
        self.stop = stop

    def batch(self) -> Batch:
        """The rows of this request alone, as views."""
        if self.stop - self.start == self.joined.rows:
            return self.joined
        return self.joined.slice(self.start, self.stop)


class _Waiting:
    __slots__ = ("batch", "context", "future")

    def __init__(self, batch: Batch, context: Context, future: asyncio.Future[Answer]) -> None:
        self.batch = batch
        self.context = context
        self.future = future


Outcome = Answer | ModelFault


class Batcher:
    """`submit(batch, context) -> Future` over one runner. Event loop only.

    Attributes:
        waiting: requests that have not begun to run.
    """

    def __init__(self, runner: Runner, loop: asyncio.AbstractEventLoop, max_rows: int = MAX_JOINED_ROWS) -> None:
        self._runner = runner
        self._loop = loop
        self._max_rows = max_rows
        self._waiting: list[_Waiting] = []
        self._running: list[_Waiting] = []
        self._scheduled = False
        self._alarm: asyncio.TimerHandle | None = None
        self._thread = None if runner.concurrent else _ModelThread(loop)

    def __repr__(self) -> str:
        place = "loop" if self._thread is None else "thread"
        return f"Batcher({self._runner!r}, on its {place}, max_rows={self._max_rows})"

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, batch: Batch, context: Context) -> asyncio.Future[Answer]:
        """Answer `batch`, together with whatever else waits.

        The future fails with ModelFault, or with DeadlineExceeded when the context's deadline passes first; then a request
        that still waits is never run.
        """
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting.append(_Waiting(batch, context, future))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)
        if self._thread is not None:
            self._watch(context.deadline)
        return future

    def close(self) -> None:
        """Stop; the caller has made sure that nobody waits. The runner is closed after its last run."""
        if self._alarm is not None:
            self._alarm.cancel()
        if self._thread is None:
            self._runner.close()
        else:
            self._thread.close(self._runner.close)

    def _turn(self) -> None:
        self._scheduled = False
        if self._thread is not None:
            self._feed(self._thread)
            return
        while self._waiting:
            group = self._next_group()
            if group:
                _settle(group, run_joined(self._runner, [member.batch for member in group]))

    def _feed(self, thread: _ModelThread) -> None:
        while self._waiting and not self._running:
            group = self._running = self._next_group()
            if group:
                batches = [member.batch for member in group]
                thread.call(partial(run_joined, self._runner, batches), self._ran)

    def _ran(self, outcomes: list[Outcome]) -> None:
        group, self._running = self._running, []
        _settle(group, outcomes)
        if self._waiting and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _next_group(self) -> list[_Waiting]:
        """Take the oldest requests that fit into one run, without those that nobody waits for any more."""
        now = time.monotonic()
        group: list[_Waiting] = []
        rows = taken = 0
        for member in self._waiting:
            if member.future.done() or _expire(member, now):
                taken += 1
                continue
            if group and rows + member.batch.rows > self._max_rows:
                break
            rows += member.batch.rows
            taken += 1
            group.append(member)
        del self._waiting[:taken]
        return group

    def _watch(self, deadline: float) -> None:
        """Make sure that the alarm goes off no later than `deadline`."""
        ahead = deadline - time.monotonic()
        when = self._loop.time() + ahead
        if self._alarm is not None:
            if self._alarm.when() <= when:
                return
            self._alarm.cancel()
        self._alarm = self._loop.call_at(when, self._expire_due)

    def _expire_due(self) -> None:
        self._alarm = None
        now = time.monotonic()
        open_deadlines = [
            member.context.deadline
            for member in (*self._waiting, *self._running)
            if not member.future.done() and not _expire(member, now)
        ]
        if open_deadlines:
            self._watch(min(open_deadlines))


def run_joined(runner: Runner, batches: list[Batch]) -> list[Outcome]:
    """Run all batches as one; give each its own rows.

    When the joined run fails, each is run again by itself, so that only the request that the model cannot answer fails. A
    wrong number of rows fails all of them: nobody can tell whose answers are missing.
    """
    try:
        joined = runner.run(Batch.concatenate(batches))
    except Exception as error:  # noqa: BLE001 - runners promise ModelFault; whatever else it is, the callers get an answer
        fault = error if isinstance(error, ModelFault) else _defect(error)
        if len(batches) == 1:
            return [fault]
        if fault.code == WRONG_COUNT:
            return [fault] * len(batches)
        return [run_joined(runner, [batch])[0] for batch in batches]
    outcomes: list[Outcome] = []
    start = 0
    for batch in batches:
        stop = start + batch.rows
        outcomes.append(Answer(joined, start, stop))
        start = stop
    return outcomes


def _defect(error: Exception) -> ModelFault:
    fault = ModelFault("the model's answer could not be used", code="model-failed")
    fault.__cause__ = error
    return fault


def _expire(member: _Waiting, now: float) -> bool:
    if member.context.deadline > now:
        return False
    member.future.set_exception(
        DeadlineExceeded(
            "the time for this request was up before the model answered",
            hint="send fewer rows at a time, or raise the endpoint's timeout_ms",
            retry_after_s=1,
        )
    )
    return True


def _settle(group: list[_Waiting], outcomes: list[Outcome]) -> None:
    for member, outcome in zip(group, outcomes, strict=True):
        if member.future.done():
            continue
        if isinstance(outcome, Answer):
            member.future.set_result(outcome)
        else:
            # Each caller gets an exception object of its own: a shared one would collect all their tracebacks.
            fault = ModelFault(outcome.message, code=outcome.code, hint=outcome.hint, facts=outcome.facts)
            fault.__cause__ = outcome.__cause__
            member.future.set_exception(fault)


class _ModelThread:
    """One daemon thread that runs one call at a time and hands the result to the event loop. A model that never returns
    holds up its own version, never the process's exit."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: SimpleQueue[tuple[Callable[[], list[Outcome]], Callable[[list[Outcome]], None]] | None] = (
            SimpleQueue()
        )
        self._last: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def call(self, work: Callable[[], list[Outcome]], then: Callable[[list[Outcome]], None]) -> None:
        self._calls.put((work, then))

    def close(self, last: Callable[[], None]) -> None:
        """Run `last` on the thread after everything else, and end it."""
        self._last = last
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            work, then = call
            outcomes = work()
            try:
                self._loop.call_soon_threadsafe(then, outcomes)
            except RuntimeError:  # the loop has been closed: the process is on its way out
                return
        if self._last is not None:
            self._last()
