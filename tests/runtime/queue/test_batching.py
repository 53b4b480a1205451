"""Requests that wait at the same moment run together, and each gets its own answer or its own fault."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from roadworthy.contract.policy import Batching
from roadworthy.foundation.errors import DeadlineExceeded, ModelFault, Unavailable
from roadworthy.runtime.pending import Answer, Outcome, PendingRequest
from roadworthy.runtime.queue import batching
from roadworthy.runtime.queue.batching import Batcher
from roadworthy.runtime.runners.inline import InlineRunner
from roadworthy.schema.batch import Batch
from tests.waiting import DEADLINE_S, HandClock, dawdle, eventually, soon

BOTH = pytest.mark.parametrize("concurrent", [True, False])


class Waiting(PendingRequest):
    """A pending request whose outcome can be awaited."""

    def __init__(self, seconds: float = 3_600.0, caller: str = "") -> None:
        super().__init__(batching.time.monotonic() + seconds, caller)
        self.outcome: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def settled(self, outcome: Outcome) -> None:
        """Keep it."""
        if isinstance(outcome, Answer):
            self.outcome.set_result(outcome)
        else:
            self.outcome.set_exception(outcome)


def submit(batcher: Batcher, batch: Batch, seconds: float = 3_600.0, caller: str = "") -> asyncio.Future[Answer]:
    """Submit one batch whose deadline is that far away."""
    request = Waiting(seconds, caller)
    batcher.submit(batch, request)
    return request.outcome


async def answers(batcher: Batcher, batches: list[Any]) -> list[Any]:
    """Submit all at once; the values answered to each, or its exception."""
    settled = await asyncio.gather(*(submit(batcher, batch) for batch in batches), return_exceptions=True)
    return [answer if isinstance(answer, BaseException) else answer.batch().blocks[0].values[:, 0].tolist() for answer in settled]


def run(model: Any, scene: Callable[[Batcher], Any], **options: Any) -> Any:
    """Run a scene with a batcher over a planted model."""

    async def play() -> Any:
        batcher = Batcher(InlineRunner(model), asyncio.get_running_loop(), **options)
        try:
            return await scene(batcher)
        finally:
            batcher.close()

    return asyncio.run(play())


async def running_with_a_deadline(batcher: Batcher, model: Any, batch: Batch) -> asyncio.Future[Answer]:
    """A request that runs before its deadline, which is as near as this machine allows."""
    seconds = 0.1
    while True:
        outcome = submit(batcher, batch, seconds)
        await soon(lambda outcome=outcome: model.runs or outcome.done(), "it runs, or was too late for that")
        if model.runs:
            return outcome
        assert isinstance(outcome.exception(), DeadlineExceeded)
        seconds *= 2


@BOTH
def test_requests_of_one_moment_run_once(doubler: Any, rows: Any, concurrent: bool) -> None:
    """Ten requests are one run; each gets its own rows."""
    model = doubler(concurrent=concurrent)
    batches = [rows(*range(number, number + 1 + number % 3)) for number in range(10)]
    found = run(model, lambda batcher: answers(batcher, batches))
    assert found == [[2.0 * value for value in range(n, n + 1 + n % 3)] for n in range(10)]
    assert len(model.runs) == 1


def test_g6_long_runs_do_not_hold_the_loop(doubler: Any, rows: Any) -> None:
    """They happen on one thread kept for them, one at a time; short requests are answered meanwhile, on the loop."""
    gate = threading.Event()
    model = doubler(hook=lambda values: gate.wait(DEADLINE_S) and None if len(values) > 1_024 else None)

    async def scene(batcher: Batcher) -> list[Any]:
        long = [Waiting() for _ in range(3)]
        for request, size in zip(long, (2_000, 3_000, 4_000), strict=True):
            batcher.submit(rows(*range(size)), request)
        await soon(lambda: model.runs, "the first one runs")
        assert (batcher.waiting, batcher.busy_since is None) == (2, False)
        assert await answers(batcher, [rows(1), rows(2)]) == [[2.0], [4.0]]
        assert model.runs == [2_000, 2]
        long[1].drop()
        gate.set()
        found = [(await long[number].outcome).batch().rows for number in (0, 2)]
        assert (batcher.waiting, batcher.busy_since) == (0, None)
        return found

    assert run(model, scene) == [2_000, 4_000]
    assert model.runs == [2_000, 2, 4_000]
    assert len(model.threads) == 2
    eventually(lambda: model.closed == 1, "the model is given back once")


def test_g6_a_long_request_has_its_deadline(doubler: Any, rows: Any) -> None:
    """Waiting or running, it is told at its deadline; barred ones are refused."""
    gate = threading.Event()
    model = doubler(hook=lambda _: gate.wait(DEADLINE_S) and None)

    async def scene(batcher: Batcher) -> None:
        running = await running_with_a_deadline(batcher, model, rows(*range(2_000)))
        waiting = submit(batcher, rows(*range(3_000)), 0.1)
        for late in (running, waiting):
            with pytest.raises(DeadlineExceeded):
                await late
        barred = submit(batcher, rows(*range(4_000)))
        batcher.bar(lambda: ModelFault("no"))
        with pytest.raises(ModelFault):
            await barred
        gate.set()
        await soon(lambda: batcher.busy_since is None, "the run ended")

    run(model, scene)
    assert model.runs == [2_000]


@BOTH
def test_g6_a_run_is_known_until_it_ends(doubler: Any, rows: Any, concurrent: bool) -> None:
    """Also after the deadlines of its requests."""
    gate = threading.Event()
    model = doubler(hook=lambda _: gate.wait(DEADLINE_S) and None, concurrent=concurrent)
    changes: list[int] = []

    async def scene(batcher: Batcher) -> None:
        batcher.times.on_thread = changes.append
        running = await running_with_a_deadline(batcher, model, rows(*range(2_000)))
        with pytest.raises(DeadlineExceeded):
            await running
        assert (changes, batcher.long_since is None) == ([1], not concurrent)
        gate.set()
        await soon(lambda: changes == [1, -1], "the run ended")
        assert batcher.long_since is None

    run(model, scene)


def test_runs_are_bounded(doubler: Any, rows: Any) -> None:
    """No joined run is longer than the bound, but a single request may be."""
    model = doubler()
    batches = [rows(*range(4))] * 3 + [rows(*range(20))] + [rows(1)]
    found = run(model, lambda batcher: answers(batcher, batches), batching=Batching(max_rows=10))
    assert [len(values) for values in found] == [4, 4, 4, 20, 1]
    assert model.runs == [8, 4, 20, 1]


def test_a_model_that_is_not_concurrent_has_a_thread_of_its_own(doubler: Any, rows: Any) -> None:
    """Its runs happen on one thread, not on the event loop's; requests that arrive meanwhile run together."""
    gate = threading.Event()
    model = doubler(hook=lambda values: None if values[0] else gate.wait(DEADLINE_S) and None, concurrent=False)

    async def scene(batcher: Batcher) -> None:
        first = submit(batcher, rows(0))
        await soon(lambda: model.runs, "it runs")
        others = [submit(batcher, rows(value)) for value in (1, 2, 3)]
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
    """One row too few: all requests of the run fail, none gets another's answer, and nothing runs again."""
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
    """sys.exit inside the model fails the request and ends nothing."""

    def hook(values: list[float]) -> None:
        raise SystemExit(3)

    found = run(doubler(hook=hook, concurrent=False), lambda batcher: answers(batcher, [rows(1)]))
    assert found[0].code == "model-failed"


