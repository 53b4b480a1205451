"""Which fallback answers when the version cannot, in which order and how often, and what the reply says about it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadworthy.contract.policy import BreakerPolicy, CachePolicy, Fallback, Policy
from roadworthy.foundation.errors import DeadlineExceeded, InvalidInput, ModelFault, RoadworthyError, Unavailable
from roadworthy.runtime.layers.breaker import LOOK_S, OwnCells
from roadworthy.runtime.layers.fallback import Fallbacks, OtherSubmitter, Static
from roadworthy.runtime.layers.layer import LayerContext
from roadworthy.runtime.layers.stack import layered
from roadworthy.runtime.pending import Answer, Outcome, PendingRequest, Submitter
from roadworthy.schema.batch import Batch, Block, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field, Signature
from tests.waiting import HandClock

SIGNATURE = Signature((Field("x", DType.FLOAT64),), (Field("y", DType.FLOAT64),), Container.ARRAY)
INPUTS, OUTPUTS = Layout(SIGNATURE.inputs), Layout(SIGNATURE.outputs)
BAD = ModelFault("no", code="model-failed")
LATE = DeadlineExceeded("too late")
DIGEST = "sha256:" + "a" * 64


def x(*values: float) -> Batch:
    """Rows."""
    return Batch(INPUTS, len(values), (Block(np.array(values).reshape(-1, 1)),))


def y(*values: float) -> Answer:
    """An answer."""
    return Answer(Batch(OUTPUTS, len(values), (Block(np.array(values).reshape(-1, 1)),)), 0, len(values))


class Told(PendingRequest):
    """Remembers its outcome."""

    outcome: Outcome | None = None

    def settled(self, outcome: Outcome) -> None:
        """Keep it."""
        assert self.outcome is None
        self.outcome = outcome

    @property
    def values(self) -> list[float]:
        """What was answered."""
        assert isinstance(self.outcome, Answer), self.outcome
        return [float(value) for value in self.outcome.batch().blocks[0].values[:, 0]]

    @property
    def header(self) -> str:
        """Its Roadworthy-Fallback."""
        assert isinstance(self.outcome, Answer), self.outcome
        return dict(self.outcome.notes)[b"roadworthy-fallback"].decode()

    @property
    def code(self) -> str:
        """The code of the error."""
        assert isinstance(self.outcome, RoadworthyError), self.outcome
        return self.outcome.code


class Planted:
    """A version that settles each request with the next of its outcomes, or with the last for ever; None leaves it waiting."""

    def __init__(self, *outcomes: Outcome | None, begins: bool = True) -> None:
        self.outcomes = list(outcomes)
        self.begins = begins
        self.requests: list[PendingRequest] = []

    def __repr__(self) -> str:
        return "Planted()"

    def submit(self, _batch: Batch, request: PendingRequest) -> None:
        """Settle."""
        self.requests.append(request)
        request.running = self.begins
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if outcome is not None:
            request.settle(outcome)


class Counts:
    """What the layers counted."""

    def __init__(self) -> None:
        self.results: list[str] = []
        self.fallbacks: list[tuple[str, str]] = []

    def cached(self, result: str) -> None:
        """As in Counts."""
        self.results.append(result)

    def fell_back(self, kind: str, reason: str) -> None:
        """As in Counts."""
        self.fallbacks.append((kind, reason))


def chain(below: Submitter, *fallbacks: Fallback, **more: Any) -> tuple[Submitter, Counts]:
    """The layers of a policy, on the running event loop or on a short-lived one."""
    counts = Counts()
    find = more.pop("find", lambda _fallback: None)
    policy = Policy(fallback=fallbacks, **more)

    def make() -> Submitter:
        return layered(below, policy, LayerContext(DIGEST, SIGNATURE, counts, lambda _window_s: OwnCells(), find=find))

    async def make_on_a_loop() -> Submitter:
        return make()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(make_on_a_loop()), counts
    return make(), counts


def ask(top: Submitter, *values: float, seconds: float = 3_600.0, caller: str = "") -> Told:
    """One request."""
    request = Told(time.monotonic() + seconds, caller)
    top.submit(x(*(values or (1.0,))), request)
    return request


STATIC = Fallback("static", value=0.5)


def test_without_settings_there_is_no_layer() -> None:
    """The endpoint submits to the version itself."""
    below = Planted(y(1))
    assert chain(below)[0] is below


def test_the_order_can_be_printed() -> None:
    """The outermost layer comes first."""
    top, _ = chain(
        Planted(y(1)),
        Fallback("version", version="m:1"),
        Fallback("cached"),
        STATIC,
        cache=CachePolicy(ttl_s=30),
        breaker=BreakerPolicy(),
        find=lambda _: ("m:1", Planted(y(2))),
    )
    assert repr(top) == (
        'Fallbacks(version="m:1", cached, static) -> Cache(ttl 30 s) -> Breaker(50% in 10 s, closed) -> Planted()'
    )


@pytest.mark.parametrize(
    "error",
    [
        BAD,
        LATE,
        Unavailable("open", code="circuit-open"),
        Unavailable("died", code="runner-died"),
        Unavailable("full", code="overloaded"),
        Unavailable("going", code="version-unloading"),
    ],
    ids=lambda error: error.code,
)
def test_a_fixed_answer_stands_in(error: RoadworthyError) -> None:
    """One prediction for each row; the header, the source and the count name the fallback."""
    top, counts = chain(Planted(error), STATIC)
    request = ask(top, 1, 2, 3)
    assert request.values == [0.5, 0.5, 0.5]
    assert request.header == f'static; reason="{error.code}"'
    assert isinstance(request.outcome, Answer)
    assert (request.outcome.source, request.outcome.instead_of) == ("static", error)
    assert counts.fallbacks == [("static", error.code)]


def test_what_is_the_callers_doing_is_told() -> None:
    """No fallback hides an invalid request, nor a request to a stopping gateway."""
    for error in (InvalidInput("wrong"), Unavailable("bye", code="stopping")):
        top, counts = chain(Planted(error), STATIC)
        assert ask(top).code == error.code
        assert counts.fallbacks == []


def test_good_answers_pass_unchanged() -> None:
    """The answer is the same object."""
    good = y(2)
    top, counts = chain(Planted(good), STATIC)
    assert ask(top).outcome is good
    assert counts.fallbacks == []


def test_another_version_answers() -> None:
    """The header has its name."""
    other = Planted(y(7))
    top, counts = chain(Planted(BAD), Fallback("version", version="m:1"), STATIC, find=lambda _: ("m:1", other))
    request = ask(top)
    assert (request.values, request.header) == ([7], 'version; version="m:1"; reason="model-failed"')
    assert counts.fallbacks == [("version", "model-failed")]


def test_a_version_that_is_not_loaded_is_passed_over() -> None:
    """As if the policy did not list it."""
    top, _ = chain(Planted(BAD), Fallback("version"), STATIC)
    assert ask(top).header.startswith("static")


def test_no_version_is_asked_when_the_time_is_up() -> None:
    """Existing answers are still used; without any, the first error stands."""
    other = Planted(y(7))
    top, _ = chain(Planted(LATE), Fallback("version"), STATIC, find=lambda _: ("m:1", other))
    assert ask(top, seconds=0).header.startswith("static")
    alone, counts = chain(Planted(LATE), Fallback("version"), find=lambda _: ("m:1", other))
    assert ask(alone, seconds=0).code == "deadline-exceeded"
    assert other.requests == []
    assert counts.fallbacks == [("none", "deadline-exceeded")]


def test_what_is_left_of_the_time_is_the_fallbacks() -> None:
    """The fallback gets exactly the remaining time."""
    other = Planted(None)
    top, _ = chain(Planted(BAD), Fallback("version"), find=lambda _: ("m:1", other))
    request = ask(top, seconds=3)
    assert other.requests[0].deadline == request.deadline


def test_b7_one_further_run_and_no_more() -> None:
    """Ten failing requests with three failing fallback versions cause twenty runs, and the first error is reported."""
    first = Planted(BAD)
    others = [Planted(ModelFault("no", code=f"other-{number}")) for number in range(3)]
    steps = tuple(Fallback("version", version=f"m:{number}") for number in range(3))
    top, counts = chain(first, *steps, find=lambda step: (step.version or "", others[int((step.version or "")[2:])]))
    codes = {ask(top).code for _ in range(10)}
    assert codes == {"model-failed"}
    assert [len(planted.requests) for planted in (first, *others)] == [10, 10, 0, 0]
    assert counts.fallbacks == [("none", "model-failed")] * 10


def test_a_version_that_did_not_begin_has_not_run() -> None:
    """A version that is unloading, or without a process, leaves the one further run to the next step."""
    going = Planted(Unavailable("going", code="version-unloading"), begins=False)
    well = Planted(y(3))
    found = {"m:1": going, "m:2": well}
    steps = (Fallback("version", version="m:1"), Fallback("version", version="m:2"))
    top, _ = chain(Planted(BAD), *steps, find=lambda step: (step.version or "", found[step.version or ""]))
    assert ask(top).values == [3]


def test_a_step_that_raises_is_passed_over() -> None:
    """Whatever error a fallback raises, the next one is tried."""

    class Broken:
        kind, detail = "rule", ""

        def submit(self, _batch: Batch, _ticket: PendingRequest) -> None:
            raise RuntimeError

    counts = Counts()
    top = Fallbacks(Planted(BAD), [Broken(), Static(OUTPUTS, 1)], counts.fell_back)
    assert ask(top).values == [1]


def test_who_is_gone_gets_no_fallback() -> None:
    """The walk ends when the caller leaves."""
    below, other = Planted(None), Planted(y(1))
    top, counts = chain(below, Fallback("version"), find=lambda _: ("m:1", other))
    request = ask(top)
    request.drop()
    below.requests[0].settle(BAD)
    assert (other.requests, counts.fallbacks, request.outcome) == ([], [], None)


def test_a_fallback_that_has_begun_is_finished_when_its_caller_goes() -> None:
    """So it releases what it holds; the caller gets no outcome."""
    other = Planted(None)
    top, _ = chain(Planted(BAD), Fallback("version"), find=lambda _: ("m:1", other))
    request = ask(top)
    request.drop()
    assert not other.requests[0].done
    other.requests[0].settle(y(1))
    assert request.outcome is None


def test_the_last_good_answer_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """To an equal request of the same caller, with its age; not to others, and not forever. No cache policy is needed."""
    clock = HandClock()
    for name in ("cache", "fallback"):
        monkeypatch.setattr(f"roadworthy.runtime.layers.{name}.time", clock)
    top, counts = chain(Planted(y(2), BAD), Fallback("cached", max_age_s=60.0))
    assert ask(top, 1, caller="a").values == [2]
    clock.step(7.5)
    again = ask(top, 1, caller="a")
    assert (again.values, again.header) == ([2], 'cached; reason="model-failed"')
    assert dict(again.outcome.notes)[b"age"] == b"7"  # type: ignore[union-attr]
    assert ask(top, 1, caller="b").code == "model-failed"
    assert ask(top, 5, caller="a").code == "model-failed"
    assert counts.fallbacks == [("cached", "model-failed"), ("none", "model-failed"), ("none", "model-failed")]
    assert counts.results == []
    short, _ = chain(Planted(y(2), BAD), Fallback("cached", max_age_s=0.0))
    ask(short)
    clock.step(0.001)
    assert ask(short).code == "model-failed"


def test_an_open_circuit_asks_nobody_and_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the circuit is open, fallbacks answer the callers."""
    clock = HandClock()
    monkeypatch.setattr("roadworthy.runtime.layers.breaker.time", clock)
    below = Planted(BAD)
    top, counts = chain(below, STATIC, breaker=BreakerPolicy(min_requests=3))
    for _ in range(3):
        ask(top)
    clock.step(LOOK_S + 0.01)
    assert ask(top).header == 'static; reason="circuit-open"'
    assert len(below.requests) == 3
    assert counts.fallbacks[-1] == ("static", "circuit-open")


