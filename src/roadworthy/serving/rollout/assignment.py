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
from functools import partial

import numpy as np
import structlog

from roadworthy.contract.evidence import CANARY, DRAWN, FAILED, STABLE, VARIANTS
from roadworthy.contract.snapshot import EndpointEntry, RolloutEntry
from roadworthy.foundation.errors import DeadlineExceeded, ModelFault, RoadworthyError, let_go
from roadworthy.runtime.layers.layer import LAYER_FAILED
from roadworthy.runtime.manager import Version
from roadworthy.runtime.pending import Answer, ForwardedRequest, Outcome, PendingRequest
from roadworthy.schema.batch import Batch
from roadworthy.schema.signature import Signature
from roadworthy.serving.metrics import Gauge
from roadworthy.serving.rollout.counters import EvidenceCells
from roadworthy.serving.rollout.outputs import OutputCounters
from roadworthy.serving.split import Split, point_of, sticky_key, unit_hash
from roadworthy.serving.variant import Variant
from roadworthy.signals.discovery import signal_named
from roadworthy.signals.signal import (
    BinJudge,
    BinSignal,
    EventSignal,
    Judge,
    OutcomeSignal,
    PairJudge,
    PairSignal,
    Seen,
    Use,
)

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
_CLOSING = "version-closed"
_log = structlog.get_logger(__name__)

Evidence = Mapping[str, bool]
"""Whether the outcome was bad, by signal. A signal on which the outcome has no bearing is missing."""


def seen_of(outcome: Outcome, ran_us: int, inputs: Batch | None = None) -> Seen | str:
    """What signals judge of an outcome, or the reason (one of those above) why it gives no evidence about the assigned version.

    Args:
        outcome: of the request, as the version's layers settled it.
        ran_us: how long its run took, microseconds; for a run that was given up, up to that moment. -1: unknown, or warming up.
        inputs: the request's rows, where a signal needs them.
    """
    if isinstance(outcome, Answer):
        error = outcome.instead_of
        if error is None:
            return CACHED if outcome.source else Seen(None, ran_us, outcome, inputs)
    else:
        error = outcome
    if error.code == LAYER_FAILED or (isinstance(error, ModelFault) and error.code != _CLOSING):
        return Seen(error, ran_us, None, inputs)
    if isinstance(error, DeadlineExceeded):
        return Seen(error, ran_us, None, inputs, late=True)
    return BREAKER if error.code == "circuit-open" else _left_out(outcome)


def _left_out(outcome: Outcome) -> str:
    return FALLBACK if isinstance(outcome, Answer) and outcome.instead_of is not None else SHED


def seen_at_end(first: Answer, ran_us: int, inputs: Batch | None, error: RoadworthyError | None) -> Seen | str:
    """The same as `seen_of`, of an answer in parts at its end: its run is that of its first part.

    Whether the version would have failed is unknown of an answer that its caller gave up. A deadline is a failure, since those
    that are not the version's fault give the answer up (`StreamedAnswer`).
    """
    if first.rest is not None and first.rest.given_up:
        return Seen(None, ran_us, first, inputs, late=True)
    if isinstance(error, DeadlineExceeded):
        return Seen(error, ran_us, None, inputs)
    return seen_of(first if error is None else error, ran_us, inputs)


def _asked(seen: Seen) -> bool | None:
    """The judge of events that are counted elsewhere: every outcome but a late one is a sample."""
    return None if seen.late else False


