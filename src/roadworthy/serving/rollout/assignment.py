"""An endpoint in a rollout: who is asked, what counts as evidence, and copies for a shadowed version.

What may count is settled before the arm is drawn: the request was let in, is a first attempt, and nothing is answered from a
cache, since `endpoints.py` leaves the cache out of both arms. The outcome is the drawn version's own, whatever the caller gets in
the end. Made when an endpoint is bound, so that what is counted late keeps the generation that drew it; an endpoint without a
rollout has none, and nothing here is called for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import structlog

from roadworthy.contract.evidence import CANARY, DRAWN, STABLE
from roadworthy.contract.snapshot import EndpointEntry, RolloutEntry
from roadworthy.foundation.errors import DeadlineExceeded, ModelFault, RoadworthyError, let_go
from roadworthy.optimize.equal import Tolerance, compare
from roadworthy.runtime.manager import Version
from roadworthy.runtime.pending import Answer, ForwardedRequest, Outcome, PendingRequest
from roadworthy.schema.batch import Batch
from roadworthy.schema.signature import Signature
from roadworthy.serving.metrics import Gauge
from roadworthy.serving.rollout.counters import EvidenceCells
from roadworthy.serving.rollout.outputs import Watching
from roadworthy.serving.split import Split, point_of, sticky_key, unit_hash
from roadworthy.serving.variant import Variant

ERRORS, INVALID_OUTPUTS, SLOW, DISAGREEMENT = "errors", "invalid_outputs", "slow", "disagreement"
SHED, BREAKER, FALLBACK, RETRIED, CACHED = "shed", "breaker", "fallback", "retried", "cached"
ATTEMPT_HEADER = b"x-envoy-attempt-count"
"""Envoy and Istio number attempts in it, from 1."""
MOST_COPIES = 8
"""Copies that one worker has under way for one endpoint; where more would be, the version is slower than its traffic."""
MOST_COPIED_ROWS = 1_024
LOG_EVERY_S = 10.0
"""Copies that fail are logged this often at most, each line with how many did since the one before."""
MOST_WAITING = 8
"""With more requests in the stable's line this worker has better things to do than to make copies."""
_INVALID = frozenset({"non-finite-output", "wrong-output-count", "wrong-output-type"})
_CLOSING = "version-closed"
_log = structlog.get_logger(__name__)

Own = Mapping[str, bool]
"""By signal, whether the outcome was bad; a signal that the outcome says nothing about is missing."""


def own_outcome(outcome: Outcome, ran_us: int, slow_us: int | None) -> Own | str:
    """What an outcome says about the version that was drawn, or why it says nothing: one of the reasons above.

    Args:
        ran_us: how long its run took, microseconds, as far as is known when time was up; -1 for not known, or warm-up.
        slow_us: longer is slow; None where that is not counted.
    """
    error: RoadworthyError | None
    if isinstance(outcome, Answer):
        error = outcome.instead_of
        if error is None and outcome.source:
            return CACHED
    else:
        error = outcome
    timed = slow_us is not None and ran_us >= 0
    if error is None:
        own = {ERRORS: False, INVALID_OUTPUTS: False}
        if timed and slow_us is not None:
            own[SLOW] = ran_us > slow_us
        return own
    if isinstance(error, ModelFault) and error.code != _CLOSING:
        return {ERRORS: True, INVALID_OUTPUTS: error.code in _INVALID}
    if error.code == "circuit-open":
        return BREAKER
    if isinstance(error, DeadlineExceeded) and slow_us is not None and ran_us > slow_us:
        return {SLOW: True}
    return FALLBACK if isinstance(outcome, Answer) else SHED


class RolloutCounters:
    """The counts of one rollout in one generation.

    Attributes:
        watching: of what answers look like; None where the plan watches nothing of it.
    """

    def __init__(self, cells: EvidenceCells, rollout: RolloutEntry, generation: int, signature: Signature) -> None:
        self._cells = cells
        self._rollout = rollout
        self._generation = str(generation)
        self._signals = frozenset(rollout.signals)
        self._events = [name for name in rollout.signals if name == "guard_hits" or name.startswith("custom.")]
        self.slow_us = rollout.slow_us if SLOW in self._signals else None
        watched = rollout.outputs or rollout.probabilities is not None
        self.watching = Watching(cells, rollout, generation, signature) if watched else None

    def drawn(self, label: str) -> None:
        """Count a first attempt for which an arm was drawn, whatever came of it."""
        self._cells.sample((self._rollout.id, self._generation, DRAWN, label), bad=False)

    def judged(self, label: str, own: Own, unit: int | None) -> None:
        """Count an outcome of an arm. `unit` is the hash of its user in a sticky rollout."""
        for signal, bad in own.items():
            if signal in self._signals:
                key = (self._rollout.id, self._generation, signal, label)
                self._cells.sample(key, bad=bad)
                if bad and unit is not None:
                    self._cells.unit(key, unit)
        if ERRORS in own:
            for signal in self._events:
                self._cells.sample((self._rollout.id, self._generation, signal, label), bad=False)

    def event(self, signal: str, label: str, unit: int | None) -> None:
        """Count a bad event, "guard_hits" or "custom.NAME", of a request; its outcome is the sample. At most once a request."""
        if signal in self._signals:
            key = (self._rollout.id, self._generation, signal, label)
            self._cells.event(key)
            if unit is not None:
                self._cells.unit(key, unit)

    def answered(self, label: str, outcome: Outcome, unit: int | None) -> None:
        """Count what an eligible answer of a version's own looks like."""
        if self.watching is not None and isinstance(outcome, Answer) and outcome.instead_of is None:
            self.watching.answered(label, outcome, unit)

    def excluded(self, label: str, reason: str) -> None:
        """Count what is no evidence."""
        self._cells.exclude((self._rollout.id, self._generation, reason, label))

    def pair(self, signal: str, *, canary_bad: bool, stable_bad: bool) -> None:
        """Count a copied request that both versions answered, as far as the signal goes."""
        if signal in self._signals:
            key = (self._rollout.id, self._generation, signal)
            self._cells.pair(key, canary_bad=canary_bad, stable_bad=stable_bad)