def test_values_are_checked_against_the_outputs() -> None:
    """A dict by name, a list, or the bare value of a single output; nothing else."""
    two = Layout((Field("label", DType.STRING), Field("score", DType.FLOAT64, shape=(2,))))
    for value in ({"label": "no", "score": [0.5, 0.5]}, ["no", [0.5, 0.5]]):
        request = Told(0)
        Static(two, value).submit(x(1, 2), request)
        assert isinstance(request.outcome, Answer)
        assert request.outcome.batch().column("label")[0].tolist() == ["no", "no"]
    for value in ("no", {"label": "no"}, {"label": 1, "score": [0.5, 0.5]}, None):
        with pytest.raises(InvalidInput):
            Static(two, value)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.sampled_from(["good", "fault", "late", "unavailable"]), min_size=1, max_size=4),
    st.lists(st.booleans(), min_size=1, max_size=4),
    st.booleans(),
)
def test_every_request_is_settled_once(kinds: Sequence[str], begins: Sequence[bool], last: bool) -> None:
    """For any behaviour of the steps: one outcome, and at most two runs of models."""
    outcomes: dict[str, Outcome] = {"good": y(1), "fault": BAD, "late": LATE, "unavailable": Unavailable("x")}
    planted = [
        Planted(outcomes[kind], begins=begin)
        for kind, begin in zip(kinds, (*begins, *begins, *begins, *begins))  # noqa: B905
    ]
    counts = Counts()
    steps: list[Any] = [OtherSubmitter("version", "m:1", each) for each in planted]
    top = Fallbacks(Planted(BAD), [*steps, *([Static(OUTPUTS, 1)] if last else [])], counts.fell_back)
    request = ask(top)
    assert request.outcome is not None
    assert len(counts.fallbacks) == 1
    assert sum(len(each.requests) for each in planted if each.begins) <= 1
