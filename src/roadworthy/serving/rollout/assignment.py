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

from roadworthy.contract.evidence import CANARY, STABLE
from roadworthy.contract.snapshot import EndpointEntry, RolloutEntry
from roadworthy.foundation.errors import ModelFault, RoadworthyError, let_go
from roadworthy.runtime.manager import Version
from roadworthy.runtime.pending import Answer, ForwardedRequest, Outcome, PendingRequest
from roadworthy.schema.batch import Batch
from roadworthy.serving.metrics import Gauge
from roadworthy.serving.rollout.judging import RETRIED, SHED, Evidence, RolloutCounters, seen_at_end, seen_of
from roadworthy.serving.split import Split, point_of, sticky_key, unit_hash
from roadworthy.serving.variant import Variant
from roadworthy.signals.signal import Seen

ATTEMPT_HEADER = b"x-envoy-attempt-count"
"""Envoy and Istio number the attempts of a request in this header, from 1."""
MOST_COPIES = 8
"""Mirrored requests in flight per worker and endpoint. More would mean that the version is slower than its traffic."""
MOST_COPIED_ROWS = 1_024
LOG_EVERY_S = 10.0
"""Failed copies are logged at most this often; each line counts the failures since the previous line."""
MOST_WAITING = 8
"""With more requests than this in the stable version's queue, no copies are made."""
_log = structlog.get_logger(__name__)


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
