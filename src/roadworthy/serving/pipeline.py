"""The path of a prediction below the edge: choose a version and lease it, forward the rows, count and record the outcome. Reading
requests and writing answers is the edge's part (`gateway/http/predict.py` is one); this file knows neither.

There is no task and no await here. Each step calls the next, because at tens of thousands of requests a second, hops through the
event loop would cost more than the model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from roadworthy.contract.record import RecordKind, RecordRow
from roadworthy.foundation.errors import InputRefused, ModelFault, RoadworthyError
from roadworthy.runtime.pending import PendingRequest
from roadworthy.runtime.record import Recorder
from roadworthy.schema.batch import Batch
from roadworthy.serving.endpoint import Endpoint
from roadworthy.serving.streaming import StreamDeadlines
from roadworthy.serving.variant import Variant

_MOST_KINDS = 4_096
_MOST_REFUSED_BYTES = 64 << 10
"""A refused body is recorded only up to this length, so that large bodies that no version reads do not fill the records."""


class Identified(Protocol):
    """A request as the log names it."""

    id: str
    prediction_id: str


LogFault = Callable[[str, Identified, Exception], None]
"""Logs an exception that is not the caller's fault: endpoint, request, exception."""


@dataclass(frozen=True, slots=True)
class Instruments:
    """What counts, records and logs every prediction.

    Attributes:
        refused: counts a request that reached no version, by endpoint and code.
        log_access: writes a log line for each request; None logs none.
        refusal: the error for every new request at the moment, whatever the endpoint; None admits them.
    """

    refused: Callable[[str, str], None]
    recorder: Recorder
    log_fault: LogFault
    log_access: Callable[[str, Request, int, float], None] | None = None
    refusal: Callable[[], RoadworthyError | None] = lambda: None


class Request(PendingRequest):
    """One request in progress and its facts so far, whatever its edge. Its rows travel next to it, as a batch.

    Attributes:
        attributes: what its head says: names in lower case, such as the headers of HTTP.
        prediction_id: the gateway's own id. id: the caller's X-Request-Id, or the same.
        started: monotonic clock, seconds. at_us: wall clock, microseconds since 1970 UTC.
        variant: the chosen version. by: the fallback version that answered instead, or None.
        admitted: whether the caller may call this endpoint; a request that is not admitted is not recorded.
        entered: whether it holds a place; see `Admission`.
        form, source, rollout, unit: see `PredictionRecord`.
        failed: code of the version's error if a fallback hid it, else "".
    """

    __slots__ = (
        "admitted",
        "at_us",
        "attributes",
        "by",
        "code",
        "entered",
        "failed",
        "form",
        "id",
        "prediction_id",
        "rollout",
        "source",
        "started",
        "unit",
        "variant",
    )  # fmt: skip

    def __init__(self, attributes: Mapping[bytes, bytes], ids: tuple[str, str], timeout_s: float) -> None:
        self.started = now = time.monotonic()
        self.deadline = now + timeout_s
        self.caller = ""
        self.done = self.running = self.admitted = self.entered = False
        self.attributes = attributes
        self.prediction_id, self.id = ids
        self.at_us = time.time_ns() // 1_000
        self.variant: Variant | None = None
        self.by: Variant | None = None
        self.code = "ok"
        self.form = "json"
        self.source = self.rollout = ""
        self.unit = 0
        self.failed = ""


Content = tuple[str, int, int, int, bytes, bytes]
"""The parts of a record that the edge knows: `input_format`, the number of rows read, `json_bytes` and `output_json_bytes` as in
`PredictionRecord`, the request's body, and the answer's body before compression."""


