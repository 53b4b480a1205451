"""Joins the requests that wait at the same moment into one run.

Unless the endpoint asks for it, no request waits only to be joined: a run starts at the end of the event loop's current
iteration, or, for a model with its own thread, when that thread is free. Requests that have arrived by then run together.

A long request does not run on the event loop, which it would hold: it has a queue and a thread, kept for such requests.
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
"""Requests are joined up to this many rows; a single request with more rows runs alone, and never on the event loop."""

Result = Answer | ModelFault


class Batcher:
    """A `Submitter` over one runner. Event loop only.

    Args:
        runner: executes the batches.
        loop: the event loop.
        batching: how requests are joined.
        threaded: whether runs happen on a thread even if the runner is concurrent.

    Attributes:
        times: the times of runs.
    """

    def __init__(
        self,
        runner: Runner,
        loop: asyncio.AbstractEventLoop,
        batching: Batching | None = None,
        *,
        threaded: bool = False,
    ) -> None:
        self._runner = runner
        self._loop = loop
        self._batching = batching or Batching()
        self._running: list[Member] = []
        self._scheduled: asyncio.Handle | None = None
        self._thread = ModelThread(loop) if threaded or not runner.concurrent else None
        self._long: Batcher | None = None
        sizer = BatchSizer(self._batching.max_rows, MAX_JOINED_ROWS)
        self._queue = RequestQueue(loop, sizer, None if self._thread is None else self._running_requests)
        self._may_go_alone = self._thread is None and self._batching.max_wait_ms <= 0
        self._alone = False
        self._went_alone = 0
        self._busy_since: float | None = None
        self.times = RunTimes()

    def __repr__(self) -> str:
        place = "loop" if self._thread is None else "thread"
        return f"Batcher({self._runner!r}, on its {place}, {self._batching})"

    @property
    def waiting(self) -> int:
        """Requests that have not begun to run."""
        return len(self._queue) + (0 if self._long is None else self._long.waiting)

    @property
    def busy_since(self) -> float | None:
        """When the current run on a thread began, seconds on the monotonic clock; None when no run is under way. It shows a run
        that never ends, whatever its thread does."""
        return self._busy_since if self._long is None else self._long.busy_since

    @property
    def long_since(self) -> float | None:
        """When the current run of a long request began, of a model that otherwise runs on the event loop; None without one. Short
        requests are answered meanwhile, so that nothing else shows that it never ends."""
        return None if self._long is None else self._long.busy_since

    def configure(self, batching: Batching) -> None:
        """Use other settings from the next run on."""
        if batching != self._batching:
            self._batching = batching
            self._queue.sizer = BatchSizer(batching.max_rows, MAX_JOINED_ROWS)
            self._may_go_alone = self._thread is None and batching.max_wait_ms <= 0
            self._alone = False
            if self._long is not None:
                self._long.configure(batching)

    def submit(self, batch: Batch, request: PendingRequest) -> None:
        """Answer `batch`, together with the other waiting requests.

        The request is settled with ModelFault when the model fails, and with DeadlineExceeded when its deadline passes first. A
        request that still waits then, or that is done, never runs.
        """
        if batch.rows > MAX_JOINED_ROWS and self._thread is None:
            self._long_runs().submit(batch, request)
            return
        if self._alone and self._scheduled is None and request.deadline > time.monotonic():
            # Lately requests came one at a time, so this one does not wait to see whether another comes. If one comes, the next
            # round finds it waiting, and from then on requests are joined again.
            self._scheduled = self._loop.call_soon(self._run_waiting)
            self._went_alone = 1
            request.running = True
            self._run([(batch, request)])
            return
        self._queue.join(batch, request)
        if self._scheduled is None:
            wait_ms = self._batching.max_wait_ms
            if wait_ms <= 0:
                self._scheduled = self._loop.call_soon(self._run_waiting)
            else:
                self._scheduled = self._loop.call_later(wait_ms / 1_000, self._run_waiting)
        elif self._batching.max_wait_ms > 0 and self._queue.rows >= self._queue.sizer.limit():
            self._scheduled.cancel()
            self._scheduled = self._loop.call_soon(self._run_waiting)

    def bar(self, make: Callable[[], RoadworthyError] | None) -> None:
        """Refuse all waiting requests with errors of `make`; the caller submits no further ones. None refuses no request."""
        if make is not None:
            self._queue.refuse(make)
            if self._long is not None:
                self._long.bar(make)

    def close(self) -> None:
        """Stop; the caller has made sure that no request waits. The runner is closed after its last run."""
        self._queue.close()
        if self._thread is not None:
            self._thread.close(self._runner.close)
        elif self._long is not None:
            self._long.close()
        else:
            self._runner.close()

    def _long_runs(self) -> Batcher:
        """The queue and the thread of long requests; begun with the first one."""
        if self._long is None:
            self._long = Batcher(self._runner, self._loop, self._batching, threaded=True)
            self._long.times = self.times
        return self._long

    def _running_requests(self) -> list[PendingRequest]:
        return [request for _, request in self._running]

    def _run_waiting(self) -> None:
        self._scheduled = None
        if self._thread is not None:
            self._feed(self._thread)
            return
        self._alone = self._may_go_alone and len(self._queue) + self._went_alone <= 1
        self._went_alone = 0
        while len(self._queue):
            group = self._queue.next_group()
            if group:
                self._run(group)

    def _run(self, group: list[Member]) -> None:
        begun = time.perf_counter()
        results = run_together(self._runner, [batch for batch, _ in group])
        seconds = time.perf_counter() - begun
        self._queue.sizer.ran(sum([batch.rows for batch, _ in group]), seconds)
        self.times.ran(seconds, len(group))
        _settle(group, results)

    def _feed(self, thread: ModelThread) -> None:
        while len(self._queue) and not self._running:
            group = self._running = self._queue.next_group()
            if group:
                self._busy_since = time.monotonic()
                self.times.on_thread(1)
                batches = [batch for batch, _ in group]
                thread.call(partial(_timed, self._runner, batches), self._ran)

    def _ran(self, outcome: tuple[Batch | list[Result], float]) -> None:
        group, self._running = self._running, []
        self._busy_since = None
        self.times.on_thread(-1)
        results, seconds = outcome
        self._queue.sizer.ran(sum([batch.rows for batch, _ in group]), seconds)
        self.times.ran(seconds, len(group))
        _settle(group, results)
        if len(self._queue) and self._scheduled is None:
            self._scheduled = self._loop.call_soon(self._run_waiting)


def run_together(runner: Runner, batches: list[Batch]) -> Batch | list[Result]:
    """Run all batches as one, and return the joined answer. If that fails, return a result for each batch.

    When the joined run fails, each batch runs again alone, so that only the request that the model cannot answer fails. A wrong
    number of rows fails all of them: it is unknown whose answers are missing.
    """
    try:
        return runner.run(batches[0] if len(batches) == 1 else Batch.concatenate(batches))
    except Exception as error:  # noqa: BLE001 - runners promise ModelFault; whatever else is raised, the callers get an answer
        if len(batches) == 1 or (isinstance(error, ModelFault) and error.code == WRONG_COUNT):
            return [error if isinstance(error, ModelFault) else _defect(error)] * len(batches)
        return [run_joined(runner, [batch])[0] for batch in batches]


def run_joined(runner: Runner, batches: list[Batch]) -> list[Result]:
    """Run all batches as one, and return for each its own rows, or why they failed."""
    joined = run_together(runner, batches)
    if isinstance(joined, list):
        return joined
    results: list[Result] = []
    start = 0
    for batch in batches:
        stop = start + batch.rows
        results.append(Answer(joined, start, stop))
        start = stop
    return results


def _timed(runner: Runner, batches: list[Batch]) -> tuple[Batch | list[Result], float]:
    begun = time.perf_counter()
    return run_together(runner, batches), time.perf_counter() - begun


def _defect(error: Exception) -> ModelFault:
    fault = ModelFault("the model's answer could not be used", code="model-failed")
    fault.__cause__ = error
    return fault


def _settle(group: list[Member], results: Batch | list[Result]) -> None:
    if isinstance(results, list):
        for (_, request), result in zip(group, results, strict=True):
            request.settle(result)
    else:
        group[0][1].settle_run(group, results)
