"""Requests that wait at the same moment run together, and each gets its own answer or its own fault."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from roadworthy.foundation.errors import DeadlineExceeded, ModelFault
from roadworthy.runtime.batching import Batcher, Context
from roadworthy.runtime.runners.inline import InlineRunner

BOTH = pytest.mark.parametrize("concurrent", [True, False])


def later(seconds: float = 30.0) -> Context:
    """A context whose deadline is that far away."""
    return Context(time.monotonic() + seconds)


async def answers(batcher: Batcher, batches: list[Any]) -> list[Any]:
    """Submit all at once; the values answered to each, or its exception."""
    futures = [batcher.submit(batch, later()) for batch in batches]
    settled = await asyncio.gather(*futures, return_exceptions=True)
    return [
        answer if isinstance(answer, BaseException) else answer.batch().blocks[0].values[:, 0].tolist()
        for answer in settled
    ]


def run(model: Any, scene: Callable[[Batcher], Any], **options: Any) -> Any:
    """Run a scene with a batcher over a planted model."""

    async def play() -> Any:
        batcher = Batcher(InlineRunner(model), asyncio.get_running_loop(), **options)
        try:
            return await scene(batcher)
        finally:
            batcher.close()

    return asyncio.run(play())


@BOTH
def test_requests_of_one_moment_run_once(doubler: Any, rows: Any, concurrent: bool) -> None:
    """Ten requests are one run; everybody gets the rows that are theirs."""
    model = doubler(concurrent=concurrent)
    batches = [rows(*range(number, number + 1 + number % 3)) for number in range(10)]
    found = run(model, lambda batcher: answers(batcher, batches))
    assert found == [[2.0 * value for value in range(n, n + 1 + n % 3)] for n in range(10)]
    assert len(model.runs) == 1


def test_runs_are_bounded(doubler: Any, rows: Any) -> None:
    """No run is longer than the bound, but a single request may be."""
    model = doubler()
    batches = [rows(*range(4))] * 3 + [rows(*range(20))] + [rows(1)]
    found = run(model, lambda batcher: answers(batcher, batches), max_rows=10)
    assert [len(values) for values in found] == [4, 4, 4, 20, 1]
    assert model.runs == [8, 4, 20, 1]


def test_a_model_that_is_not_concurrent_has_a_thread_of_its_own(doubler: Any, rows: Any) -> None:
    """Its runs happen on one thread, not on the loop's; what came meanwhile runs together."""
    gate = threading.Event()
    model = doubler(hook=lambda values: None if values[0] else gate.wait(5) and None, concurrent=False)

    async def scene(batcher: Batcher) -> None:
        first = batcher.submit(rows(0), later())
        while not model.runs:  # noqa: ASYNC110 - polls
            await asyncio.sleep(0)
        others = [batcher.submit(rows(value), later()) for value in (1, 2, 3)]
        await asyncio.sleep(0)
        assert batcher.waiting == 3
        gate.set()
        await asyncio.gather(first, *others)

    run(model, scene)
    assert model.runs == [1, 3]
    assert len(model.threads) == 1
    assert threading.get_ident() not in model.threads


@BOTH
def test_c7_a_wrong_number_of_answers_fails_all(doubler: Any, rows: Any, concurrent: bool) -> None:
    """One answer too few: everybody in the run fails, nobody gets another's answer, and nothing is run again."""
    model = doubler(hook=lambda values: values[1:], concurrent=concurrent)
    found = run(model, lambda batcher: answers(batcher, [rows(1), rows(2), rows(3)]))
    assert [fault.code for fault in found] == ["wrong-output-count"] * 3
    assert model.runs == [3]


@BOTH
def test_c9_only_the_poisonous_request_fails(doubler: Any, rows: Any, concurrent: bool) -> None:
    """A row that the model cannot answer fails its own request; the others of the run are answered."""

    def hook(values: list[float]) -> None:
        if 13 in values:
            raise ZeroDivisionError("secret")

    model = doubler(hook=hook, concurrent=concurrent)
    found = run(model, lambda batcher: answers(batcher, [rows(1), rows(13), rows(3)]))
    assert found[0] == [2.0]
    assert found[2] == [6.0]
    assert isinstance(found[1], ModelFault)
    assert found[1].code == "model-failed"
    assert "secret" not in found[1].message
    assert isinstance(found[1].__cause__, ZeroDivisionError)


def test_c9_not_finite_answers_fail_their_own_request(doubler: Any, rows: Any) -> None:
    """NaN in a joined answer fails the request that caused it."""
    model = doubler(hook=lambda values: [float("nan") if value == 13 else value for value in values])
    found = run(model, lambda batcher: answers(batcher, [rows(1), rows(13), rows(3)]))
    assert [found[0], found[2]] == [[1.0], [3.0]]
    assert found[1].code == "non-finite-output"


def test_a_model_that_asks_to_exit_is_a_fault(doubler: Any, rows: Any) -> None:
    """sys.exit inside the model answers 500 and ends nothing."""

    def hook(values: list[float]) -> None:
        raise SystemExit(3)

    found = run(doubler(hook=hook, concurrent=False), lambda batcher: answers(batcher, [rows(1)]))
    assert found[0].code == "model-failed"


def test_who_waits_too_long_is_told_and_never_run(doubler: Any, rows: Any) -> None:
    """A deadline that passes in the queue answers at once; the model never sees the request."""
    gate = threading.Event()
    model = doubler(hook=lambda values: None if values[0] else gate.wait(5) and None, concurrent=False)

    async def scene(batcher: Batcher) -> None:
        running = batcher.submit(rows(0), later(0.1))
        while not model.runs:  # noqa: ASYNC110 - polls
            await asyncio.sleep(0)
        waiting = batcher.submit(rows(1), later(0.05))
        for future in (waiting, running):
            with pytest.raises(DeadlineExceeded):
                await future
        gate.set()
        assert (await batcher.submit(rows(2), later())).batch().rows == 1

    run(model, scene)
    assert model.runs == [1, 1]


def test_a_deadline_that_is_over_before_the_run(doubler: Any, rows: Any) -> None:
    """On the loop's own thread too: who is late is not run."""
    model = doubler()

    async def scene(batcher: Batcher) -> None:
        late = batcher.submit(rows(1), Context(time.monotonic() - 1))
        with pytest.raises(DeadlineExceeded):
            await late

    run(model, scene)
    assert model.runs == []


def test_a_caller_who_gave_up_costs_no_run(doubler: Any, rows: Any) -> None:
    """A cancelled request is taken out of the queue."""
    model = doubler()

    async def scene(batcher: Batcher) -> None:
        batcher.submit(rows(1), later()).cancel()
        await batcher.submit(rows(2), later())

    run(model, scene)
    assert model.runs == [1]


@BOTH
def test_closing_gives_the_model_back_once(doubler: Any, rows: Any, concurrent: bool) -> None:
    """The model is closed after its last run."""
    model = doubler(concurrent=concurrent)
    run(model, lambda batcher: answers(batcher, [rows(1)]))
    until = time.monotonic() + 5
    while not model.closed and time.monotonic() < until:
        time.sleep(0.001)
    assert model.closed == 1
