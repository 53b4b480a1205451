"""When the breaker opens, when it tries the version again, and how all workers of a machine agree."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadworthy.contract.policy import BreakerPolicy
from roadworthy.foundation.errors import (
    DeadlineExceeded,
    InputRefused,
    InvalidInput,
    ModelFault,
    RoadworthyError,
    Unavailable,
)
from roadworthy.runtime.layers import breaker as module
from roadworthy.runtime.layers.breaker import LOOK_S, WIDTH, Breaker, Circuit, OwnCells, State
from roadworthy.runtime.parts import Parts
from roadworthy.runtime.pending import Answer, Outcome, PendingRequest
from roadworthy.schema.batch import Batch, Layout
from tests.runtime.test_parts import Source
from tests.waiting import HandClock

S = 1_000_000_000
BEGIN = 1_000 * S
NOTHING = Batch(Layout(()), 1, ())
GOOD = Answer(NOTHING, 0, 1)
BAD = ModelFault("no", code="model-failed")
LOOK = int(LOOK_S * S) + 1


class Machine:
    """The cells of several workers."""

    def __init__(self, workers: int) -> None:
        self.runs = [[0] * WIDTH for _ in range(workers)]
        self.alive = [True] * workers

    def worker(self, number: int) -> Shared:
        """What one worker sees."""
        return Shared(self, number)


class Shared:
    """One worker's view."""

    def __init__(self, machine: Machine, number: int) -> None:
        self._machine = machine
        self.own = machine.runs[number]

    def all_workers(self) -> Iterable[tuple[Sequence[int], bool]]:
        """All cells."""
        return zip(self._machine.runs, self._machine.alive, strict=True)


def fail(circuit: Circuit, now: int, times: int, good: int = 0) -> None:
    """Count failures, and then successes."""
    for number in range(times + good):
        circuit.observe(now, failed=number < times, slow=False)


def opened(policy: BreakerPolicy | None = None) -> Circuit:
    """A circuit that opened at BEGIN."""
    circuit = Circuit(policy or BreakerPolicy(), OwnCells())
    fail(circuit, BEGIN, 20)
    assert not circuit.admits(BEGIN)
    return circuit


def test_it_opens_at_the_rate_and_not_before() -> None:
    """At half of 20 by default; 9 of 20 are not enough, nor 19 of 19."""
    few = Circuit(BreakerPolicy(), OwnCells())
    fail(few, BEGIN, 9, good=11)
    assert few.admits(BEGIN)
    early = Circuit(BreakerPolicy(), OwnCells())
    fail(early, BEGIN, 19)
    assert early.admits(BEGIN)
    enough = Circuit(BreakerPolicy(), OwnCells())
    fail(enough, BEGIN, 10, good=10)
    assert not enough.admits(BEGIN)
    assert enough.state(BEGIN) is State.OPEN


def test_it_looks_only_now_and_then() -> None:
    """No cells are read between two looks, however many requests come."""
    reads = []

    class Counted(OwnCells):
        def all_workers(self) -> Iterable[tuple[Sequence[int], bool]]:
            reads.append(1)
            return super().all_workers()

    circuit = Circuit(BreakerPolicy(), Counted())
    for microsecond in range(100_000):
        circuit.admits(BEGIN + microsecond * 1_000)
    assert len(reads) == 2


def test_slow_answers_open_it_where_asked() -> None:
    """Eight of ten answers are slow: with a slowness bound the circuit opens, without one it stays closed."""
    for slow_ms, state in ((100.0, State.OPEN), (None, State.CLOSED)):
        circuit = Circuit(BreakerPolicy(slow_ms=slow_ms), OwnCells())
        for number in range(20):
            circuit.observe(BEGIN, failed=False, slow=number < 16)
        circuit.admits(BEGIN)
        assert circuit.state(BEGIN) is state


def test_what_lies_before_the_window_does_not_count() -> None:
    """Failures from eleven seconds ago are forgotten; those from eight seconds ago are not."""
    for seconds, closed in ((11, True), (8, False)):
        circuit = Circuit(BreakerPolicy(window_s=10), OwnCells())
        fail(circuit, BEGIN, 20)
        assert circuit.admits(BEGIN + seconds * S) is closed


