"""The conformance suite for kinds of runners, as checks that run on one kind.

    @pytest.mark.parametrize("check", CHECKS, ids=check_name)
    def test_my_runner(check):
        check(RunnerCase(MY_RUNNER))

A check raises AssertionError with a sentence. Each gives the kind a version whose answers, faults and calls the check plans. What
the agent does with the kind's processes is the same for all kinds.
"""

# ruff: noqa: S101  (a check reports by an assertion, as the tests that call it do)

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from roadworthy.foundation.errors import ModelFault
from roadworthy.foundation.plugins import RUNNERS, plugins
from roadworthy.runtime.runners.inline import InlineRunner
from roadworthy.runtime.runners.runner import Loaded, PartSteps, RunnerKind, processes_of
from roadworthy.schema.batch import Batch, Block, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field, Signature

_SIGNATURE = Signature((Field("x", DType.FLOAT64), Field("name", DType.STRING)), (Field("y", DType.FLOAT64),))
_SIZES = (1, 2, 3, 7, 64, 1_000, 2_500)
_PARTS = 3
_PATIENCE_S = 10.0


@dataclass(frozen=True)
class RunnerCase:
    """A kind of runner under test.

    Attributes:
        kind: the object that its entry point names.
    """

    kind: RunnerKind


class Version:
    """A version that answers 2 x + 1 for each row, or as `answer` does.

    Attributes:
        rows: number of rows of each run. closed: how often it was closed. crossed: whether two runs were under way at a time.
        parts: begins an answer in parts, for a version that has one; else None.
    """

    runtime = "planted"

    def __init__(
        self,
        answer: Callable[[Batch], Batch] | None = None,
        *,
        concurrent: bool = False,
        parts: Callable[[Batch], PartSteps] | None = None,
    ) -> None:
        self.package = type("Described", (), {"signature": replace(_SIGNATURE, parts=parts is not None)})()
        self.parts = parts
        self.concurrent = concurrent
        self.rows: list[int] = []
        self.closed = 0
        self.crossed = False
        self._answer = answer or doubled
        self._busy = threading.Lock()

    def run(self, batch: Batch) -> Batch:
        """As in Executable."""
        alone = self._busy.acquire(blocking=False)
        self.crossed |= not alone
        try:
            assert not self.closed, "a closed version was run"
            self.rows.append(batch.rows)
            return self._answer(batch)
        finally:
            if alone:
                self._busy.release()

    def close(self) -> None:
        """As in Executable."""
        self.closed += 1


Check = Callable[[RunnerCase], None]


def check_name(check: Check) -> str:
    """A readable id for a check."""
    return check.__name__.removeprefix("check_")


def rows_of(count: int, first: float = 0.0) -> Batch:
    """Rows of the version's inputs: first, first + 1, …; every third has no name."""
    numbers = np.arange(first, first + count)
    names = np.array([f"row {number:g}" for number in numbers], dtype=object)
    return Batch.from_columns(Layout(_SIGNATURE.inputs), [(numbers, None), (names, numbers % 3 == 0)], count)


def doubled(batch: Batch) -> Batch:
    """The version's answers."""
    return _answers(2 * batch.column("x")[0] + 1)


@contextmanager
def running(case: RunnerCase, version: Version, threads: int = 1) -> Iterator[Loaded]:
    """What the kind makes of the version, until the end of the block."""
    loaded = case.kind.runner(version, threads)
    try:
        yield loaded
    finally:
        loaded.close()


def check_found_by_name(case: RunnerCase) -> None:
    """The process has the kind."""
    name = case.kind.name
    assert plugins(RUNNERS).get(name) is case.kind, f"{name} is not found by its name; `roadworthy plugin list` shows why"


def check_processes_are_a_pure_function(case: RunnerCase) -> None:
    """The agent and each worker call it for themselves, so it gives the same number each time; a kind that isolates has at least
    one process."""
    for copies in (1, 2, 3, 16, 256):
        numbers = {processes_of(case.kind, copies) for _ in range(3)}
        assert len(numbers) == 1, f"for {copies} copies it asks for {sorted(numbers)} processes"


def check_answers_are_those_of_the_version(case: RunnerCase) -> None:
    """For any number of rows, in their order, with 1 and with 4 threads."""
    for threads in (1, 4):
        for concurrent in (False, True):
            with running(case, Version(concurrent=concurrent), threads) as loaded:
                for size in _SIZES:
                    batch = rows_of(size, first=size)
                    _assert_same(InlineRunner(loaded).run(batch), doubled(batch))


def check_rows_are_left_alone(case: RunnerCase) -> None:
    """The rows of a request are not written to: an earlier answer and a cache may hold them."""
    batch, kept = rows_of(100), rows_of(100)
    with running(case, Version()) as loaded:
        loaded.run(batch)
    for block, before in zip(batch.blocks, kept.blocks, strict=True):
        assert np.array_equal(block.values, before.values), "the runner wrote to the rows of a request"