@dataclass(frozen=True, slots=True)
class Assigned:
    """An arm, and which one it is."""

    arm: Variant
    label: str


class RolloutAssignment:
    """One generation of an endpoint's rollout. Event loop only.

    Args:
        entry: of the endpoint, with its rollout. arms: of its split, in order.
        shadow: makes the copies; None where the rollout asks for none.

    Attributes:
        id: the rollout's.
    """

    def __init__(
        self,
        entry: EndpointEntry,
        rollout: RolloutEntry,
        arms: Sequence[Variant],
        counting: RolloutCounters,
        shadow: Mirror | None,
    ) -> None:
        sides = [Assigned(arm, CANARY if arm.version.digest == rollout.canary else STABLE) for arm in arms]
        self._split = Split(sides, [side.weight for side in entry.split])
        self._rollout = rollout
        self.id = rollout.id
        self._header = None if rollout.sticky_header is None else rollout.sticky_header.lower().encode()
        self._sticky = rollout.sticky_header is not None or rollout.sticky_field is not None
        self.counting = counting
        self.shadow = shadow

    def draw(
        self, ticket: PendingRequest, headers: Mapping[bytes, bytes], prediction_id: str, batch: Batch
    ) -> tuple[Variant, AssignedRequest]:
        """Who answers, and the ticket to hand to it."""
        unit = None
        key = prediction_id
        if self._sticky:
            found = self._unit(headers, batch)
            if found is not None:
                key = sticky_key(self._rollout.id, found)
            unit = unit_hash(self._rollout.id, prediction_id if found is None else f"={found}")
        side = self._split.choose(key)
        drawn = AssignedRequest(ticket, self, side, unit)
        if headers.get(ATTEMPT_HEADER, b"1") != b"1":
            drawn.eligible = False
        elif self.shadow is not None and side.label == STABLE and self.shadow.wants(prediction_id):
            drawn.copy = self.shadow.copy(batch)
        return side.arm, drawn

    def _unit(self, headers: Mapping[bytes, bytes], batch: Batch) -> str | None:
        if self._header is not None:
            value = headers.get(self._header)
            return None if not value else value.decode("latin-1")
        field = self._rollout.sticky_field
        if field is None or field not in batch.layout.positions or not batch.rows:
            return None
        values, mask = batch.column(field)
        if mask is not None and np.any(mask[0]):
            return None
        return str(values[0].tolist() if isinstance(values[0], np.generic | np.ndarray) else values[0])


class AssignedRequest(ForwardedRequest):
    """A request for which an arm was drawn.

    Attributes:
        eligible: whether it is a first attempt. unit: hash of its user, in a sticky rollout.
        copy: its rows, when the shadowed version is to have them too.
    """

    __slots__ = ("_began", "_trial", "copy", "eligible", "side", "unit")

    def __init__(self, outer: PendingRequest, trial: RolloutAssignment, side: Assigned, unit: int | None) -> None:
        super().__init__(outer)
        self._trial = trial
        self._began = 0.0
        self.side = side
        self.unit = unit
        self.eligible = True
        self.copy: Batch | None = None

    @property
    def done(self) -> bool:
        """As in PendingRequest. What has begun is settled even when its caller is gone: callers leave slow versions first."""
        return self._settled or (self.outer.done and not self._began)

    @done.setter
    def done(self, value: bool) -> None:
        self._settled = value

    @property
    def running(self) -> bool:
        """As in PendingRequest."""
        return self.outer.running

    @running.setter
    def running(self, value: bool) -> None:
        if value and not self._began:
            self._began = time.monotonic()
        self.outer.running = value

    def settled(self, outcome: Outcome) -> None:
        """Count what it says, and only then answer: who has an answer can rely on it. Then make the copy."""
        counting, label = self._trial.counting, self.side.label
        if self.eligible:
            counting.drawn(label)
        own = own_outcome(
            outcome, _ran_us(self.side.arm.version, outcome, self._began, self.deadline), counting.slow_us
        )
        if isinstance(own, str):
            counting.excluded(label, own)
        elif not self.eligible:
            counting.excluded(label, RETRIED)
        else:
            counting.judged(label, own, self.unit)
            if self._trial.shadow is None:  # else those count that both versions answered
                counting.answered(label, outcome, self.unit)
        self.outer.settle(outcome)
        if self.copy is not None and self._trial.shadow is not None:
            self._trial.shadow.begin(self.copy, None if isinstance(own, str) else own, outcome, self.side.arm.version)