def test_probes_close_it_again() -> None:
    """No request for open_s, then at most `probes` at a time; when all succeed, the circuit closes and its counts start anew."""
    circuit = opened()
    assert circuit.probe(BEGIN + 4 * S) is None
    now = BEGIN + 5 * S
    periods = [circuit.probe(now) for _ in range(5)]
    assert [period is not None for period in periods] == [True, True, True, False, False]
    for period in periods[:3]:
        assert period is not None
        assert circuit.state(now) is State.HALF_OPEN
        circuit.probed(period, now, failed=False)
    assert circuit.state(now) is State.CLOSED
    assert circuit.admits(now)
    assert circuit.admits(now + LOOK)


def test_one_bad_probe_opens_it_again() -> None:
    """For as long as the first time; other probes of that period no longer count."""
    circuit = opened()
    now = BEGIN + 5 * S
    first, second = circuit.probe(now), circuit.probe(now)
    assert first is not None
    assert second is not None
    circuit.probed(first, now, failed=True)
    circuit.probed(second, now, failed=False)
    assert circuit.state(now) is State.OPEN
    assert circuit.probe(now + 4 * S) is None
    again = [circuit.probe(now + 5 * S) for _ in range(4)]
    assert [period is not None for period in again] == [True, True, True, False]


def test_a_probe_that_tells_nothing_gives_its_place_back() -> None:
    """A request that was refused for its own fault gives no verdict, and another request may probe."""
    circuit = opened(BreakerPolicy(probes=1))
    now = BEGIN + 5 * S
    period = circuit.probe(now)
    assert period is not None
    assert circuit.probe(now + 1) is None
    circuit.probed(period, now + 2, failed=None)
    assert circuit.state(now + 3) is State.HALF_OPEN
    assert circuit.probe(now + 3) is not None


def test_workers_open_and_close_together() -> None:
    """Failures of one worker are not enough, together they are; within a look all refuse; the probes are shared by all."""
    machine = Machine(4)
    circuits = [Circuit(BreakerPolicy(), machine.worker(number)) for number in range(4)]
    for circuit in circuits:
        fail(circuit, BEGIN, 4, good=2)
    assert [circuit.admits(BEGIN + LOOK) for circuit in circuits] == [False] * 4
    now = BEGIN + LOOK + 5 * S
    periods = [(circuit, circuit.probe(now + number)) for number, circuit in enumerate(circuits * 2)]
    begun = [(circuit, period) for circuit, period in periods if period is not None]
    assert len(begun) == 3
    for circuit, period in begun:
        circuit.probed(period, now + 100, failed=False)
    assert all(circuit.admits(now + 100 + LOOK) for circuit in circuits)


def test_a_dead_workers_probes_hold_nobody_up() -> None:
    """The worker was killed with the only probe in flight: another worker may probe."""
    machine = Machine(2)
    one, other = (Circuit(BreakerPolicy(probes=1), machine.worker(number)) for number in range(2))
    fail(one, BEGIN, 20)
    assert not one.admits(BEGIN)
    now = BEGIN + LOOK + 5 * S
    assert not other.admits(now)
    assert one.probe(now) is not None
    assert other.probe(now + LOOK) is None
    machine.alive[0] = False
    assert other.probe(now + 2 * LOOK) is not None


def test_state_survives_a_worker() -> None:
    """A worker's replacement finds the circuit open."""
    cells = OwnCells()
    circuit = Circuit(BreakerPolicy(), cells)
    fail(circuit, BEGIN, 20)
    assert not circuit.admits(BEGIN)
    assert not Circuit(BreakerPolicy(), cells).admits(BEGIN + S)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans(), st.integers(0, S)), max_size=60),
    st.integers(1, 40),
)
def test_it_never_opens_on_too_few(events: list[tuple[int, bool, bool, int]], least: int) -> None:
    """For any outcomes in any order from four workers: no verdict on fewer than min_requests in the window."""
    machine = Machine(4)
    policy = BreakerPolicy(min_requests=least, failure_rate=0.01, slow_ms=1.0, slow_rate=0.01)
    circuits = [Circuit(policy, machine.worker(number)) for number in range(4)]
    now, seen = BEGIN, []
    for worker, failed, slow, pause in events:
        now += pause
        if circuits[worker].admits(now):
            circuits[worker].observe(now, failed=failed, slow=slow)
            seen.append(now)
        else:
            window = [at for at in seen if at > now - 11 * S]
            assert len(window) >= least
            return


