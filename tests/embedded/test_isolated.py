"""Embedded endpoints whose versions execute in runner processes: code, rules, streams, and what ends them."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import roadworthy as rw
from tests.embedded import models
from tests.embedded.conftest import ROWS, answers
from tests.waiting import eventually, soon

ROW = {"age": 1.0, "income": 1.0}


@pytest.fixture(scope="module")
def served(coded: rw.Package) -> Iterator[rw.EmbeddedEndpoint]:
    """The model of code, with its rule as the fallback."""
    policy = {"fallback": [{"kind": "rule", "rule": "ten"}]}
    with rw.serve_in_process("coded", package=coded.path, allow_code=coded.digest, policy=policy) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def streaming(chat: rw.Package) -> Iterator[rw.EmbeddedEndpoint]:
    """The model that answers in parts."""
    with rw.serve_in_process("chat", package=chat.path, allow_code=[chat.digest]) as endpoint:
        yield endpoint


def runner_of(endpoint: rw.EmbeddedEndpoint) -> Any:
    """The core's runner processes."""
    return endpoint.core()._children.pids()


@pytest.mark.parametrize("allowed", [None, "sha256:0", ()])
def test_code_without_leave_is_refused(coded: rw.Package, allowed: Any) -> None:
    """As for `rw.load`: the digest must be named."""
    with pytest.raises(rw.InvalidRequest, match="digests"):
        rw.serve_in_process("refused", package=coded.path, allow_code=True)  # type: ignore[arg-type]  # a digest
    with pytest.raises(rw.PackageRefused) as caught:
        rw.serve_in_process("refused", package=coded.path, allow_code=allowed)
    assert caught.value.code == "code-not-allowed"


def test_a_proof_that_does_not_hold_is_refused(tmp_path: Path) -> None:
    """The error is that of `rw.load`, and nothing stays open."""
    package = rw.pack(models.otherwise, name="otherwise", inputs=ROWS, out=tmp_path)
    for _ in range(2):
        with pytest.raises(rw.ProofFailed):
            rw.serve_in_process("otherwise", package=package.path, allow_code=package.digest)


def test_code_executes_in_a_runner(served: rw.EmbeddedEndpoint) -> None:
    """The answer comes from a process of its own."""
    assert answers(served.predict(ROW)) == [2.0]
    placement = str(served.status().versions[0].placement)
    assert placement.startswith("process")
    assert os.getpid() not in runner_of(served)


def test_a_rule_answers_where_the_model_cannot(served: rw.EmbeddedEndpoint) -> None:
    """The fallback is the core's, and the answer says so."""
    answer = served.predict({**ROW, "age": -1.0})
    assert answers(answer) == [10.0]
    assert answer.fallback.startswith("rule")


def test_a_model_that_raises_is_a_fault(coded: rw.Package) -> None:
    """Without a fallback the caller gets the fault; the next call is answered."""
    with rw.serve_in_process("raises", package=coded.path, allow_code=coded.digest) as endpoint:
        with pytest.raises(rw.ModelFault):
            endpoint.predict({**ROW, "age": -1.0})
        assert answers(endpoint.predict(ROW)) == [2.0]


def test_a_breaker_opens(coded: rw.Package) -> None:
    """After enough faults, calls are refused without the model."""
    policy = {"breaker": {"min_requests": 3, "open_s": 600}}
    with rw.serve_in_process("breaks", package=coded.path, allow_code=coded.digest, policy=policy) as endpoint:

        def code() -> str:
            with pytest.raises(rw.RoadworthyError) as caught:
                endpoint.predict({**ROW, "age": -1.0})
            return caught.value.code

        eventually(lambda: code() == "circuit-open", "an open breaker")


def test_a_killed_runner_is_replaced(served: rw.EmbeddedEndpoint) -> None:
    """The process starts again, and the application goes on."""
    before = runner_of(served)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(runner_of(served) - before) == len(before), "new runners")
    eventually(lambda: answers(served.predict(ROW)) == [2.0], "an answer of the model")


def test_parts_come_one_by_one(streaming: rw.EmbeddedEndpoint) -> None:
    """In a thread and on an event loop; `predict` has all of them."""

    async def taken() -> list[Any]:
        return [part async for part in streaming.stream_async({"text": "one two three"})]

    parts = [["one"], ["two"], ["three"]]
    assert list(streaming.stream({"text": "one two three"})) == parts
    assert asyncio.run(taken()) == parts
    assert streaming.predict({"text": "one two"}).predictions == ["one", "two"]


