"""The circuit breaker: stops asking a version that fails or is slow, for a while. A layer, where a policy asks for it.

`Circuit` decides from numbers that all workers of a machine share: each worker writes its own run of cells and reads all workers'
cells at most every LOOK_S, so that all breakers open and close together. It is pure: the time is an argument.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Protocol

from roadworthy.contract.policy import BreakerPolicy
from roadworthy.foundation.errors import DeadlineExceeded, InputRefused, ModelFault, RoadworthyError, Unavailable
from roadworthy.runtime.parts import Parts
from roadworthy.runtime.pending import AlwaysSettled, Answer, ForwardedRequest, Outcome, PendingRequest, Submitter
from roadworthy.schema.batch import Batch

LOOK_S = 0.05
"""The least time between two reads of all workers' cells."""
BUCKETS = 10
"""The number of parts in which the window is counted."""
WIDTH = 64
"""Cells of one worker: BUCKETS times (number of the part, requests, failures, slow requests), then the cells below."""
OWNER = WIDTH - 1
"""This cell belongs to the implementation of `Cells`."""
_OPENED, _CLOSED, _PERIOD, _PASSED, _PROBING, _OPEN_FOR = range(4 * BUCKETS, 4 * BUCKETS + 6)
_NS = 1_000_000_000
_PROBE_LOOK_NS = 1_000_000
_DIED = frozenset({"runner-died", "runner-hung"})
_USUAL_S = 0.1


class State(str, Enum):
    """The state of a circuit."""

    CLOSED = "closed"
    HALF_OPEN = "half-open"
    OPEN = "open"


class Numbers(Protocol):
    """A writable run of 64-bit integers."""

    def __getitem__(self, place: int, /) -> int: ...

    def __setitem__(self, place: int, value: int, /) -> None: ...


class Cells(Protocol):
    """WIDTH integers for each worker of a machine, zero at first."""

    @property
    def own(self) -> Numbers:
        """This worker's cells, which only it writes."""
        ...

    def all_workers(self) -> Iterable[tuple[Sequence[int], bool]]:
        """The cells of all workers, each with whether that worker runs."""
        ...


class OwnCells:
    """The cells of a single worker."""

    def __init__(self) -> None:
        self.own = [0] * WIDTH

    def all_workers(self) -> Iterable[tuple[Sequence[int], bool]]:
        """As in Cells."""
        return ((self.own, True),)


@dataclass(slots=True)
class View:
    """The sum of all workers' cells.

    Attributes:
        opened_ns, closed_ns: when the circuit last opened and closed, monotonic clock; 0 for never.
        requests, failures, slow: counts in the window, since it closed.
        passed, probing: probes since it opened that succeeded, and that are under way.
        open_for_ns: how long it stays open.
    """

    opened_ns: int = 0
    closed_ns: int = 0
    requests: int = 0
    failures: int = 0
    slow: int = 0
    passed: int = 0
    probing: int = 0
    open_for_ns: int = 0

    def state(self, now_ns: int) -> State:
        """The state of the circuit."""
        if self.opened_ns <= self.closed_ns:
            return State.CLOSED
        return State.OPEN if now_ns < self.opened_ns + self.open_for_ns else State.HALF_OPEN