def test_d14_only_the_monotonic_clock_counts(monkeypatch: pytest.MonkeyPatch, clock: HandClock) -> None:
    """The wall clock jumps by an hour either way: an open circuit stays open for the same time."""
    breaker, below = layer(BreakerPolicy(min_requests=2, open_s=60.0))
    for jump in (0.0, 3_600.0, -3_600.0):
        monkeypatch.setattr(time, "time", lambda jump=jump: 1e9 + jump)
        below.outcomes = itertools.repeat(BAD)
        for _ in range(3):
            ask(breaker)
    clock.step(LOOK_S + 0.01)
    assert ask(breaker).code == "circuit-open"


class Below:
    """A version with outcomes to come."""

    def __init__(self) -> None:
        self.outcomes: Iterable[Outcome] = iter(())
        self.requests: list[PendingRequest] = []

    def submit(self, batch: Batch, request: PendingRequest) -> None:
        """Settle at once with the next outcome, or wait."""
        self.requests.append(request)
        self.outcomes = iter(self.outcomes)
        outcome = next(self.outcomes, None)
        if outcome is not None:
            request.settle(outcome)


class Told(PendingRequest):
    """Remembers its outcome."""

    outcome: Outcome | None = None

    def settled(self, outcome: Outcome) -> None:
        """Keep it."""
        assert self.outcome is None
        self.outcome = outcome

    @property
    def code(self) -> str:
        """The code of the error, or "ok"."""
        return self.outcome.code if isinstance(self.outcome, RoadworthyError) else "ok"


def layer(policy: BreakerPolicy) -> tuple[Breaker, Below]:
    """A breaker over a planted version."""
    below = Below()
    return Breaker(below, policy, OwnCells()), below


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    """What time it is for breakers."""
    clock = HandClock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def ask(breaker: Breaker, seconds: float = 30.0) -> Told:
    """One request, whose deadline is by the breaker's clock."""
    request = Told(module.time.monotonic() + seconds)
    breaker.submit(NOTHING, request)
    return request


@pytest.mark.parametrize(
    ("outcome", "counts"),
    [
        (BAD, True),
        (DeadlineExceeded("late"), True),
        (Unavailable("died", code="runner-died"), True),
        (Unavailable("hung", code="runner-hung"), True),
        (Unavailable("full", code="overloaded"), False),
        (Unavailable("going", code="version-unloading"), False),
        (InvalidInput("wrong"), False),
        (InputRefused("too large"), False),
        (GOOD, False),
    ],
    ids=lambda value: getattr(value, "code", None),
)
def test_what_counts_as_a_failure(clock: HandClock, outcome: Outcome, counts: bool) -> None:
    """The version's own faults open it; faults of the caller or the gateway do not. The refusal says when to come back."""
    breaker, below = layer(BreakerPolicy(min_requests=5))
    below.outcomes = itertools.repeat(outcome)
    for _ in range(10):
        ask(breaker)
    clock.step(LOOK_S + 0.01)
    refused = ask(breaker)
    assert (refused.code == "circuit-open") is counts
    if counts:
        assert len(below.requests) == 10
        assert isinstance(refused.outcome, Unavailable)
        assert refused.outcome.retry_after_s == 5


def test_an_impatient_caller_opens_nothing(clock: HandClock) -> None:
    """Deadlines shorter than the usual answer say nothing about the version: no caller can cut off the others."""
    breaker, below = layer(BreakerPolicy(min_requests=5))
    below.outcomes = itertools.repeat(DeadlineExceeded("late"))
    for _ in range(50):
        ask(breaker, seconds=0.01)
    clock.step(LOOK_S + 0.01)
    below.outcomes = itertools.repeat(GOOD)
    assert ask(breaker).code == "ok"


def test_it_is_well_again_after_its_probes(clock: HandClock) -> None:
    """Open, half-open, closed; a probe whose caller leaves runs anyway and counts."""
    breaker, below = layer(BreakerPolicy(min_requests=4, open_s=0.1, probes=2))
    below.outcomes = itertools.repeat(BAD)
    for _ in range(4):
        ask(breaker)
    clock.step(LOOK_S + 0.01)
    assert ask(breaker).code == "circuit-open"
    clock.step(0.1)
    below.outcomes = iter(())
    first, second, third = ask(breaker), ask(breaker), ask(breaker)
    assert (first.done, second.done, third.code) == (False, False, "circuit-open")
    first.drop()
    probes = below.requests[-2:]
    assert not any(probe.done for probe in probes)
    for probe in probes:
        probe.settle(GOOD)
    assert (first.outcome, second.code) == (None, "ok")
    below.outcomes = itertools.repeat(GOOD)
    assert [ask(breaker).code for _ in range(5)] == ["ok"] * 5
    assert "closed" in repr(breaker)