def _ran_us(version: Version, outcome: Outcome, began: float, deadline: float) -> int:
    """Microseconds of the run that gave this outcome; of one that was given up, those until then."""
    error = outcome.instead_of if isinstance(outcome, Answer) else outcome
    times = version.batcher.times
    if error is None:
        return times.last_us
    return int((deadline - began) * 1e6) if began and not times.warming else -1


class Mirror:
    """Copies of requests for a version that serves nobody. Nothing that it does reaches a caller: a copy is made when the caller
    has been answered, waits for nobody, is recorded and cached nowhere, and is left out while anything is busy."""

    def __init__(
        self, version: Version, rollout: RolloutEntry, counting: RolloutCounters, gauge: Gauge, timeout_s: float
    ) -> None:
        self.version = version
        self._rollout = rollout
        self._counting = counting
        self._gauge = gauge
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._under_way = 0
        self._failed = 0
        self._logged_at = float("-inf")

    def wants(self, prediction_id: str) -> bool:
        """Whether this request is one of those to copy."""
        return point_of(f"shadow\x1f{self._rollout.id}\x1f{prediction_id}") < self._rollout.shadow

    def copy(self, batch: Batch) -> Batch | None:
        """The rows once more, since a model may write into what it is given; None for a request that is too large."""
        if batch.rows > MOST_COPIED_ROWS:
            self._counting.excluded(CANARY, SHED)
            return None
        return batch.take(range(batch.rows))

    def begin(self, batch: Batch, own: Own | None, outcome: Outcome, stable: Version) -> None:
        """Have the copy answered too, if there is room; `own` and `outcome` are the served version's."""
        busy = self._under_way >= MOST_COPIES or self.version.waiting > 0 or stable.waiting > MOST_WAITING
        if own is None or busy:
            self._counting.excluded(CANARY, SHED)
            return
        self._under_way += 1
        self._loop.call_soon(self._submit, batch, MirroredRequest(self, own, outcome, self._timeout_s))

    def _submit(self, batch: Batch, copy: MirroredRequest) -> None:
        try:
            self.version.leases.take()
        except RoadworthyError:
            self._under_way -= 1
            self._counting.excluded(CANARY, SHED)
            return
        self._gauge.add(1)
        copy.began = time.monotonic()
        try:
            self.version.submit(batch, copy)
        except Exception:  # noqa: BLE001 - whatever is wrong with it is nobody's but its own
            copy.settle(ModelFault("the copy could not be run"))

    def settled(self, copy: MirroredRequest, outcome: Outcome) -> None:
        """Compare what both versions did."""
        self._under_way -= 1
        self._gauge.add(-1)
        self.version.leases.give_back()
        if not isinstance(outcome, Answer):
            self._log_failure(outcome)
            let_go(outcome)
        ran_us = _ran_us(self.version, outcome, copy.began if copy.running else 0.0, copy.deadline)
        own = own_outcome(outcome, ran_us, self._counting.slow_us)
        if isinstance(own, str):
            self._counting.excluded(CANARY, SHED)
            return
        for signal, bad in own.items():
            if signal in copy.own:
                self._counting.pair(signal, canary_bad=bad, stable_bad=copy.own[signal])
        served = copy.outcome
        if isinstance(served, Answer) and served.instead_of is None and isinstance(outcome, Answer):
            different = compare(served.batch(), outcome.batch(), Tolerance()) is not None
            self._counting.pair(DISAGREEMENT, canary_bad=different, stable_bad=False)
            if self._counting.watching is not None:
                self._counting.watching.both_answered(served, outcome)

    def _log_failure(self, error: RoadworthyError) -> None:
        """No caller sees it, so nobody else tells."""
        self._failed += 1
        now = time.monotonic()
        if now - self._logged_at >= LOG_EVERY_S:
            facts = {"rollout": self._rollout.id, "digest": self.version.digest, "copies": self._failed}
            _log.warning("copy-failed", code=error.code, reason=error.message, exc_info=error.__cause__, **facts)
            self._failed, self._logged_at = 0, now


class MirroredRequest(PendingRequest):
    """A request as the shadowed version gets it.

    Attributes:
        own, outcome: what the served version did. began: when it was handed over, monotonic clock.
    """

    __slots__ = ("_shadow", "began", "outcome", "own")

    def __init__(self, shadow: Mirror, own: Own, outcome: Outcome, timeout_s: float) -> None:
        super().__init__(time.monotonic() + timeout_s, "shadow")
        self._shadow = shadow
        self.own = own
        self.outcome = outcome
        self.began = 0.0

    def settled(self, outcome: Outcome) -> None:
        """Hand it on."""
        self._shadow.settled(self, outcome)