def test_who_waits_too_long_is_told_and_never_run(doubler: Any, rows: Any) -> None:
    """A request whose deadline passes in the queue is settled at once; the model never sees it."""
    gate = threading.Event()
    model = doubler(hook=lambda values: None if values[0] else gate.wait(DEADLINE_S) and None, concurrent=False)

    async def scene(batcher: Batcher) -> None:
        running = await running_with_a_deadline(batcher, model, rows(0))
        waiting = submit(batcher, rows(1), 0.05)
        for future in (waiting, running):
            with pytest.raises(DeadlineExceeded):
                await future
        gate.set()
        assert (await submit(batcher, rows(2))).batch().rows == 1

    run(model, scene)
    assert model.runs == [1, 1]


def test_a_deadline_that_is_over_before_the_run(doubler: Any, rows: Any) -> None:
    """A late request does not run on the event loop's own thread either."""
    model = doubler()

    async def scene(batcher: Batcher) -> None:
        late = submit(batcher, rows(1), -1)
        with pytest.raises(DeadlineExceeded):
            await late

    run(model, scene)
    assert model.runs == []


def test_a_caller_who_gave_up_costs_no_run(doubler: Any, rows: Any) -> None:
    """A dropped request leaves the queue and is never settled."""
    model = doubler()

    async def scene(batcher: Batcher) -> None:
        gone = Waiting()
        batcher.submit(rows(1), gone)
        gone.drop()
        await submit(batcher, rows(2))
        assert not gone.outcome.done()

    run(model, scene)
    assert model.runs == [1]