def test_b4_who_is_gone_is_not_run() -> None:
    """A request dropped at the top is done at the bottom, and does not count."""
    breaker, below = layer(BreakerPolicy())
    request = ask(breaker)
    request.drop()
    assert below.requests[0].done


def streamed(breaker: Breaker, below: Below, seconds: float = 30.0) -> Parts:
    """The rest of an answer in parts, whose first part came at once."""
    rest = Parts(Source())
    below.outcomes = iter([Answer(NOTHING, 0, 1, rest=rest)])
    assert ask(breaker, seconds).code == "ok"
    return rest


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (BAD, True),
        (DeadlineExceeded("the next part did not come"), True),
        (Unavailable("died", code="runner-died"), True),
        (Unavailable("going", code="version-unloading"), False),
        (InputRefused("too large"), False),
        (None, False),
    ],
    ids=lambda value: getattr(value, "code", None),
)
def test_how_an_answer_in_parts_may_end(clock: HandClock, error: RoadworthyError | None, counts: bool) -> None:
    """The same errors count as of an answer at once; all deadlines do, as only those that are the version's fault come here."""
    breaker, below = layer(BreakerPolicy(min_requests=5))
    for _ in range(5):
        streamed(breaker, below, seconds=0.01).end(error)
    clock.step(LOOK_S + 0.01)
    below.outcomes = itertools.repeat(GOOD)
    assert (ask(breaker).code == "circuit-open") is counts


def test_an_answer_in_parts_that_is_given_up_does_not_count(clock: HandClock) -> None:
    """A version that stalls after its first part would look well by the callers that leave."""
    breaker, below = layer(BreakerPolicy(min_requests=5))
    for number in range(15):
        rest = streamed(breaker, below)
        rest.end(BAD) if number < 5 else rest.stop()
    clock.step(LOOK_S + 0.01)
    assert ask(breaker).code == "circuit-open"


def half_open(clock: HandClock, probes: int) -> tuple[Breaker, Below]:
    """A breaker that waits for its probes."""
    breaker, below = layer(BreakerPolicy(min_requests=2, open_s=0.1, probes=probes))
    below.outcomes = itertools.repeat(BAD)
    for _ in range(2):
        ask(breaker)
    clock.step(LOOK_S + 0.01)
    assert ask(breaker).code == "circuit-open"
    clock.step(0.2)
    return breaker, below


def test_the_first_part_of_a_probe_closes_the_circuit(clock: HandClock) -> None:
    """Others do not wait for its last one, which may come after a day. Later its failure counts like any other."""
    breaker, below = half_open(clock, probes=1)
    rest = streamed(breaker, below)
    assert "closed" in repr(breaker)
    clock.step(1.1)  # the counts begin anew with the next part of the window
    others = [streamed(breaker, below) for _ in range(2)]
    clock.step(LOOK_S + 0.01)
    rest.end(BAD)
    assert "closed" in repr(breaker)
    others[0].end(BAD)
    clock.step(LOOK_S + 0.01)
    assert ask(breaker).code == "circuit-open"


@pytest.mark.parametrize(("error", "code"), [(BAD, "circuit-open"), (InputRefused("too large"), "ok"), (None, "ok")])
def test_a_probe_that_breaks_off_opens_the_circuit_again(clock: HandClock, error: RoadworthyError | None, code: str) -> None:
    """While another probe is still wanted; not by a caller's value, nor by a caller that leaves."""
    breaker, below = half_open(clock, probes=2)
    rest = streamed(breaker, below)
    assert "half-open" in repr(breaker)
    if error is None:
        rest.stop()
    else:
        rest.end(error)
    below.outcomes = itertools.repeat(GOOD)
    assert ask(breaker).code == code
    assert ("closed" in repr(breaker)) == (code == "ok")


def test_impatient_callers_are_known_by_first_parts_too(clock: HandClock) -> None:
    """A deadline shorter than the usual first part says nothing about the version."""
    breaker, below = layer(BreakerPolicy(min_requests=5))
    for _ in range(30):
        request = ask(breaker)
        clock.step(1.0)
        below.requests[-1].settle(Answer(NOTHING, 0, 1, rest=Parts(Source())))
        assert request.code == "ok"
    below.outcomes = itertools.repeat(DeadlineExceeded("late"))
    for _ in range(10):
        ask(breaker, seconds=1.0)
    clock.step(LOOK_S + 0.01)
    below.outcomes = itertools.repeat(GOOD)
    assert ask(breaker).code == "ok"
