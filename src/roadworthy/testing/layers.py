"""The conformance suite for layers, as checks that run on a layer and its parameters.

    @pytest.mark.parametrize("check", CHECKS, ids=check_name)
    def test_my_layer(check):
        check(LayerCase(MY_LAYER, {"digits": 2}))

A check raises AssertionError with a sentence. Each puts the layer around a version that answers as the check plans.
"""

# ruff: noqa: S101  (a check reports by an assertion, as the tests that call it do)

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from roadworthy.foundation.documents import Reader, listed, plain
from roadworthy.foundation.errors import DeadlineExceeded, ModelFault, RoadworthyError, Unavailable
from roadworthy.foundation.plugins import LAYERS, plugins
from roadworthy.runtime.layers.breaker import OwnCells
from roadworthy.runtime.layers.layer import Fence, Layer, LayerContext
from roadworthy.runtime.pending import AlwaysSettled, Answer, Outcome, PendingRequest, Submitter
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field, Signature

_SIGNATURE = Signature((Field("x", DType.FLOAT64),), (Field("y", DType.FLOAT64),))
_DIGEST = "sha256:" + "0" * 64
_PATIENCE_S = 5.0
_ERRORS = (
    ModelFault("the model failed", code="model-failed"),
    DeadlineExceeded("too late"),
    Unavailable("no place", code="overloaded"),
)


@dataclass(frozen=True)
class LayerCase:
    """A layer under test.

    Attributes:
        layer: the object that its entry point names.
        parameters: as a policy gives them.
        signature: of an endpoint that they fit. Inputs and outputs are plain numbers.
    """

    layer: Layer
    parameters: Mapping[str, Any]
    signature: Signature = _SIGNATURE

    def read(self) -> Any:
        """The parameters as `wrap` gets them."""
        reader = Reader()
        found = reader.value(self.layer.parameters, dict(self.parameters), "parameters")
        assert not reader.faults, f"the parameters are refused: {listed(reader.faults)}"
        return found

    def rows(self, *values: float) -> Batch:
        """Rows of the inputs, with the same value in each column."""
        return _batch(Layout(self.signature.inputs), values)

    def answers(self, *values: float) -> Batch:
        """Rows of the outputs."""
        return _batch(Layout(self.signature.outputs), values)


class Version:
    """The version below: settles each request with the planned outcome, at once or when `settle` is called.

    Attributes:
        requests: those that it was given.
    """

    def __init__(self, plan: Callable[[Batch], Outcome], *, later: bool = False) -> None:
        self._plan = plan
        self._later = later
        self._waiting: list[tuple[Batch, PendingRequest]] = []
        self.requests: list[PendingRequest] = []

    def submit(self, batch: Batch, request: PendingRequest) -> None:
        """As in Submitter."""
        self.requests.append(request)
        self._waiting.append((batch, request))
        if not self._later:
            self.settle()

    def settle(self) -> None:
        """Settle what waits and is not done."""
        waiting, self._waiting = self._waiting, []
        for batch, request in waiting:
            if not request.done:
                request.running = True
                request.settle(self._plan(batch))


class Caller(PendingRequest):
    """A request that remembers its outcomes."""

    def __init__(self) -> None:
        super().__init__(time.monotonic() + _PATIENCE_S, "caller")
        self.outcomes: list[Outcome] = []
        self._told = asyncio.Event()

    def settled(self, outcome: Outcome) -> None:
        """Keep it."""
        self.outcomes.append(outcome)
        self._told.set()

    async def outcome(self) -> Outcome:
        """The outcome, once there is one."""
        try:
            await asyncio.wait_for(self._told.wait(), _PATIENCE_S)
        except TimeoutError:
            raise AssertionError("a request was not settled") from None
        return self.outcomes[0]


class _Counts:
    def cached(self, result: str) -> None:
        """Nothing."""

    def fell_back(self, kind: str, reason: str) -> None:
        """Nothing."""


Check = Callable[[LayerCase], None]


def check_name(check: Check) -> str:
    """A readable id for a check."""
    return check.__name__.removeprefix("check_")


def wrapped(case: LayerCase, below: Submitter) -> Submitter:
    """The layer around `below`; call it on an event loop."""
    context = LayerContext(_DIGEST, case.signature, _Counts(), lambda _window_s: OwnCells())
    return case.layer.wrap(below, case.read(), context)


def check_found_by_name(case: LayerCase) -> None:
    """The process has the layer."""
    name = case.layer.name
    assert plugins(LAYERS).get(name) is case.layer, f"{name} is not found by its name"


def check_parameters_are_declared(case: LayerCase) -> None:
    """They are read, written as JSON, and read again with the same result; unknown ones are refused; and they fit."""
    found = case.read()
    reader = Reader()
    assert reader.value(case.layer.parameters, plain(found), "parameters") == found, "written and read they are others"
    assert not reader.faults, f"they are refused when they come back: {listed(reader.faults)}"
    reader.value(case.layer.parameters, {**case.parameters, "no such parameter": 1}, "parameters")
    assert reader.faults, "an unknown parameter is accepted"
    try:
        getattr(case.layer, "check", lambda _parameters, _signature: None)(found, case.signature)
    except ValueError as error:
        raise AssertionError(f"`check` refuses the signature of the case: {error}") from error