@BOTH
def test_closing_gives_the_model_back_once(doubler: Any, rows: Any, concurrent: bool) -> None:
    """The model is closed after its last run."""
    model = doubler(concurrent=concurrent)
    run(model, lambda batcher: answers(batcher, [rows(1)]))
    eventually(lambda: model.closed, "it is closed")
    assert model.closed == 1


def test_b5_who_sends_much_does_not_make_others_wait(doubler: Any, rows: Any) -> None:
    """When not all requests fit into one run, the callers are served round robin."""
    gate = threading.Event()
    model = doubler(hook=lambda values: None if values[0] else gate.wait(DEADLINE_S) and None, concurrent=False)
    order: list[str] = []

    async def scene(batcher: Batcher) -> None:
        first = submit(batcher, rows(0))
        await soon(lambda: model.runs, "it runs")
        outcomes = []
        for number, caller in enumerate("a" * 20 + "b" * 2, start=1):
            outcome = submit(batcher, rows(number), caller=caller)
            outcome.add_done_callback(lambda _, caller=caller: order.append(caller))  # type: ignore[misc]
            outcomes.append(outcome)
        gate.set()
        await asyncio.gather(first, *outcomes)

    run(model, scene, batching=Batching(max_rows=4))
    assert set(order[:4]) == {"a", "b"}
    assert order[:4].count("b") == 2
    assert len(order) == 22


def test_waiting_for_others_is_asked_for(doubler: Any, rows: Any) -> None:
    """With max_wait_ms requests of several moments run together; a full run starts at once, others after that time."""
    model = doubler()

    async def full(batcher: Batcher) -> None:
        outcomes = []
        for number in range(4):
            assert model.runs == []
            outcomes.append(submit(batcher, rows(number)))
            await asyncio.sleep(0)
        await asyncio.gather(*outcomes)

    run(model, full, batching=Batching(max_rows=4, max_wait_ms=3_600_000))
    assert model.runs == [4]
    run(model, lambda batcher: submit(batcher, rows(1)), batching=Batching(max_rows=4, max_wait_ms=20))
    assert model.runs == [4, 1]


def test_b1_who_would_not_be_answered_in_time_is_refused_at_once(
    doubler: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once run times are known, the queue is no longer than its deadlines allow; admitted requests are answered."""
    gate, clock = threading.Event(), HandClock()
    for name in ("batching", "request_queue"):
        monkeypatch.setattr(f"roadworthy.runtime.queue.{name}.time", clock)

    def hook(values: list[float]) -> None:
        if values[0] == 0:
            gate.wait(DEADLINE_S)
        elif values[0] > 0:
            clock.step(0.01 * len(values))

    model = doubler(hook=hook, concurrent=False)

    async def scene(batcher: Batcher) -> None:
        for _ in range(4):
            await submit(batcher, rows(1))
        first = submit(batcher, rows(0))
        await soon(lambda: len(model.runs) == 5, "it runs")
        waiting = [submit(batcher, rows(1), 0.5) for _ in range(200)]
        refused = [one for one in waiting if one.done()]
        assert 130 <= len(refused) <= 190
        assert {one.exception().code for one in refused} == {"overloaded"}  # type: ignore[union-attr]
        gate.set()
        answered = await asyncio.gather(first, *waiting, return_exceptions=True)
        assert sum(isinstance(one, Answer) for one in answered) == 1 + 200 - len(refused)

    run(model, scene, batching=Batching(max_rows=1))


def test_a_deadline_that_is_nearly_over_sets_no_broken_alarm(doubler: Any, rows: Any) -> None:
    """A timer whose deadline passes while it is set goes off too (uvloop returns another kind of handle then)."""
    uvloop = pytest.importorskip("uvloop")
    model = doubler(hook=lambda values: dawdle(0.02), concurrent=False)

    async def scene() -> None:
        batcher = Batcher(InlineRunner(model), asyncio.get_running_loop())
        outcomes = [submit(batcher, rows(number), 0.0001 * (number % 5)) for number in range(50)]
        for one in await asyncio.gather(*outcomes, return_exceptions=True):
            assert isinstance(one, (Answer, DeadlineExceeded, Unavailable))
        batcher.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scene())