def bucket_of(window_s: float) -> int:
    """The length of one part of the window, in nanoseconds."""
    return max(1, int(window_s * _NS) // BUCKETS)


def view_of(runs: Iterable[tuple[Sequence[int], bool]], now_ns: int, bucket_ns: int) -> View:
    """Add up the cells of all workers. The counts of an exited worker still hold; its probes do not."""
    all_workers = list(runs)
    view = View(
        opened_ns=max((cells[_OPENED] for cells, _ in all_workers), default=0),
        closed_ns=max((cells[_CLOSED] for cells, _ in all_workers), default=0),
        open_for_ns=max((cells[_OPEN_FOR] for cells, _ in all_workers), default=0),
    )
    newest = now_ns // bucket_ns
    for cells, alive in all_workers:
        for at in range(0, 4 * BUCKETS, 4):
            number = cells[at]
            if newest - BUCKETS < number <= newest + 1 and number * bucket_ns >= view.closed_ns:
                view.requests += cells[at + 1]
                view.failures += cells[at + 2]
                view.slow += cells[at + 3]
        if cells[_PERIOD] == view.opened_ns:
            view.passed += cells[_PASSED]
            view.probing += cells[_PROBING] if alive else 0
    return view


class Circuit:
    """Closed, open or half-open. All times in nanoseconds of the machine's monotonic clock."""

    def __init__(self, policy: BreakerPolicy, cells: Cells) -> None:
        self._policy = policy
        self._cells = cells
        self._bucket_ns = bucket_of(policy.window_s)
        self._look_at = 0
        self._view = View()
        cells.own[_PROBING] = 0
        cells.own[_OPEN_FOR] = int(policy.open_s * _NS)

    def state(self, now_ns: int) -> State:
        """The state at the last look."""
        return self._view.state(now_ns)

    def admits(self, now_ns: int) -> bool:
        """Whether the version may be asked. If not, a request may still become a probe (`probe`)."""
        if now_ns >= self._look_at:
            self._look(now_ns)
        return self._view.opened_ns <= self._view.closed_ns

    def probe(self, now_ns: int) -> int | None:
        """Begin a probe; return its period, to pass to `probed` at its end. None when no probe may begin now."""
        if self._view.state(now_ns) is not State.HALF_OPEN:
            return None
        # A refusal may rest on a recent look. Beginning a probe needs a fresh one: the number of probes is limited over all
        # workers.
        if self._is_full() and now_ns < self._look_at - int(LOOK_S * _NS) + _PROBE_LOOK_NS:
            return None
        self._look(now_ns)
        view = self._view
        if view.state(now_ns) is not State.HALF_OPEN or self._is_full():
            return None
        own = self._cells.own
        if own[_PERIOD] != view.opened_ns:
            own[_PASSED] = own[_PROBING] = 0
            own[_PERIOD] = view.opened_ns
        own[_PROBING] += 1
        view.probing += 1
        return view.opened_ns

    def probed(self, period: int, now_ns: int, failed: bool | None) -> None:
        """Note the end of a probe. `failed` is None when it says nothing about the version."""
        own = self._cells.own
        if own[_PERIOD] == period:
            own[_PROBING] = max(0, own[_PROBING] - 1)
        if failed is None:
            self._look_at = 0
            return
        if failed:
            own[_OPENED] = now_ns
        elif own[_PERIOD] == period:
            own[_PASSED] += 1
        self._look(now_ns)
        if self._view.state(now_ns) is State.HALF_OPEN and self._view.passed >= self._policy.probes:
            own[_CLOSED] = now_ns
            self._look(now_ns)

    def probe_broke(self, period: int, now_ns: int) -> None:
        """Note that the answer of a good probe broke off later: while probes of its period are under way the circuit opens again,
        after that the failure is counted like any other."""
        self._look(now_ns)
        if self._view.opened_ns == period and self._view.state(now_ns) is State.HALF_OPEN:
            self._cells.own[_OPENED] = now_ns
            self._look(now_ns)
        else:
            self.observe(now_ns, failed=True, slow=False)

    def observe(self, now_ns: int, *, failed: bool, slow: bool) -> None:
        """Count one request that is not a probe."""
        own = self._cells.own
        number = now_ns // self._bucket_ns
        at = 4 * (number % BUCKETS)
        if own[at] != number:
            own[at + 1] = own[at + 2] = own[at + 3] = 0
            own[at] = number
        own[at + 1] += 1
        if failed:
            own[at + 2] += 1
        if slow:
            own[at + 3] += 1

    def open_for_s(self, now_ns: int) -> float:
        """Seconds until it may be worth asking again."""
        return max(0.0, (self._view.opened_ns + self._view.open_for_ns - now_ns) / _NS)

    def _look(self, now_ns: int) -> None:
        self._look_at = now_ns + int(LOOK_S * _NS)
        view = self._view = view_of(self._cells.all_workers(), now_ns, self._bucket_ns)
        if view.state(now_ns) is State.CLOSED and self._is_bad(view):
            self._cells.own[_OPENED] = view.opened_ns = now_ns
            view.passed = view.probing = 0

    def _is_full(self) -> bool:
        return self._view.passed + self._view.probing >= self._policy.probes

    def _is_bad(self, view: View) -> bool:
        policy = self._policy
        if view.requests < max(1, policy.min_requests):
            return False
        slow = policy.slow_ms is not None and view.slow >= policy.slow_rate * view.requests
        return slow or view.failures >= policy.failure_rate * view.requests


class Breaker:
    """The breaker layer. Event loop only."""

    def __init__(self, below: Submitter, policy: BreakerPolicy, cells: Cells) -> None:
        self._below = below
        self._policy = policy
        self._slow_ns = None if policy.slow_ms is None else int(policy.slow_ms * 1e6)
        self._circuit = Circuit(policy, cells)
        self._usual_s = _USUAL_S

    def __repr__(self) -> str:
        state = self._circuit.state(time.monotonic_ns()).value
        return f"Breaker({self._policy.failure_rate:.0%} in {self._policy.window_s:g} s, {state}) -> {self._below!r}"

    def submit(self, batch: Batch, request: PendingRequest) -> None:
        """As in Submitter; while the circuit is open, the request is settled at once with Unavailable, code "circuit-open"."""
        now_ns = time.monotonic_ns()
        circuit = self._circuit
        if circuit.admits(now_ns):
            self._below.submit(batch, _Watched(request, self, now_ns))
            return
        period = circuit.probe(now_ns)
        if period is None:
            request.settle(_refusal(circuit.open_for_s(now_ns)))
            return
        try:
            self._below.submit(batch, _Probe(request, self, now_ns, period))
        except BaseException:
            circuit.probed(period, time.monotonic_ns(), None)
            raise

    def saw(self, request: _Watched, outcome: Outcome) -> None:
        """Count the outcome of a request; that of an answer in parts at its end, as slow by its first part."""
        now_ns = time.monotonic_ns()
        failed, slow = self._judge(request, outcome, now_ns)
        if isinstance(outcome, Answer) and outcome.rest is not None:
            outcome.rest.watch(partial(self._saw_end, request, outcome.rest, slow))
        elif failed is not None:
            self._circuit.observe(now_ns, failed=failed, slow=slow)

    def saw_probe(self, request: _Probe, outcome: Outcome) -> None:
        """Pass the outcome of a probe to the circuit. The first part of an answer decides: others wait for the probe, and an
        answer may take as long as its caller. A failure after it counts too."""
        now_ns = time.monotonic_ns()
        failed, slow = self._judge(request, outcome, now_ns)
        self._circuit.probed(request.period, now_ns, None if failed is None else failed or slow)
        if isinstance(outcome, Answer) and outcome.rest is not None:
            outcome.rest.watch(partial(self._saw_probe_end, request))

    def _saw_end(self, request: _Watched, rest: Parts, slow: bool, error: RoadworthyError | None) -> None:
        failed = self._broke(request, error)
        if failed is not None and not rest.given_up:
            self._circuit.observe(time.monotonic_ns(), failed=failed, slow=slow)

    def _saw_probe_end(self, request: _Probe, error: RoadworthyError | None) -> None:
        if self._broke(request, error):
            self._circuit.probe_broke(request.period, time.monotonic_ns())

    def _broke(self, request: _Watched | _Probe, error: RoadworthyError | None) -> bool | None:
        """Whether the version failed after the first part of an answer; None when its end says nothing about it. A deadline among
        the errors counts against the version: see `StreamedAnswer`."""
        if error is None or isinstance(error, DeadlineExceeded):
            return error is not None
        return self._judge(request, error, time.monotonic_ns())[0]

    def _judge(self, request: _Watched | _Probe, outcome: Outcome, now_ns: int) -> tuple[bool | None, bool]:
        """(Whether the version failed, None when the outcome says nothing about it; whether it was slow)."""
        took_ns = now_ns - request.began_ns
        slow = self._slow_ns is not None and took_ns > self._slow_ns
        if isinstance(outcome, Answer):
            self._usual_s += 0.1 * (took_ns / _NS - self._usual_s)
            return False, slow
        if isinstance(outcome, DeadlineExceeded):
            # A deadline shorter than the usual answer says nothing about the version: callers must not open the circuit that way.
            given_s = request.deadline - request.began_ns / _NS
            return (True if given_s >= 2 * self._usual_s or slow else None), slow
        if isinstance(outcome, InputRefused):
            return None, slow  # the caller's value: sent often enough, it would cut everyone off
        if isinstance(outcome, ModelFault) or (isinstance(outcome, Unavailable) and outcome.code in _DIED):
            return True, slow
        return None, slow


class _Watched(ForwardedRequest):
    """A request whose outcome is counted."""

    __slots__ = ("_breaker", "began_ns")

    def __init__(self, outer: PendingRequest, breaker: Breaker, began_ns: int) -> None:
        super().__init__(outer)
        self._breaker = breaker
        self.began_ns = began_ns

    def settled(self, outcome: Outcome) -> None:
        """Count the outcome and pass it on."""
        self._breaker.saw(self, outcome)
        self.outer.settle(outcome)


class _Probe(AlwaysSettled):
    """A request that tests whether the version has recovered; other requests are refused until that is known."""

    __slots__ = ("_breaker", "began_ns", "period")

    def __init__(self, outer: PendingRequest, breaker: Breaker, began_ns: int, period: int) -> None:
        super().__init__(outer)
        self._breaker = breaker
        self.began_ns = began_ns
        self.period = period

    def settled(self, outcome: Outcome) -> None:
        """Judge the outcome and pass it on."""
        self._breaker.saw_probe(self, outcome)
        self.outer.settle(outcome)


def _refusal(open_for_s: float) -> Unavailable:
    return Unavailable(
        "the version behind this endpoint has failed or was slow too often, and is not asked for a while",
        code="circuit-open",
        hint="try again later; the operator may roll the endpoint back",
        retry_after_s=max(1, math.ceil(open_for_s)),
    )