def check_each_request_is_settled_once(case: LayerCase) -> None:
    """At once or later, with answers that have its rows, the layout of the outputs, and finite numbers."""

    async def ask(later: bool) -> None:
        version = Version(lambda batch: Answer(case.answers(*[0.5] * batch.rows), 0, batch.rows), later=later)
        top = wrapped(case, version)
        callers = [Caller() for _ in range(8)]
        for number, caller in enumerate(callers):
            top.submit(case.rows(*range(number + 1)), caller)
        version.settle()
        for number, caller in enumerate(callers):
            _assert_good(case, await caller.outcome(), number + 1)
            assert len(caller.outcomes) == 1, "a request was settled twice"

    asyncio.run(ask(later=False))
    asyncio.run(ask(later=True))


def check_errors_come_out(case: LayerCase) -> None:
    """An error of the version becomes the outcome, or the layer answers or refuses in its own way; nothing is lost."""

    async def ask(error: RoadworthyError) -> None:
        top = wrapped(case, Version(lambda _batch: error))
        caller = Caller()
        top.submit(case.rows(1.0), caller)
        outcome = await caller.outcome()
        assert isinstance(outcome, Answer | RoadworthyError), f"the outcome is {outcome!r:.80}"

    for error in _ERRORS:
        asyncio.run(ask(error))


def check_rows_and_answers_are_left_alone(case: LayerCase) -> None:
    """Neither the rows of a request nor an answer that several requests share are written to."""

    async def ask() -> None:
        joined = case.answers(*np.linspace(-1e6, 1e6, 6))
        before = [block.values.copy() for block in joined.blocks]
        places = iter(range(3))

        def two_of_six(_batch: Batch) -> Outcome:
            start = 2 * next(places)
            return Answer(joined, start, start + 2)

        top = wrapped(case, Version(two_of_six))
        rows = case.rows(3.0, 4.0)
        kept = [block.values.copy() for block in rows.blocks]
        for _ in range(3):
            caller = Caller()
            top.submit(rows, caller)
            _assert_good(case, await caller.outcome(), 2)
        for block, values in zip((*rows.blocks, *joined.blocks), (*kept, *before), strict=True):
            assert np.array_equal(block.values, values), "the layer wrote to an array that is not its own"

    asyncio.run(ask())


def check_the_caller_may_leave(case: LayerCase) -> None:
    """A request below that stands for a dropped one does not run any longer, unless the layer holds something for it."""

    async def ask() -> None:
        version = Version(lambda batch: Answer(case.answers(*[0.5] * batch.rows), 0, batch.rows), later=True)
        top = wrapped(case, version)
        caller = Caller()
        top.submit(case.rows(1.0), caller)
        caller.drop()
        running = [each for each in version.requests if not each.done and not isinstance(each, AlwaysSettled)]
        assert not running, "the version would run a request whose caller is gone"
        version.settle()

    asyncio.run(ask())


def check_others_are_settled_beside_a_broken_answer(case: LayerCase) -> None:
    """Handling an answer of no rows raises nothing that would disturb the version."""

    async def ask() -> None:
        top = wrapped(case, Version(lambda _batch: Answer(case.answers(), 0, 0)))
        caller = Caller()
        try:
            top.submit(case.rows(1.0), caller)
        except Exception as error:
            raise AssertionError(f"an answer of no rows raises {type(error).__name__}: {error}") from error
        await caller.outcome()

    asyncio.run(ask())


def check_a_failure_is_the_outcome(case: LayerCase) -> None:
    """When the layer fails on an answer without columns, its request is settled all the same, and others go on."""

    async def ask(later: bool) -> None:
        outcomes = iter([Answer(Batch(Layout(case.signature.outputs), 1, ()), 0, 1), Answer(case.answers(0.5), 0, 1)])
        version = Version(lambda _batch: next(outcomes), later=later)
        top = wrapped(case, Fence(version, case.layer.name))
        callers = [Caller() for _ in range(2)]
        for number, caller in enumerate(callers):
            top.submit(case.rows(number), caller)
        version.settle()
        for caller in callers:
            await caller.outcome()

    asyncio.run(ask(later=False))
    asyncio.run(ask(later=True))


def _assert_good(case: LayerCase, outcome: Outcome, rows: int) -> None:
    if not isinstance(outcome, Answer):
        return  # a layer may refuse
    batch = outcome.batch()
    assert batch.rows == rows, f"{batch.rows} rows instead of {rows}"
    assert batch.layout == Layout(case.signature.outputs), "the answer has another layout"
    for form, block in zip(batch.layout.blocks, batch.blocks, strict=True):
        assert len(block.values) == rows, "a block has another number of rows"
        assert block.values.dtype == form.dtype.numpy, f"{form.dtype.value} is {block.values.dtype}"
        assert block.values.dtype.kind != "f" or np.isfinite(block.values).all(), "a number is not finite"
    for note in outcome.notes:
        assert all(isinstance(part, bytes) and b"\n" not in part and b"\r" not in part for part in note), (
            f"{note!r:.80} is not a header"
        )
        assert note[0] == note[0].lower(), f"the name of the header {note[0]!r:.60} is not lower case"


def _batch(layout: Layout, values: Any) -> Batch:
    column = np.asarray(list(values), dtype=np.float64)
    columns = [(column.astype(field.dtype.numpy), None) for field in layout.fields]
    return Batch.from_columns(layout, columns, len(column))


CHECKS: tuple[Check, ...] = (
    check_found_by_name,
    check_parameters_are_declared,
    check_each_request_is_settled_once,
    check_errors_come_out,
    check_rows_and_answers_are_left_alone,
    check_the_caller_may_leave,
    check_others_are_settled_beside_a_broken_answer,
    check_a_failure_is_the_outcome,
)
