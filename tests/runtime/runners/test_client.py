"""The worker's side of runner processes: requests are joined, answered, bounded in time, and survive a change of runner."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import numpy as np

from roadworthy.contract.policy import Batching
from roadworthy.foundation.errors import ModelFault, Unavailable
from roadworthy.schema.batch import Batch, Block, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field, Signature
from tests.runtime.runners.isolated.runners import DIGEST, Caller, StartRunner, Waiting, play, rows, told
from tests.waiting import eventually


def test_answers_come_from_the_runner(start_runner: StartRunner, tmp_path: Path) -> None:
    """Each request gets its own rows; the greeting describes the loaded version."""
    start_runner("sum")

    async def scene(caller: Caller) -> None:
        assert await caller.ask(rows(1), rows(2, 3), rows(4)) == [[1.0], [2.0, 3.0], [4.0]]
        greeting = caller.batcher.ready
        assert greeting is not None
        assert (greeting.digest, greeting.runtime) == (DIGEST, "planted")

    play(tmp_path, scene)


def test_requests_of_one_moment_are_one_run(start_runner: StartRunner, tmp_path: Path) -> None:
    """Sixty requests at once run together."""
    start_runner("size")

    async def scene(caller: Caller) -> None:
        await caller.ready()
        assert await caller.ask(*(rows(n) for n in range(60))) == [[60.0]] * 60

    play(tmp_path, scene)


def test_requests_of_several_workers_are_joined(start_runner: StartRunner, tmp_path: Path) -> None:
    """Requests of two workers that wait for the model are one run."""
    runner = start_runner("gated")

    async def scene(caller: Caller) -> None:
        other = Caller(tmp_path, 1, None, DIGEST)
        await caller.ready()
        await other.ready()
        first = caller.submit(rows(1, wait_s=0.2))
        await caller.until(lambda: runner.runs)
        late = [caller.submit(rows(2)), other.submit(rows(3)), other.submit(rows(4))]
        await caller.written()
        await other.written()
        runner.open_gate()
        assert [told(await request.outcome) for request in (first, *late)] == [[1.2], [2.0], [3.0], [4.0]]
        other.batcher.close()

        seen = runner.state
        assert seen is not None
        assert seen.runs == 2

    play(tmp_path, scene)


def test_runs_are_spread_over_copies(start_runner: StartRunner, tmp_path: Path) -> None:
    """Of two runs at once each gets its own copy: both are under way at the same time."""
    runners = [start_runner("gated", copy=copy) for copy in (0, 1)]

    async def scene(caller: Caller) -> None:
        await caller.until(lambda: all(link.is_open for link in caller.batcher._links))
        first = caller.submit(rows(1, wait_s=0.5))
        await caller.until(lambda: any(runner.runs for runner in runners))
        second = caller.submit(rows(2, wait_s=0.5))
        await caller.until(lambda: all(runner.runs for runner in runners))
        runners[0].open_gate()
        assert [told(await first.outcome), told(await second.outcome)] == [[1.5], [2.5]]

    play(tmp_path, scene, copies=2)


def test_c7_a_wrong_number_of_answers_fails_all(start_runner: StartRunner, tmp_path: Path) -> None:
    """One row too few: no request of the run gets an answer."""
    start_runner("wrong-count")

    async def scene(caller: Caller) -> None:
        await caller.ready()
        assert await caller.ask(rows(1), rows(13), rows(3)) == ["wrong-output-count"] * 3
        assert await caller.ask(rows(1)) == [[1.0]]

    play(tmp_path, scene)


def test_c9_only_the_poisonous_request_fails(start_runner: StartRunner, tmp_path: Path) -> None:
    """The others of its run, and of its message, are answered; the fault has no internal details."""
    runner = start_runner("poison")

    async def scene(caller: Caller) -> None:
        await caller.ready()
        requests = [caller.submit(rows(n)) for n in (1, 13, 3)]
        first, fault, third = [await request.outcome for request in requests]
        assert [told(first), told(third)] == [[1.0], [3.0]]
        assert isinstance(fault, ModelFault)
        assert fault.code == "model-failed"
        assert "secret" not in f"{fault.message}{fault.hint}{fault.facts}"

    play(tmp_path, scene)
    # Its log goes to a file from a thread of its own: it may be written after the answer.
    eventually(lambda: "/secret/path" in runner.log(), "the log tells the whole fault")


def test_c8_unusable_answers_are_the_model_s_fault(start_runner: StartRunner, tmp_path: Path) -> None:
    """Another type, or numbers that are not finite: only the request that caused it fails."""
    start_runner("wrong-type")
    start_runner("not-finite", copy=1)

    async def scene(caller: Caller) -> None:
        await caller.until(lambda: all(link.is_open for link in caller.batcher._links))
        wrong, finite = caller.batcher._links
        for link, code in ((wrong, "wrong-output-type"), (finite, "non-finite-output")):
            requests = [Waiting() for _ in range(3)]
            link.send([(rows(value), request) for value, request in zip((1, 13, 3), requests, strict=True)])
            assert [told(await request.outcome) for request in requests] == [[1.0], code, [3.0]]

    play(tmp_path, scene, copies=2)


def test_faults_keep_what_may_be_told(start_runner: StartRunner, tmp_path: Path) -> None:
    """Code and hint of a ModelFault arrive; facts that cannot be sent are dropped."""
    start_runner("fault")

    async def scene(caller: Caller) -> None:
        fault = await caller.submit(rows(13)).outcome
        assert isinstance(fault, ModelFault)
        assert (fault.code, fault.message, fault.hint, fault.facts) == ("model-failed", "planted", "do not", {})

    play(tmp_path, scene)


def test_deadlines_hold_in_the_line_and_in_flight(start_runner: StartRunner, tmp_path: Path) -> None:
    """A request whose deadline passes in the queue or in flight is settled in time, and does not run."""
    runner = start_runner("gated")

    async def scene(caller: Caller) -> None:
        await caller.ready()
        seconds, running = 0.1, None
        while running is None or not runner.runs:  # on a busy machine it may be too late before it runs
            seconds *= 2
            running = caller.submit(rows(1, wait_s=0.6), seconds)
            await caller.until(lambda running=running: runner.runs or running.done)
        sent = caller.submit(rows(2), seconds)  # reaches the runner while it is busy, and is dropped there
        await asyncio.sleep(0)
        waits = caller.submit(rows(3), seconds)
        assert [told(await request.outcome) for request in (running, sent, waits)] == ["deadline-exceeded"] * 3
        runner.open_gate()
        assert await caller.ask(rows(4)) == [[4.0]]
        assert runner.state is not None
        assert runner.state.runs == 2

    play(tmp_path, scene)


def test_a_caller_who_gave_up_costs_no_run(start_runner: StartRunner, tmp_path: Path) -> None:
    """A dropped request that still waits here is never sent."""
    runner = start_runner("sum")

    async def scene(caller: Caller) -> None:
        await caller.ready()
        request = caller.submit(rows(1))
        request.drop()
        assert await caller.ask(rows(2)) == [[2.0]]
        assert not request.outcome.done()

    play(tmp_path, scene)
    assert runner.state is not None
    assert runner.state.runs == 1


def test_who_sends_much_does_not_make_others_wait(start_runner: StartRunner, tmp_path: Path) -> None:
    """When not all requests fit into one message, the callers are served round robin."""
    start_runner("size", max_rows=4)

    async def scene(caller: Caller) -> None:
        await caller.ready()
        order: list[str] = []
        for name in ["much"] * 20 + ["other"]:
            caller.submit(rows(1), caller=name).outcome.add_done_callback(lambda _, name=name: order.append(name))
        await caller.until(lambda: len(order) == 21)
        assert "other" in order[:4]

    play(tmp_path, scene, batching=Batching(max_rows=4))


def test_large_tensors_go_through_shared_memory(start_runner: StartRunner, tmp_path: Path) -> None:
    """Megabytes there and back, with nulls, more at once than the memory can hold."""
    fields = (Field("x", DType.FLOAT32, (-1, 256), nullable=True), Field("s", DType.STRING), Field("j", DType.JSON))
    signature = Signature(fields, fields, Container.RECORDS)
    start_runner("echo", signature)
    maker = np.random.default_rng(0)

    def batch(count: int, length: int) -> Batch:
        values = maker.random((count, length, 256), dtype=np.float32)
        texts, nested = np.empty((count, 1), dtype=object), np.empty((count, 1), dtype=object)
        texts[:, 0] = [f"text {n} é\0" for n in range(count)]
        nested[:, 0] = [{"n": n, "big": 2**70, "list": [None, 1.5]} for n in range(count)]
        return Batch(Layout(fields), count, (Block(values, values > 0.5), Block(texts), Block(nested)))

    async def scene(caller: Caller) -> None:
        await caller.ready()
        for count, length in ((3, 100), (1, 1), (10, 1_000), (50, 1_000)):
            asked = batch(count, length)
            outcome = await caller.submit(asked).outcome
            answer = outcome.batch()  # type: ignore[union-attr]
            for block, expected in zip(answer.blocks, asked.blocks, strict=True):
                assert np.array_equal(block.values, expected.values)
            assert np.array_equal(answer.blocks[0].mask, asked.blocks[0].mask)  # type: ignore[arg-type]
            assert answer.blocks[0].values.flags.owndata or answer.blocks[0].values.base is not None

    play(tmp_path, scene)


def test_a_runner_that_is_replaced_drops_nothing(start_runner: StartRunner, tmp_path: Path) -> None:
    """Ten times a new runner takes the address and the old one stops, and no request fails."""
    runner = start_runner("sum")

    async def scene(caller: Caller) -> None:
        nonlocal runner
        await caller.ready()
        outcomes: list[object] = []
        over = False

        async def ask_on() -> None:
            while not over:
                outcomes.extend(await caller.ask(rows(len(outcomes) % 7)))

        asking = [asyncio.ensure_future(ask_on()) for _ in range(8)]
        for change in range(5):
            await caller.until(lambda change=change: len(outcomes) > 100 * change)
            successor = await asyncio.to_thread(lambda: start_runner("sum").wait_shown())
            assert await asyncio.to_thread(runner.stop) == 0
            runner = successor
        await caller.until(lambda: len(outcomes) > 500)
        over = True
        await asyncio.gather(*asking)
        assert all(isinstance(outcome, list) for outcome in outcomes)

    play(tmp_path, scene)


def test_a_runner_of_another_version_is_not_heard(start_runner: StartRunner, tmp_path: Path) -> None:
    """It holds the wanted address by accident: no request is sent to it."""
    other = DIGEST[:-1] + "0"
    start_runner("sum", digest=other).wait_shown()

    async def scene(caller: Caller) -> None:
        assert told(await caller.submit(rows(1), seconds=0.3).outcome) == "deadline-exceeded"
        assert caller.batcher.ready is None

    play(tmp_path, scene)


def test_requests_wait_for_the_first_runner(start_runner: StartRunner, tmp_path: Path) -> None:
    """Without a runner the request waits, and is answered once one is ready."""

    async def scene(caller: Caller) -> None:
        request = caller.submit(rows(5))
        await asyncio.sleep(0)
        assert caller.batcher.waiting == 1
        start_runner("sum")
        assert told(await request.outcome) == [5.0]

    play(tmp_path, scene)


def test_a_stopped_process_keeps_its_answers_back_and_others_serve(start_runner: StartRunner, tmp_path: Path) -> None:
    """One copy stops reading (SIGSTOP): the other answers, and nothing is lost when the first one continues."""
    stopped = start_runner("sum")
    start_runner("sum", copy=1)

    async def scene(caller: Caller) -> None:
        await caller.until(lambda: all(link.is_open for link in caller.batcher._links))
        os.kill(stopped.process.pid, signal.SIGSTOP)
        requests = []
        for n in range(20):
            requests.append(caller.submit(rows(n)))
            await caller.until(lambda: not caller.batcher.waiting)  # each is a message of its own
        await caller.until(lambda: sum(request.outcome.done() for request in requests) >= 18)
        os.kill(stopped.process.pid, signal.SIGCONT)
        assert [told(await request.outcome) for request in requests] == [[float(n)] for n in range(20)]

    play(tmp_path, scene, copies=2)


def test_d1_killed_again_and_again(start_runner: StartRunner, tmp_path: Path) -> None:
    """One of two runners is killed six times under load: only its requests fail, every answer is right, all settle."""
    runners = [start_runner("sum", copy=copy) for copy in (0, 1)]

    async def scene(caller: Caller) -> None:
        await caller.until(lambda: all(link.is_open for link in caller.batcher._links))
        outcomes: dict[object, int] = {}
        over = False

        async def ask_on(value: float) -> None:
            while not over:
                (outcome,) = await caller.ask(rows(value))
                right = outcome == [value]
                outcomes[right or str(outcome)] = outcomes.get(right or str(outcome), 0) + 1

        asking = [asyncio.ensure_future(ask_on(float(n))) for n in range(16)]
        for kill in range(6):
            copy = kill % 2
            runners[copy].process.kill()
            runners[copy] = await asyncio.to_thread(start_runner, "sum", copy=copy)
            await caller.until(lambda: all(link.is_open for link in caller.batcher._links))
            right = outcomes.get(True, 0)
            await caller.until(lambda right=right: outcomes.get(True, 0) > right + 100)
        over = True
        await asyncio.gather(*asking)
        assert set(outcomes) <= {True, "runner-died"}
        assert outcomes.get("runner-died", 0) <= 6 * 16

    play(tmp_path, scene, copies=2)


def test_c3_nobody_waits_for_a_version_that_is_barred(start_runner: StartRunner, tmp_path: Path) -> None:
    """Waiting and new requests are refused at once; when the bar is lifted, requests wait and are answered."""

    async def scene(caller: Caller) -> None:
        waits = caller.submit(rows(1))
        await asyncio.sleep(0)
        assert not waits.outcome.done()
        caller.batcher.bar(lambda: Unavailable("planted", code="planted"))
        assert await caller.ask(rows(2)) == ["planted"]
        assert told(await waits.outcome) == "planted"
        caller.batcher.bar(None)
        later = caller.submit(rows(3))
        start_runner("sum")
        assert told(await later.outcome) == [3.0]

    play(tmp_path, scene)