def check_a_failure_fails_its_run_only(case: RunnerCase) -> None:
    """What the version raises comes out, as ModelFault or as it is, and the next run is answered."""

    def unlucky(batch: Batch) -> Batch:
        if (batch.column("x")[0] == 13.0).any():
            raise OSError("planted")
        return doubled(batch)

    with running(case, Version(unlucky)) as loaded:
        for _ in range(3):
            _assert_fails(loaded, rows_of(20), "the version failed, and the runner answered")
            _assert_same(InlineRunner(loaded).run(rows_of(5)), doubled(rows_of(5)))


def check_wrong_answers_are_not_hidden(case: RunnerCase) -> None:
    """Answers with too few rows or without a finite number come out as they are, and are refused."""

    def short(batch: Batch) -> Batch:
        return doubled(batch.slice(1, batch.rows))

    def infinite(batch: Batch) -> Batch:
        return _answers(np.where(batch.column("x")[0] == 3.0, np.inf, 1.0))

    for wrong in (short, infinite):
        with running(case, Version(wrong)) as loaded:
            _assert_fails(loaded, rows_of(10), f"an answer that is {wrong.__name__} became a good one")


def check_one_run_at_a_time(case: RunnerCase) -> None:
    """A version that is not concurrent is run on one thread at a time, and the runner does not call itself concurrent. A
    concurrent runner answers each of several threads with its own rows."""
    version = Version()
    with running(case, version, threads=4) as loaded:
        assert not loaded.concurrent, "the version is not concurrent, and its runner calls itself concurrent"
        loaded.run(rows_of(3_000))
    assert not version.crossed, "two threads ran a version that is not concurrent"
    with running(case, Version(concurrent=True), threads=4) as loaded, ThreadPoolExecutor(4) as pool:
        if loaded.concurrent:
            batches = [rows_of(50, first=number) for number in range(16)]
            for batch, answer in zip(batches, pool.map(loaded.run, batches), strict=True):
                _assert_same(answer, doubled(batch))


def check_parts_are_those_of_the_version(case: RunnerCase) -> None:
    """A version that answers in parts gives its parts one by one, and is closed when the rest is not wanted. Such a version is
    Python code, which only a kind that isolates gets."""
    if not case.kind.isolates:
        return
    begun: list[_Doubled] = []

    def begin(batch: Batch) -> _Doubled:
        begun.append(_Doubled(batch))
        return begun[-1]

    with running(case, Version(parts=begin)) as loaded:
        assert getattr(loaded, "parts", None) is not None, "the version answers in parts, and its runner has no `parts`"
        steps = InlineRunner(loaded).parts(rows_of(5))
        for number in range(_PARTS):
            part = steps.next()
            assert part is not None, f"{number} parts instead of {_PARTS}"
            _assert_same(part, doubled(rows_of(5, first=number)))
        assert steps.next() is None, f"more than {_PARTS} parts"
        left = InlineRunner(loaded).parts(rows_of(5))
        left.next()
        left.close()
        assert begun[-1].closed, "an answer whose rest is not wanted was not closed"
        assert begun[-1].given < _PARTS, "the version was asked for parts that are not wanted"


class _Doubled:
    """_PARTS parts: the answers to the rows, then to rows that are larger by 1, and so on."""

    ask = None

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self.given = 0
        self.closed = False

    def __next__(self) -> Batch:
        if self.given == _PARTS:
            raise StopIteration
        self.given += 1
        return _answers(2 * (self._batch.column("x")[0] + self.given - 1) + 1)

    def close(self) -> None:
        self.closed = True


def check_closing_closes_the_version(case: RunnerCase) -> None:
    """Once, also without a run, and leaves no thread behind that would hold the process."""
    before = set(threading.enumerate())
    for runs in (0, 2):
        version = Version()
        with running(case, version, threads=2) as loaded:
            for _ in range(runs):
                loaded.run(rows_of(500))
        assert version.closed == 1, f"the version was closed {version.closed} times"
    for thread in set(threading.enumerate()) - before:
        thread.join(_PATIENCE_S)
        assert not thread.is_alive(), f"the thread {thread.name} goes on after close"


def _answers(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Batch:
    return Batch(Layout(_SIGNATURE.outputs), len(values), (Block(values.reshape(-1, 1)),))


def _assert_same(answer: Batch, expected: Batch) -> None:
    assert answer.layout == expected.layout, "the answer has another layout than the version's"
    assert answer.rows == expected.rows, f"{answer.rows} rows instead of {expected.rows}"
    assert np.array_equal(answer.blocks[0].values, expected.blocks[0].values), "the answers are not those of the version"


def _assert_fails(loaded: Loaded, batch: Batch, what: str) -> None:
    try:
        InlineRunner(loaded).run(batch)
    except ModelFault:
        return
    raise AssertionError(what)


CHECKS: tuple[Check, ...] = (
    check_found_by_name,
    check_processes_are_a_pure_function,
    check_answers_are_those_of_the_version,
    check_rows_are_left_alone,
    check_a_failure_fails_its_run_only,
    check_wrong_answers_are_not_hidden,
    check_one_run_at_a_time,
    check_parts_are_those_of_the_version,
    check_closing_closes_the_version,
)
