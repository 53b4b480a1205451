"""The walk of a prediction below every edge: a version is chosen and held, rows are handed on, and what came of it is counted and
recorded. An edge (`gateway/http/predict.py` is one) knows how a request was read and how it is answered; this file does not.

There is no task and no await in it: each step calls the next, because at tens of thousands of requests a second the hops through
the event loop would cost more than the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from roadworthy.contract.record import RecordKind
from roadworthy.foundation.errors import InputRefused, ModelFault, RoadworthyError
from roadworthy.runtime.pending import PendingRequest
from roadworthy.runtime.record import Recorder
from roadworthy.schema.batch import Batch
from roadworthy.serving.endpoint import Endpoint
from roadworthy.serving.metrics import WorkerMetrics
from roadworthy.serving.variant import Variant

_MOST_KINDS = 4_096
_MOST_REFUSED_BYTES = 64 << 10
"""A refused body is recorded up to this length: who sends much that nobody reads shall not have it written down as well."""


class Identified(Protocol):
    """What the log names."""

    id: str
    prediction_id: str


LogFault = Callable[[str, Identified, Exception], None]
"""Writes down an exception that is not the caller's doing: endpoint, request, exception."""


@dataclass(frozen=True, slots=True)
class Instruments:
    """What every prediction is counted, recorded and logged with.

    Attributes:
        log_access: writes a line for each request, or None.
        refusal: why nobody new can be let in now, whatever the endpoint, or None.
    """

    metrics: WorkerMetrics
    recorder: Recorder
    log_fault: LogFault
    log_access: Callable[[str, Prediction, int, float], None] | None = None
    refusal: Callable[[], RoadworthyError | None] = lambda: None


class Prediction(PendingRequest):
    """One request on its way, with what is known of it so far, whatever its edge.

    Attributes:
        headers: of the request, names in lower case.
        prediction_id: an id of our own. id: the caller's X-Request-Id, or the same.
        started: monotonic clock, seconds. at_us: wall clock, microseconds since 1970 UTC.
        arm: the version that was chosen. by: the one that answered in its place, or None.
        admitted: whether the caller may ask this endpoint; who may not leaves no record. entered: whether it holds a place.
        form, source, rollout, unit: as in PredictionRecord.
        failed: code of the version's error that a fallback hid, or "".
    """

    __slots__ = (
        "admitted",
        "arm",
        "at_us",
        "by",
        "code",
        "entered",
        "failed",
        "form",
        "headers",
        "id",
        "prediction_id",
        "rollout",
        "source",
        "started",
        "unit",
    )  # fmt: skip

    def __init__(self, headers: Mapping[bytes, bytes], ids: tuple[str, str], timeout_s: float) -> None:
        self.started = now = time.monotonic()
        self.deadline = now + timeout_s
        self.caller = ""
        self.done = self.running = self.admitted = self.entered = False
        self.headers = headers
        self.prediction_id, self.id = ids
        self.at_us = time.time_ns() // 1_000
        self.arm: Variant | None = None
        self.by: Variant | None = None
        self.code = "ok"
        self.form = "json"
        self.source = self.rollout = ""
        self.unit = 0
        self.failed = ""


Content = tuple[str, int, int, int, bytes, bytes]
"""What a record keeps of a request as it came and as it was answered: `input_format`, how many rows were read, `json_bytes` and
`output_json_bytes` as in PredictionRecord, the request's body, and the answer's as it was before it was compressed."""