def test_a_stream_that_is_left_is_freed(streaming: rw.EmbeddedEndpoint) -> None:
    """An endless answer ends with its iterator: closed, or on a loop that ends."""
    parts = streaming.stream({"text": "forever"})
    assert [next(parts), next(parts)] == [["0"], ["1"]]
    assert streaming.status().calls == 1
    parts.close()  # type: ignore[attr-defined]  # it is a generator

    async def leave() -> None:
        async for _ in streaming.stream_async({"text": "forever"}):
            return

    asyncio.run(leave())
    eventually(lambda: streaming.status().calls == 0, "no call in progress")
    never = streaming.stream({"text": "forever"})
    assert streaming.status().calls == 0
    with pytest.raises(rw.InvalidInput):
        streaming.stream({"text": 1})
    del never


def test_a_cancelled_call_is_freed(streaming: rw.EmbeddedEndpoint) -> None:
    """A call whose event loop ends is given up."""

    async def leave() -> None:
        task = asyncio.create_task(streaming.predict_async({"text": "forever"}))
        await soon(lambda: streaming.core().calls("chat"), "a call in progress")
        task.cancel()

    asyncio.run(leave())
    eventually(lambda: streaming.status().calls == 0, "no call in progress")


def test_a_slow_caller_stops_the_model(streaming: rw.EmbeddedEndpoint) -> None:
    """Parts wait for their caller within a bound, and are all there when it comes back."""
    parts = streaming.stream({"text": "forever"})
    assert [int(next(parts)[0]) for _ in range(100)] == list(range(100))
    parts.close()  # type: ignore[attr-defined]  # it is a generator


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_stream_does_not_go_on_in_a_fork(streaming: rw.EmbeddedEndpoint) -> None:
    """Its parts come to the parent: the child gets an error instead of waiting for ever, and leaves the parent's stream alone."""
    parts = streaming.stream({"text": "forever"})
    next(parts)
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        signal.alarm(60)
        try:
            next(parts)
        except rw.Unavailable as error:
            os._exit(error.code != "endpoint-closed")
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert next(parts) == ["1"]
    parts.close()  # type: ignore[attr-defined]  # it is a generator


def test_a_deadline_ends_a_call(streaming: rw.EmbeddedEndpoint) -> None:
    """The caller's own timeout ends an endless answer."""
    with pytest.raises(rw.RoadworthyError) as caught:
        for _ in streaming.stream({"text": "forever"}, timeout_s=0.5):
            pass
    assert caught.value.code == "deadline-exceeded"


def test_close_ends_streams_and_refuses_calls(chat: rw.Package) -> None:
    """A stream whose caller takes nothing does not hold `close` up; it ends with the code "endpoint-closed"."""
    endpoint = rw.serve_in_process("closing", package=chat.path, allow_code=chat.digest)
    parts = endpoint.stream({"text": "forever"})
    next(parts)
    endpoint.close()
    with pytest.raises(rw.Unavailable) as caught:
        list(parts)
    assert caught.value.code == "endpoint-closed"
    with pytest.raises(rw.Unavailable):
        endpoint.predict({"text": "a"})


def test_close_waits_for_calls_in_progress(coded: rw.Package) -> None:
    """Calls that came before `close` are answered; those that come after it are refused; none hangs."""
    endpoint = rw.serve_in_process("busy", package=coded.path, allow_code=coded.digest)
    found: list[str] = []

    def ask() -> None:
        while True:
            try:
                assert answers(endpoint.predict(ROW)) == [2.0]
                found.append("ok")
            except rw.RoadworthyError as error:
                found.append(error.code)
                return

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(found) > 20, "some answers")
    endpoint.close()
    for thread in threads:
        thread.join()
    assert sorted(each for each in found if each != "ok") == ["endpoint-closed"] * 4


def test_the_last_close_ends_all_runners(served: rw.EmbeddedEndpoint, streaming: rw.EmbeddedEndpoint) -> None:
    """None is left when the core has ended."""
    runners = runner_of(served)
    assert len(runners) >= 3
    served.close()
    streaming.close()
    assert not any(_runs(pid) for pid in runners)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
