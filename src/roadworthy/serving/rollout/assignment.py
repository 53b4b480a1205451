"""An endpoint in a rollout: assigns requests to variants, counts evidence, and mirrors requests to a shadowed version.

Eligibility is settled before the assignment: the request was admitted, is a first attempt, and is not answered from a cache,
since `endpoint.py` leaves the cache out of both variants. The counted outcome is the assigned version's own, whatever the caller
gets in the end. A `RolloutAssignment` is made when an endpoint is bound, so that late outcomes keep the generation that assigned
them. Nothing here runs for an endpoint without a rollout.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
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
from roadworthy.serving.rollout.outputs import OutputCounters
from roadworthy.serving.split import Split, point_of, sticky_key, unit_hash
from roadworthy.serving.variant import Variant

ERRORS, INVALID_OUTPUTS, SLOW, DISAGREEMENT = "errors", "invalid_outputs", "slow", "disagreement"
SHED, BREAKER, FALLBACK, RETRIED, CACHED = "shed", "breaker", "fallback", "retried", "cached"
ATTEMPT_HEADER = b"x-envoy-attempt-count"
"""Envoy and Istio number the attempts of a request in this header, from 1."""
MOST_COPIES = 8
"""Mirrored requests in flight per worker and endpoint. More would mean that the version is slower than its traffic."""
MOST_COPIED_ROWS = 1_024
LOG_EVERY_S = 10.0
"""Failed copies are logged at most this often; each line counts the failures since the previous line."""
MOST_WAITING = 8
"""With more requests than this in the stable version's queue, no copies are made."""
_INVALID = frozenset({"non-finite-output", "wrong-output-count", "wrong-output-type"})
_CLOSING = "version-closed"
_log = structlog.get_logger(__name__)

Evidence = Mapping[str, bool]
"""Whether the outcome was bad, by signal. A signal on which the outcome has no bearing is missing."""


