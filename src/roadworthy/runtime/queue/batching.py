"""Joins the requests that wait at the same moment into one run. Called by `gateway/http/predict.py` or a layer, calls a runner.

Unless the endpoint asks for it nothing waits in order to be joined: a run starts at the end of the event loop's present turn, or,
for a model that has a thread of its own, when that thread is free. What arrived until then runs together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

from roadworthy.contract.policy import Batching
from roadworthy.foundation.errors import ModelFault, RoadworthyError
from roadworthy.runtime.pending import Answer, PendingRequest
from roadworthy.runtime.queue.request_queue import Member, RequestQueue
from roadworthy.runtime.queue.run_times import RunTimes
from roadworthy.runtime.queue.sizing import BatchSizer
from roadworthy.runtime.queue.thread import ModelThread
from roadworthy.runtime.runners.inline import WRONG_COUNT
from roadworthy.runtime.runners.runner import Runner
from roadworthy.schema.batch import Batch

MAX_JOINED_ROWS = 1_024
"""Requests are joined up to this many rows; a single request may have more and then runs alone."""

Result = Answer | ModelFault


class Batcher:
    """A `Submitter` over one runner. Event loop only.

    Attributes:
        busy_since: monotonic clock, seconds, when the present run began; None when none is under way. A run that never ends is
            seen here, whatever its thread does.
        times: how long runs took.
    """

    def __init__(self, runner: Runner, loop: asyncio.AbstractEventLoop, batching: Batching | None = None) -> None:
        self._runner = runner
        self._loop = loop
        self._batching = batching or Batching()
        self._running: list[Member] = []
        self._scheduled: asyncio.Handle | None = None
        self._thread = None if runner.concurrent else ModelThread(loop)
        gain = BatchSizer(self._batching.max_rows, MAX_JOINED_ROWS)
        self._line = RequestQueue(loop, gain, None if self._thread is None else self._running_tickets)
        self._may_go_alone = self._thread is None and self._batching.max_wait_ms <= 0
        self._alone = False
        self._went_alone = 0
        self.busy_since: float | None = None
        self.times = RunTimes()

    def __repr__(self) -> str:
        place = "loop" if self._thread is None else "thread"
        return f"Batcher({self._runner!r}, on its {place}, {self._batching})"

    @property
    def waiting(self) -> int:
        """Requests that have not begun to run."""
        return len(self._line)

    def configure(self, batching: Batching) -> None:
        """Take other settings from the next run on."""
        if batching != self._batching:
            self._batching = batching
            self._line.gain = BatchSizer(batching.max_rows, MAX_JOINED_ROWS)
            self._may_go_alone = self._thread is None and batching.max_wait_ms <= 0
            self._alone = False

    def submit(self, batch: Batch, ticket: PendingRequest) -> None:
        """Answer `batch`, together with whatever else waits.

        The ticket is settled with ModelFault when the model fails, and with DeadlineExceeded when its deadline passes first; a
        request that then still waits, or whose ticket is done, is never run.
        """
        if self._alone and self._scheduled is None and ticket.deadline > time.monotonic():
            # For the last moments one request came at a time: this one need not wait to see whether another does. If one does,
            # the next turn finds it waiting, and from then on they are joined again.
            self._scheduled = self._loop.call_soon(self._turn)
            self._went_alone = 1
            ticket.running = True
            self._run([(batch, ticket)])
            return
        self._line.join(batch, ticket)
        if self._scheduled is None:
            wait_ms = self._batching.max_wait_ms
            if wait_ms <= 0:
                self._scheduled = self._loop.call_soon(self._turn)
            else:
                self._scheduled = self._loop.call_later(wait_ms / 1_000, self._turn)
        elif self._batching.max_wait_ms > 0 and self._line.rows >= self._line.gain.limit():
            self._scheduled.cancel()
            self._scheduled = self._loop.call_soon(self._turn)

    def bar(self, make: Callable[[], RoadworthyError] | None) -> None:
        """Refuse whoever waits with an error of `make`; the caller hands in nobody else. None refuses nobody."""
        if make is not None:
            self._line.refuse(make)

    def close(self) -> None:
        """Stop; the caller has made sure that nobody waits. The runner is closed after its last run."""
        self._line.close()
        if self._thread is None:
            self._runner.close()
        else:
            self._thread.close(self._runner.close)

    def _running_tickets(self) -> list[PendingRequest]:
        return [ticket for _, ticket in self._running]

    def _turn(self) -> None:
        self._scheduled = None
        if self._thread is not None:
            self._feed(self._thread)
            return
        self._alone = self._may_go_alone and len(self._line) + self._went_alone <= 1
        self._went_alone = 0
        while len(self._line):
            group = self._line.next_group()
            if group:
                self._run(group)
                if group[0][0].rows > MAX_JOINED_ROWS and len(self._line):
                    # One long run a turn: what others have sent meanwhile comes between it and the next.
                    self._scheduled = self._loop.call_soon(self._turn)
                    return

    def _run(self, group: list[Member]) -> None:
        begun = time.perf_counter()
        results = run_joined(self._runner, [batch for batch, _ in group])
        seconds = time.perf_counter() - begun
        self._line.gain.ran(sum([batch.rows for batch, _ in group]), seconds)
        self.times.ran(seconds, len(group))
        _settle(group, results)

    def _feed(self, thread: ModelThread) -> None:
        while len(self._line) and not self._running:
            group = self._running = self._line.next_group()
            if group:
                self.busy_since = time.monotonic()
                batches = [batch for batch, _ in group]
                thread.call(partial(_timed, self._runner, batches), self._ran)

    def _ran(self, outcome: tuple[list[Result], float]) -> None:
        group, self._running = self._running, []
        self.busy_since = None
        results, seconds = outcome
        self._line.gain.ran(sum([batch.rows for batch, _ in group]), seconds)
        self.times.ran(seconds, len(group))
        _settle(group, results)
        if len(self._line) and self._scheduled is None:
            self._scheduled = self._loop.call_soon(self._turn)


def run_joined(runner: Runner, batches: list[Batch]) -> list[Result]:
    """Run all batches as one; give each its own rows.

    When the joined run fails, each is run again by itself, so that only the request that the model cannot answer fails. A
    wrong number of rows fails all of them: nobody can tell whose answers are missing.
    """
    try:
        joined = runner.run(batches[0] if len(batches) == 1 else Batch.concatenate(batches))
    except Exception as error:  # noqa: BLE001 - runners promise ModelFault; whatever else it is, the callers get an answer
        if len(batches) == 1 or (isinstance(error, ModelFault) and error.code == WRONG_COUNT):
            return [error if isinstance(error, ModelFault) else _defect(error)] * len(batches)
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


def _settle(group: list[Member], results: list[Result]) -> None:
    for (_, ticket), result in zip(group, results, strict=True):
        ticket.settle(result)