class RolloutCounters:
    """The counters of one rollout in one generation.

    Attributes:
        outputs: count what answers look like; None where the plan watches no outputs.
        needs_inputs: whether a signal looks at the requests' rows.
        failed: signals that could not be bound here, or that raised an error when they were asked. They are no longer counted.
    """

    def __init__(self, cells: EvidenceCells, rollout: RolloutEntry, generation: int, signature: Signature) -> None:
        self._cells = cells
        self._rollout = rollout
        self._generation = str(generation)
        self._signals = frozenset(rollout.signals)
        self._keys = {
            label: {signal: (rollout.id, self._generation, signal, label) for signal in (DRAWN, *rollout.signals)}
            for label in VARIANTS
        }
        self._judges: list[tuple[str, Judge]] = []
        self._paired: frozenset[str] = frozenset()
        self._pair_judges: list[tuple[str, PairJudge]] = []
        self.needs_inputs = False
        self.failed: set[str] = set()
        sorts = self._bind(signature)
        watched = rollout.outputs or rollout.probabilities is not None or sorts
        self.outputs = OutputCounters(cells, rollout, generation, signature, sorts, self._fails) if watched else None

    def _bind(self, signature: Signature) -> list[tuple[str, BinJudge, int]]:
        """Bind the signals of the rollout that this release counts; the judges of those that sort answers into bins, and the
        number of their bins."""
        sorts: list[tuple[str, BinJudge, int]] = []
        for name in self._rollout.signals:
            signal = signal_named(name)
            use = Use(signature, self._rollout.parameters.get(name, {}), self._rollout.slow_us)
            try:
                if isinstance(signal, OutcomeSignal):
                    self._judges.append((name, signal.bind(use)))
                    self._paired |= {name}
                    self.needs_inputs |= signal.needs_inputs
                elif isinstance(signal, PairSignal):
                    self._pair_judges.append((name, signal.bind(use)))
                elif isinstance(signal, BinSignal):
                    sorts.append((name, signal.bind(use), len(signal.bins)))
                elif isinstance(signal, EventSignal):
                    self._judges.append((name, _asked))
            except Exception as error:  # noqa: BLE001 - another distribution's code may raise anything; the endpoint serves
                self._fails(name, error)
        return sorts

    def _fails(self, name: str, error: Exception) -> None:
        """No longer count a signal that raised an error. The failure is counted instead, which holds the rollout until it ends: a
        replacement of this worker would count the signal again, but only where it does not raise."""
        if name not in self.failed:
            self.failed.add(name)
            self._cells.sample((self._rollout.id, self._generation, f"{FAILED}{name}", STABLE), bad=True)
            _log.error("signal-failed", rollout=self._rollout.id, signal=name, error=f"{type(error).__name__}: {error}"[:500])
        self._judges = [each for each in self._judges if each[0] != name]
        self._pair_judges = [each for each in self._pair_judges if each[0] != name]

    def evidence(self, outcome: Outcome, seen: Seen | str) -> Evidence | str:
        """The evidence that an outcome gives about the assigned version, or the reason why it gives none. A late request is
        evidence only if some signal says so.

        Args:
            outcome: of the request.
            seen: what signals judge of it, from `seen_of` or `seen_at_end`.
        """
        if isinstance(seen, str):
            return seen
        evidence = {}
        for name, judge in self._judges:
            try:
                bad = judge(seen)
                if bad is not None:
                    evidence[name] = bad if bad is True or bad is False else bool(bad)
            except Exception as error:  # noqa: BLE001 - another distribution's code may raise anything; the caller gets the answer
                self._fails(name, error)
        return evidence if evidence or not seen.late else _left_out(outcome)

    def assigned(self, label: str) -> None:
        """Count a first attempt that was assigned to a variant, whatever its outcome."""
        self._cells.sample(self._keys[label][DRAWN], bad=False)

    def judged(self, label: str, evidence: Evidence, unit: int | None) -> None:
        """Count an outcome of a variant. `unit` is the hash of its user in a sticky rollout."""
        keys, cells = self._keys[label], self._cells
        for signal, bad in evidence.items():
            key = keys[signal]
            cells.sample(key, bad=bad)
            if bad and unit is not None:
                cells.unit(key, unit)

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

    def paired(self, canary: Evidence, stable: Evidence) -> None:
        """Count a mirrored request for each signal on which both outcomes are evidence."""
        for signal, bad in canary.items():
            if signal in stable and signal in self._paired:
                self._pair(signal, canary_bad=bad, stable_bad=stable[signal])

    def both_answered(self, served: Answer, copied: Answer) -> None:
        """Count a mirrored request that both versions answered."""
        for signal, judge in self._pair_judges:
            try:
                bad = bool(judge(served.batch(), copied.batch()))
            except Exception as error:  # noqa: BLE001 - another distribution's code may raise anything; the mirror goes on
                self._fails(signal, error)
                continue
            self._pair(signal, canary_bad=bad, stable_bad=False)
        if self.outputs is not None:
            self.outputs.both_answered(served, copied)

    def _pair(self, signal: str, *, canary_bad: bool, stable_bad: bool) -> None:
        self._cells.pair((self._rollout.id, self._generation, signal), canary_bad=canary_bad, stable_bad=stable_bad)


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
            LabeledVariant(variant, CANARY if variant.version.digest == rollout.canary else STABLE) for variant in variants
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
        if self.counters.needs_inputs:
            assigned.inputs = batch
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
        copy: its rows, if the request is mirrored to the shadowed version. inputs: its rows, if a signal needs them.
    """

    __slots__ = ("_assignment", "_began", "chosen", "copy", "eligible", "inputs", "unit")

    def __init__(self, outer: PendingRequest, assignment: RolloutAssignment, chosen: LabeledVariant, unit: int | None) -> None:
        super().__init__(outer)
        self._assignment = assignment
        self._began = 0.0
        self.chosen = chosen
        self.unit = unit
        self.eligible = True
        self.copy: Batch | None = None
        self.inputs: Batch | None = None

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
        """Count the outcome, then answer: a request that was answered has been counted. Then send the copy. An answer in parts is
        counted when the version has ended, unless another version gives it."""
        if self.eligible:
            self._assignment.counters.assigned(self.chosen.label)
        ran_us = _ran_us(self.chosen.variant.version, outcome, self._began, self.deadline)
        if isinstance(outcome, Answer) and outcome.rest is not None and outcome.instead_of is None:
            outcome.rest.watch(partial(self._ended, outcome, ran_us))
            self.outer.settle(outcome)
            return
        evidence = self._count(outcome, seen_of(outcome, ran_us, self.inputs))
        self.outer.settle(outcome)
        self._mirror(outcome, evidence)

    def _ended(self, first: Answer, ran_us: int, error: RoadworthyError | None) -> None:
        """Count an answer in parts."""
        outcome = first if error is None else error
        self._mirror(outcome, self._count(outcome, seen_at_end(first, ran_us, self.inputs, error)))

    def _count(self, outcome: Outcome, seen: Seen | str) -> Evidence | str:
        counters, label = self._assignment.counters, self.chosen.label
        evidence = counters.evidence(outcome, seen)
        if isinstance(evidence, str):
            counters.excluded(label, evidence)
        elif not self.eligible:
            counters.excluded(label, RETRIED)
        else:
            counters.judged(label, evidence, self.unit)
            if self._assignment.mirror is None:  # else only requests that both versions answered count
                counters.answered(label, outcome, self.unit)
        return evidence

    def _mirror(self, outcome: Outcome, evidence: Evidence | str) -> None:
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
        copy = MirroredRequest(self, evidence, outcome, self._timeout_s)
        copy.inputs = batch if self._counters.needs_inputs else None
        self._loop.call_soon(self._submit, batch, copy)

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
        evidence = self._counters.evidence(outcome, seen_of(outcome, ran_us, copy.inputs))
        if isinstance(evidence, str):
            self._counters.excluded(CANARY, SHED)
            return
        self._counters.paired(evidence, copy.evidence)
        served = copy.outcome
        if isinstance(served, Answer) and served.instead_of is None and isinstance(outcome, Answer):
            self._counters.both_answered(served, outcome)

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
        inputs: its rows, if a signal needs them.
    """

    __slots__ = ("_mirror", "began", "evidence", "inputs", "outcome")

    def __init__(self, mirror: Mirror, evidence: Evidence, outcome: Outcome, timeout_s: float) -> None:
        super().__init__(time.monotonic() + timeout_s, "shadow")
        self._mirror = mirror
        self.evidence = evidence
        self.outcome = outcome
        self.began = 0.0
        self.inputs: Batch | None = None

    def settled(self, outcome: Outcome) -> None:
        """Hand the outcome to the mirror."""
        self._mirror.settled(self, outcome)