def evidence_of(outcome: Outcome, ran_us: int, slow_us: int | None) -> Evidence | str:
    """The evidence that an outcome gives about the assigned version, or the reason (one of those above) why it gives none.

    Args:
        outcome: of the request, as the version's layers settled it.
        ran_us: how long its run took, microseconds; for a run that was given up, up to that moment. -1: unknown, or warming up.
        slow_us: a longer run is slow; None where slowness is not counted.
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
        evidence = {ERRORS: False, INVALID_OUTPUTS: False}
        if timed and slow_us is not None:
            evidence[SLOW] = ran_us > slow_us
        return evidence
    if isinstance(error, ModelFault) and error.code != _CLOSING:
        return {ERRORS: True, INVALID_OUTPUTS: error.code in _INVALID}
    if error.code == "circuit-open":
        return BREAKER
    if isinstance(error, DeadlineExceeded) and slow_us is not None and ran_us > slow_us:
        return {SLOW: True}
    return FALLBACK if isinstance(outcome, Answer) else SHED


class RolloutCounters:
    """The counters of one rollout in one generation.

    Attributes:
        outputs: count what answers look like; None where the plan has no criterion on outputs.
    """

    def __init__(self, cells: EvidenceCells, rollout: RolloutEntry, generation: int, signature: Signature) -> None:
        self._cells = cells
        self._rollout = rollout
        self._generation = str(generation)
        self._signals = frozenset(rollout.signals)
        self._events = [name for name in rollout.signals if name == "guard_hits" or name.startswith("custom.")]
        self.slow_us = rollout.slow_us if SLOW in self._signals else None
        watched = rollout.outputs or rollout.probabilities is not None
        self.outputs = OutputCounters(cells, rollout, generation, signature) if watched else None

    def assigned(self, label: str) -> None:
        """Count a first attempt that was assigned to a variant, whatever its outcome."""
        self._cells.sample((self._rollout.id, self._generation, DRAWN, label), bad=False)

    def judged(self, label: str, evidence: Evidence, unit: int | None) -> None:
        """Count an outcome of a variant. `unit` is the hash of its user in a sticky rollout."""
        for signal, bad in evidence.items():
            if signal in self._signals:
                key = (self._rollout.id, self._generation, signal, label)
                self._cells.sample(key, bad=bad)
                if bad and unit is not None:
                    self._cells.unit(key, unit)
        if ERRORS in evidence:
            for signal in self._events:
                self._cells.sample((self._rollout.id, self._generation, signal, label), bad=False)

    def event(self, signal: str, label: str, unit: int | None) -> None:
        """Count a bad event of a request, "guard_hits" or "custom.NAME", at most once a request. Its outcome is the sample."""
        if signal in self._signals:
            key = (self._rollout.id, self._generation, signal, label)
            self._cells.event(key)
            if unit is not None:
                self._cells.unit(key, unit)

    def answered(self, label: str, outcome: Outcome, unit: int | None) -> None:
        """Count the outputs of an eligible answer that the version itself gave."""
        if self.outputs is not None and isinstance(outcome, Answer) and outcome.instead_of is None:
            self.outputs.answered(label, outcome, unit)

    def excluded(self, label: str, reason: str) -> None:
        """Count an outcome that gives no evidence."""
        self._cells.exclude((self._rollout.id, self._generation, reason, label))

    def pair(self, signal: str, *, canary_bad: bool, stable_bad: bool) -> None:
        """Count a mirrored request on which the signal is known for both versions."""
        if signal in self._signals:
            key = (self._rollout.id, self._generation, signal)
            self._cells.pair(key, canary_bad=canary_bad, stable_bad=stable_bad)


@dataclass(frozen=True, slots=True)
class LabeledVariant:
    """A variant, and whether it is the canary or the stable."""

    variant: Variant
    label: str


class RolloutAssignment:
    """One generation of an endpoint's rollout. Event loop only.

    Args:
        entry: the endpoint's, with its rollout. variants: of its split, in order.
        mirror: mirrors requests to the shadowed version; None where no version is shadowed.

    Attributes:
        id: the rollout's.
    """

    def __init__(
        self,
        entry: EndpointEntry,
        rollout: RolloutEntry,
        variants: Sequence[Variant],
        counters: RolloutCounters,
        mirror: Mirror | None,
    ) -> None:
        labeled = [
            LabeledVariant(variant, CANARY if variant.version.digest == rollout.canary else STABLE)
            for variant in variants
        ]
        self._split = Split(labeled, [share.weight for share in entry.split])
        self._rollout = rollout
        self.id = rollout.id
        self._header = None if rollout.sticky_header is None else rollout.sticky_header.lower().encode()
        self._sticky = rollout.sticky_header is not None or rollout.sticky_field is not None
        self.counters = counters
        self.mirror = mirror

    def assign(
        self, request: PendingRequest, headers: Mapping[bytes, bytes], prediction_id: str, batch: Batch
    ) -> tuple[Variant, AssignedRequest]:
        """The variant that answers, and the request to hand to it."""
        unit = None
        key = prediction_id
        if self._sticky:
            found = self._unit(headers, batch)
            if found is not None:
                key = sticky_key(self._rollout.id, found)
            unit = unit_hash(self._rollout.id, prediction_id if found is None else f"={found}")
        chosen = self._split.choose(key)
        assigned = AssignedRequest(request, self, chosen, unit)
        if headers.get(ATTEMPT_HEADER, b"1") != b"1":
            assigned.eligible = False
        elif self.mirror is not None and chosen.label == STABLE and self.mirror.wants(prediction_id):
            assigned.copy = self.mirror.copy(batch)
        return chosen.variant, assigned

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
    """A request that was assigned to a variant.

    Attributes:
        chosen: the variant.
        eligible: whether it is a first attempt. unit: the hash of its user, in a sticky rollout.
        copy: its rows, if the request is mirrored to the shadowed version.
    """

    __slots__ = ("_assignment", "_began", "chosen", "copy", "eligible", "unit")

    def __init__(
        self, outer: PendingRequest, assignment: RolloutAssignment, chosen: LabeledVariant, unit: int | None
    ) -> None:
        super().__init__(outer)
        self._assignment = assignment
        self._began = 0.0
        self.chosen = chosen
        self.unit = unit
        self.eligible = True
        self.copy: Batch | None = None

    @property
    def done(self) -> bool:
        """See `PendingRequest`. A run that has begun is settled even when its caller is gone, since callers leave the slower
        version first."""
        return self._settled or (self.outer.done and not self._began)

    @done.setter
    def done(self, value: bool) -> None:
        self._settled = value

    @property
    def running(self) -> bool:
        """See `PendingRequest`."""
        return self.outer.running

    @running.setter
    def running(self, value: bool) -> None:
        if value and not self._began:
            self._began = time.monotonic()
        self.outer.running = value

    def settled(self, outcome: Outcome) -> None:
        """Count the outcome, then answer: a request that was answered has been counted. Then send the copy."""
        counters, label = self._assignment.counters, self.chosen.label
        if self.eligible:
            counters.assigned(label)
        evidence = evidence_of(
            outcome, _ran_us(self.chosen.variant.version, outcome, self._began, self.deadline), counters.slow_us
        )
        if isinstance(evidence, str):
            counters.excluded(label, evidence)
        elif not self.eligible:
            counters.excluded(label, RETRIED)
        else:
            counters.judged(label, evidence, self.unit)
            if self._assignment.mirror is None:  # else only requests that both versions answered count
                counters.answered(label, outcome, self.unit)
        self.outer.settle(outcome)
        if self.copy is not None and self._assignment.mirror is not None:
            self._assignment.mirror.begin(
                self.copy, None if isinstance(evidence, str) else evidence, outcome, self.chosen.variant.version
            )


def _ran_us(version: Version, outcome: Outcome, began: float, deadline: float) -> int:
    """Microseconds of the run that gave this outcome; for a run that was given up, up to that moment."""
    error = outcome.instead_of if isinstance(outcome, Answer) else outcome
    times = version.batcher.times
    if error is None:
        return times.last_us
    return int((deadline - began) * 1e6) if began and not times.warming else -1


class Mirror:
    """Mirrors requests to a shadowed version, which serves no caller. Nothing that it does reaches a caller: a copy is sent after
    the caller has its answer, is neither recorded nor cached, and is left out while either version is busy.

    Args:
        submit: takes a copy and its pending request. None: that of the version itself.
    """

    def __init__(
        self,
        version: Version,
        rollout: RolloutEntry,
        counters: RolloutCounters,
        gauge: Gauge,
        timeout_s: float,
        submit: Callable[[Batch, PendingRequest], None] | None = None,
    ) -> None:
        self.version = version
        self._submit_below = submit or version.submit
        self._rollout = rollout
        self._counters = counters
        self._gauge = gauge
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._under_way = 0
        self._failed = 0
        self._logged_at = float("-inf")

    def wants(self, prediction_id: str) -> bool:
        """Whether this request is in the mirrored share."""
        return point_of(f"shadow\x1f{self._rollout.id}\x1f{prediction_id}") < self._rollout.shadow

    def copy(self, batch: Batch) -> Batch | None:
        """A copy of the rows, since a model may write into its input; None for a request that is too large."""
        if batch.rows > MOST_COPIED_ROWS:
            self._counters.excluded(CANARY, SHED)
            return None
        return batch.take(range(batch.rows))

    def begin(self, batch: Batch, evidence: Evidence | None, outcome: Outcome, stable: Version) -> None:
        """Send the copy to the shadowed version, if there is room. `evidence` and `outcome` are the serving version's."""
        busy = self._under_way >= MOST_COPIES or self.version.waiting > 0 or stable.waiting > MOST_WAITING
        if evidence is None or busy:
            self._counters.excluded(CANARY, SHED)
            return
        self._under_way += 1
        self._loop.call_soon(self._submit, batch, MirroredRequest(self, evidence, outcome, self._timeout_s))

    def _submit(self, batch: Batch, copy: MirroredRequest) -> None:
        try:
            self.version.leases.take()
        except RoadworthyError:
            self._under_way -= 1
            self._counters.excluded(CANARY, SHED)
            return
        self._gauge.add(1)
        copy.began = time.monotonic()
        try:
            self._submit_below(batch, copy)
        except Exception:  # noqa: BLE001 - a fault of the shadowed version stays with its copy
            copy.settle(ModelFault("the copy could not be run"))

    def settled(self, copy: MirroredRequest, outcome: Outcome) -> None:
        """Compare the outcomes of both versions."""
        self._under_way -= 1
        self._gauge.add(-1)
        self.version.leases.give_back()
        if not isinstance(outcome, Answer):
            self._log_failure(outcome)
            let_go(outcome)
        ran_us = _ran_us(self.version, outcome, copy.began if copy.running else 0.0, copy.deadline)
        evidence = evidence_of(outcome, ran_us, self._counters.slow_us)
        if isinstance(evidence, str):
            self._counters.excluded(CANARY, SHED)
            return
        for signal, bad in evidence.items():
            if signal in copy.evidence:
                self._counters.pair(signal, canary_bad=bad, stable_bad=copy.evidence[signal])
        served = copy.outcome
        if isinstance(served, Answer) and served.instead_of is None and isinstance(outcome, Answer):
            different = compare(served.batch(), outcome.batch(), Tolerance()) is not None
            self._counters.pair(DISAGREEMENT, canary_bad=different, stable_bad=False)
            if self._counters.outputs is not None:
                self._counters.outputs.both_answered(served, outcome)

    def _log_failure(self, error: RoadworthyError) -> None:
        """Log a failed copy: no caller sees its error."""
        self._failed += 1
        now = time.monotonic()
        if now - self._logged_at >= LOG_EVERY_S:
            facts = {"rollout": self._rollout.id, "digest": self.version.digest, "copies": self._failed}
            _log.warning("copy-failed", code=error.code, reason=error.message, exc_info=error.__cause__, **facts)
            self._failed, self._logged_at = 0, now


class MirroredRequest(PendingRequest):
    """A copy of a request for the shadowed version.

    Attributes:
        evidence, outcome: the serving version's. began: when the copy was submitted, monotonic clock, seconds.
    """

    __slots__ = ("_mirror", "began", "evidence", "outcome")

    def __init__(self, mirror: Mirror, evidence: Evidence, outcome: Outcome, timeout_s: float) -> None:
        super().__init__(time.monotonic() + timeout_s, "shadow")
        self._mirror = mirror
        self.evidence = evidence
        self.outcome = outcome
        self.began = 0.0

    def settled(self, outcome: Outcome) -> None:
        """Hand the outcome to the mirror."""
        self._mirror.settled(self, outcome)
