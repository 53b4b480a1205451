"""Async generators behave as in an `async for` of one task, and none of them ends the loop that all share."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from roadworthy.frameworks.parts import Steps, begin
from tests.waiting import HandClock, eventually


def step(steps: Any) -> Any:
    """The next part, which the loop gives in time."""
    ready = threading.Event()
    if not steps.ask(ready.set, 1):
        eventually(ready.is_set, "the step ends")
    return next(steps)


async def words(_rows: Any) -> AsyncIterator[str]:
    """A healthy model."""
    yield "a"
    yield "b"


async def exits(_rows: Any) -> AsyncIterator[str]:
    """A model that asks the process to exit."""
    sys.exit(3)
    yield "never"


async def exits_in_a_task(_rows: Any) -> AsyncIterator[str]:
    """The same, in a task of its own."""

    async def leave() -> None:
        sys.exit(3)

    await asyncio.gather(asyncio.create_task(leave()))
    yield "never"


async def interrupts(_rows: Any) -> AsyncIterator[str]:
    """A model that raises what a keyboard does."""
    raise KeyboardInterrupt
    yield "never"


async def cancels(_rows: Any) -> AsyncIterator[str]:
    """A model whose upstream was cancelled."""
    raise asyncio.CancelledError
    yield "never"


@pytest.mark.parametrize("model", [exits, exits_in_a_task, interrupts, cancels])
def test_a_model_that_asks_for_an_exit_fails_alone(model: Callable[[Any], Any]) -> None:
    """Streams under way, and later ones, go on."""
    other = begin(words, None)
    assert step(other) == "a"
    with pytest.raises(RuntimeError, match=r"the model raised (SystemExit|KeyboardInterrupt|CancelledError)"):
        step(begin(model, None))
    assert step(other) == "b"
    assert list(begin(words, None)) == ["a", "b"]


def test_steps_that_do_not_wait_are_taken_together() -> None:
    """As many as were asked for, and no more before the next question."""
    begun: list[int] = []

    async def model(_rows: Any) -> AsyncIterator[int]:
        for number in range(5):
            begun.append(number)
            yield number

    steps: Any = begin(model, None)
    for wanted, expected in ((3, [0, 1, 2]), (1, [3]), (9, [4])):
        ready = threading.Event()
        assert not steps.ask(ready.set, wanted)
        eventually(ready.is_set, "the first of them ends")
        assert [next(steps) for _ in expected] == expected
        assert begun[-1] == expected[-1]
    assert list(steps) == []


def test_a_generator_that_computes_lets_the_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first part and a cancellation do not wait for all the steps that it was asked for."""
    clock = HandClock()
    monkeypatch.setattr("roadworthy.frameworks.parts.time", clock)
    order: list[str] = []
    begun, gate = threading.Event(), threading.Event()

    async def computes(_rows: Any) -> AsyncIterator[str]:
        while True:
            begun.set()
            gate.wait()
            clock.step(0.001)
            order.append("computed")
            yield "x"

    async def closes(_rows: Any) -> AsyncIterator[str]:
        try:
            yield "a"
        finally:
            order.append("closed")

    async def begins(_rows: Any) -> AsyncIterator[str]:
        order.append("began")
        yield "a"

    closing, computing, beginning = begin(closes, None), begin(computes, None), begin(begins, None)
    assert step(closing) == "a"
    computing.ask(lambda: None, 8)  # type: ignore[attr-defined]  # that of an async generator
    eventually(begun.is_set, "the first step computes")
    closing.close()
    beginning.ask(lambda: None, 1)  # type: ignore[attr-defined]  # that of an async generator
    gate.set()
    eventually(lambda: order.count("computed") == 8, "all steps have ended")
    computing.close()
    assert order.index("closed") <= 3
    assert order.index("began") <= 3


async def waits_with_a_timeout(_rows: Any) -> AsyncIterator[str]:
    """An upstream that hangs, and a timeout that spans the parts."""
    try:
        async with asyncio.timeout(0.05):
            yield "a"
            await asyncio.Event().wait()
    except TimeoutError:
        yield "gave up"


async def has_a_child_that_fails(_rows: Any) -> AsyncIterator[str]:
    """A task group that spans the parts."""
    begun = asyncio.Event()

    async def child() -> None:
        await begun.wait()
        raise ValueError("planted")

    async with asyncio.TaskGroup() as group:
        group.create_task(child())
        yield "a"
        begun.set()
        await asyncio.Event().wait()


def test_a_timeout_of_the_models_own_may_span_a_yield() -> None:
    """It ends the wait of a later step."""
    steps = begin(waits_with_a_timeout, None)
    assert [step(steps), step(steps)] == ["a", "gave up"]
    assert list(steps) == []


def test_a_timeout_that_passes_between_two_steps_is_raised_in_the_next() -> None:
    """The caller was slow, not the upstream."""
    passed = threading.Event()

    async def model(_rows: Any) -> AsyncIterator[str]:
        try:
            async with asyncio.timeout(0.05) as limit:
                deadline = limit.when()
                assert deadline is not None
                asyncio.get_running_loop().call_at(deadline + 0.05, passed.set)
                yield "a"
        except TimeoutError:
            yield "too late"

    steps = begin(model, None)
    assert step(steps) == "a"
    eventually(passed.is_set, "the timeout passes")
    assert step(steps) == "too late"


def test_a_task_group_may_span_a_yield() -> None:
    """Its child's failure is that of the step."""
    steps = begin(has_a_child_that_fails, None)
    assert step(steps) == "a"
    with pytest.raises(ExceptionGroup) as failed:
        step(steps)
    assert [str(error) for error in failed.value.exceptions] == ["planted"]


@pytest.mark.parametrize("under_way", [False, True])
def test_closing_cancels_a_step_and_runs_what_is_last(under_way: bool) -> None:
    """Whether a step is under way or not; nothing comes after it."""
    begun, closed = threading.Event(), threading.Event()

    async def model(_rows: Any) -> AsyncIterator[str]:
        try:
            yield "a"
            begun.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    steps: Steps = begin(model, None)
    assert step(steps) == "a"
    if under_way:
        steps.ask(lambda: None, 1)  # type: ignore[attr-defined]  # that of an async generator
        eventually(begun.is_set, "the second step begins")
    steps.close()
    eventually(closed.is_set, "the generator is closed")
    if not under_way:
        assert list(steps) == []