class Pipeline:
    """One endpoint's way from rows to an outcome; `arm` is given where the request names the version.

    Attributes:
        timeout_s: of the endpoint's policy.
    """

    def __init__(self, endpoint: Endpoint, instruments: Instruments, arm: Variant | None = None) -> None:
        policy = endpoint.entry.policy
        self._endpoint = endpoint
        self._admission = endpoint.admission
        self._metrics = instruments.metrics
        self._recorder = instruments.recorder if policy.record else None
        self._log_fault = instruments.log_fault
        self._log_access = instruments.log_access
        self._refusal = instruments.refusal
        self._arm = arm
        # Who names the version is asked by nobody's draw. Bound here, so that requests without a rollout pay nothing for it.
        self.hand_on = self._submit if endpoint.trial is None or arm is not None else self._draw
        self.timeout_s = policy.timeout_ms / 1_000
        self._kinds: dict[tuple[str, int, str, int, str, str, str, str, str], RecordKind] = {}

    def let_in(self, call: Prediction) -> None:
        """Find out who asks, and whether anybody new can be let in.

        Raises:
            RoadworthyError: the caller may not ask this endpoint, or nobody can now.
        """
        call.caller = self._admission.identify(call.headers)
        call.admitted = True
        refusal = self._refusal()
        if refusal is not None:
            raise refusal

    def enter(self, call: Prediction) -> None:
        """Take a place.

        Raises:
            TooManyRequests: the endpoint or the caller has none left.
        """
        self._admission.enter(call)
        call.entered = True

    def _submit(self, call: Prediction, batch: Batch) -> None:
        """Choose a version, hold it, and hand the rows on."""
        arm = self._arm or self._endpoint.split.choose(call.prediction_id)
        arm.version.leases.take()
        call.arm = arm
        arm.metrics.in_flight.add(1)
        arm.submit(batch, call)

    def _draw(self, call: Prediction, batch: Batch) -> None:
        """As `_submit`, for an endpoint in a rollout."""
        trial = self._endpoint.trial
        if trial is None:
            raise ValueError("nothing to draw")
        arm, drawn = trial.draw(call, call.headers, call.prediction_id, batch)
        if drawn.eligible:
            call.rollout, call.unit = trial.id, drawn.unit or 0
        arm.version.leases.take()
        call.arm = arm
        arm.metrics.in_flight.add(1)
        arm.submit(batch, drawn)

    def seen(self, call: Prediction, error: Exception) -> Exception:
        """Write down what is not the caller's doing."""
        if isinstance(error, InputRefused):
            return error
        if isinstance(error, ModelFault) or not isinstance(error, RoadworthyError):
            self._log_fault(self._endpoint.entry.name, call, error)
        return error

    def close(self, call: Prediction, status: int, content: Content) -> None:
        """Give back what the request holds, count it and hand its record on."""
        protocol, rows, json_bytes, output_json_bytes, sent, answered = content
        arm = call.arm
        if arm is not None:
            arm.metrics.in_flight.add(-1)
            arm.version.leases.give_back()
        if call.entered:
            self._admission.leave(call)
        latency_s = time.monotonic() - call.started
        if arm is not None:
            arm.metrics.observe(call.failed or call.code, latency_s, rows)
        else:
            self._metrics.refused(self._endpoint.entry.name, call.code)
        if self._log_access is not None:
            self._log_access(self._endpoint.entry.name, call, status, latency_s)
        if self._recorder is None or not call.admitted:
            return
        self._recorder.append(
            self._kind(call, status, protocol),
            (
                call.prediction_id,
                call.at_us,
                call.id,
                int(latency_s * 1e6),
                rows,
                json_bytes,
                output_json_bytes,
                b"" if arm is None and len(sent) > _MOST_REFUSED_BYTES else sent,
                answered,
                call.unit,
            ),
        )

    def _kind(self, call: Prediction, status: int, protocol: str) -> RecordKind:
        """What the record has in common with others; one object for all of them, as far as that goes."""
        arm = call.by or call.arm
        model, number = ("", 0) if arm is None else (arm.model, arm.number)
        key = (model, number, call.caller, status, call.code, protocol, call.form, call.source, call.rollout)
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= _MOST_KINDS:
                self._kinds.clear()
            entry = self._endpoint.entry
            digest, runtime = ("", "") if arm is None else (arm.version.digest, arm.version.runtime)
            which = (entry.name, entry.generation, model, number, digest, runtime)
            how = (call.code, protocol, call.form, call.source, call.rollout)
            kind = self._kinds[key] = RecordKind(*which, call.caller, status, *how)
        return kind