class Pipeline:
    """One endpoint's path from rows to an outcome. `variant` is set where the request names the version.

    Attributes:
        enter: takes a place at the endpoint, or raises Unavailable "overloaded".
        forward: chooses a version, leases it, and submits the rows of a prediction.
        timeout_s: of the endpoint's policy; of an answer in parts until its first part.
        in_parts: whether the endpoint answers in parts.
    """

    def __init__(self, endpoint: Endpoint, instruments: Instruments, variant: Variant | None = None) -> None:
        policy = endpoint.entry.policy
        self._endpoint = endpoint
        self._admission = endpoint.admission
        self._identify, self.enter = endpoint.admission.identify, endpoint.admission.enter
        self._refused = instruments.refused
        self._recorder = instruments.recorder if policy.record else None
        self._log_fault = instruments.log_fault
        self._log_access = instruments.log_access
        self._refusal = instruments.refusal
        self._variant = variant or endpoint.split.only
        # A request that names its version is never assigned. Bound once, so that requests without a rollout pay nothing.
        self.forward = self._submit if endpoint.assignment is None or variant is not None else self._assign
        self._whole_s = self.timeout_s = policy.timeout_ms / 1_000
        self.in_parts = endpoint.signature.parts
        if self.in_parts and policy.stream.first_part_ms is not None:
            self.timeout_s = min(self._whole_s, policy.stream.first_part_ms / 1_000)
        self._between_s = math.inf if policy.stream.between_ms is None else policy.stream.between_ms / 1_000
        self._kinds: dict[tuple[str, int, str, int, str, str, str, str, str], RecordKind] = {}

    @property
    def name(self) -> str:
        """The endpoint's."""
        return self._endpoint.entry.name

    def admit(self, call: Request) -> None:
        """Identify the caller, and refuse the request if the worker admits no new ones.

        Raises:
            Unauthenticated, Forbidden: see `Admission.identify`.
            RoadworthyError: what `Instruments.refusal` returned.
        """
        call.caller = self._identify(call.attributes)
        call.admitted = True
        refusal = self._refusal()
        if refusal is not None:
            raise refusal

    def _submit(self, call: Request, batch: Batch) -> None:
        """Choose a version, lease it, and submit the rows."""
        variant = self._variant or self._endpoint.split.choose(call.prediction_id)
        variant.version.leases.take()
        call.variant = variant
        variant.metrics.in_flight.add(1)
        variant.submit(batch, call)

    def _assign(self, call: Request, batch: Batch) -> None:
        """The same as `_submit`, for an endpoint in a rollout."""
        assignment = self._endpoint.assignment
        if assignment is None:
            raise ValueError("the endpoint is in no rollout")
        variant, assigned = assignment.assign(call, call.attributes, call.prediction_id, batch)
        if assigned.eligible:
            call.rollout, call.unit = assignment.id, assigned.unit or 0
        variant.version.leases.take()
        call.variant = variant
        variant.metrics.in_flight.add(1)
        variant.submit(batch, assigned)

    def noted(self, call: Request, error: Exception) -> Exception:
        """The same error, logged if it is not the caller's fault."""
        if isinstance(error, InputRefused):
            return error
        if isinstance(error, ModelFault) or not isinstance(error, RoadworthyError):
            self._log_fault(self._endpoint.entry.name, call, error)
        return error

    def stream_deadlines(self, call: Request, own_s: float | None) -> StreamDeadlines:
        """The deadlines of an answer in parts. `own_s`: the caller's own timeout, seconds, or None."""
        own = own_s is not None and own_s < self._whole_s
        whole = call.started + (self._whole_s if own_s is None else min(own_s, self._whole_s))
        return StreamDeadlines(call.started, whole, own, self._between_s)

    def close(self, call: Request, status: int, content: Content, first_s: float | None = None) -> None:
        """Release what the request holds, count it, and append its record. `first_s`: when the first part of an answer in parts
        was sent, monotonic clock, seconds."""
        protocol, rows, json_bytes, output_json_bytes, sent, answered = content
        variant = call.variant
        if variant is not None:
            variant.metrics.in_flight.add(-1)
            variant.version.leases.give_back()
        if call.entered:
            self._admission.leave((call,))
        latency_s = time.monotonic() - call.started
        if variant is not None:
            variant.metrics.observe(call.failed or call.code, latency_s if first_s is None else first_s - call.started, rows)
        else:
            self._refused(self._endpoint.entry.name, call.code)
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
                b"" if variant is None and len(sent) > _MOST_REFUSED_BYTES else sent,
                answered,
                call.unit,
            ),
        )

    def close_run(self, variant: Variant, ended: Sequence[tuple[Request, bytes, bytes]], protocol: str) -> None:
        """The same as `close` for requests of a run to which the variant gave a row each: the request, its body, the answer."""
        now, calls, latencies_us = time.monotonic(), list[Request](), list[int]()
        records: dict[str, tuple[RecordKind, list[RecordRow]]] = {}
        for call, sent, answered in ended:
            latency_us = int((now - call.started) * 1e6)
            calls.append(call)
            latencies_us.append(latency_us)
            if call.caller not in records:
                records[call.caller] = self._kind(call, 200, protocol), []
            row = (call.prediction_id, call.at_us, call.id, latency_us, 1, -1, -1, sent, answered, call.unit)
            records[call.caller][1].append(row)
        variant.metrics.in_flight.add(-len(calls))
        variant.version.leases.give_back(len(calls))
        self._admission.leave(calls)
        variant.metrics.observe_run("ok", latencies_us, len(calls))
        if self._recorder is not None:
            for kind, rows in records.values():
                self._recorder.extend(kind, rows)

    def _kind(self, call: Request, status: int, protocol: str) -> RecordKind:
        """The part of the record that many requests have in common, as one object for all of them."""
        variant = call.by or call.variant
        model, number = ("", 0) if variant is None else (variant.model, variant.number)
        key = (model, number, call.caller, status, call.code, protocol, call.form, call.source, call.rollout)
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= _MOST_KINDS:
                self._kinds.clear()
            entry = self._endpoint.entry
            digest, runtime = ("", "") if variant is None else (variant.version.digest, variant.version.runtime)
            which = (entry.name, entry.generation, model, number, digest, runtime)
            how = (call.code, protocol, call.form, call.source, call.rollout)
            kind = self._kinds[key] = RecordKind(*which, call.caller, status, *how)
        return kind
