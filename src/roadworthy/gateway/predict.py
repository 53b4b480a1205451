"""The walk of a prediction, in order: the only file that knows it. `app.py` calls with each request to an endpoint's path."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from roadworthy.contract.record import PredictionRecord
from roadworthy.foundation.errors import ModelFault, RoadworthyError
from roadworthy.gateway.endpoints import Arm, Endpoint
from roadworthy.gateway.http import Receive, Reply, Request, check_body, read_body
from roadworthy.gateway.metrics import WorkerMetrics
from roadworthy.gateway.problems import as_error, problem
from roadworthy.gateway.protocols.protocol import BoundProtocol, Decoded
from roadworthy.runtime.batching import Context
from roadworthy.runtime.record import Recorder

LogFault = Callable[[str, Request, Exception], None]
"""Writes down an exception that is not the caller's doing: endpoint, request, exception."""


@dataclass(frozen=True, slots=True)
class Instruments:
    """What every prediction is counted, recorded and logged with."""

    metrics: WorkerMetrics
    recorder: Recorder
    log_fault: LogFault


class Call:
    """One request on its way, with what is known of it so far."""

    __slots__ = ("arm", "at_us", "body", "caller", "code", "decoded", "output_json_bytes", "request")

    def __init__(self, request: Request, caller: str) -> None:
        self.request = request
        self.caller = caller
        self.at_us = time.time_ns() // 1_000
        self.body = b""
        self.decoded: Decoded | None = None
        self.arm: Arm | None = None
        self.code = "ok"
        self.output_json_bytes = -1


class Predict:
    """One endpoint in one protocol; `arm` is given where the path names the version."""

    def __init__(
        self,
        endpoint: Endpoint,
        protocol: BoundProtocol,
        instruments: Instruments,
        arm: Arm | None = None,
    ) -> None:
        policy = endpoint.entry.policy
        self._endpoint = endpoint
        self._admission = endpoint.admission
        self._protocol = protocol
        self._metrics = instruments.metrics
        self._recorder = instruments.recorder if policy.record else None
        self._log_fault = instruments.log_fault
        self._arm = arm
        self._max_body_bytes = policy.max_body_bytes
        self._timeout_s = policy.timeout_ms / 1_000

    async def __call__(self, request: Request, receive: Receive) -> Reply:
        """Answer one request; every error becomes a reply here, so that it is counted, and recorded once it was admitted."""
        admission = self._admission
        try:
            caller = admission.identify(request.headers)
            admission.enter()
        except RoadworthyError as error:
            self._metrics.refused(self._endpoint.entry.name, error.code)
            return problem(error, request.id)
        call = Call(request, caller)
        try:
            reply = await self._answer(call, receive)
        except Exception as error:  # noqa: BLE001 - the border of a prediction: any fault is this request's and nobody else's
            reply = self._refuse(call, error)
        finally:
            admission.leave()
        reply.headers.append((b"roadworthy-prediction-id", request.prediction_id.encode()))
        self._note(call, reply)
        return reply

    async def _answer(self, call: Call, receive: Receive) -> Reply:
        request, protocol = call.request, self._protocol
        deadline = request.started + self._timeout_s
        protocol.check_headers(request.headers)
        check_body(request.headers, self._max_body_bytes)
        call.body = await read_body(request, receive, self._max_body_bytes, deadline)
        call.decoded = decoded = protocol.decode(request.headers, call.body)
        arm = self._arm or self._endpoint.split.choose(request.prediction_id)
        arm.version.leases.take()
        call.arm = arm
        arm.metrics.in_flight.add(1)
        try:
            answer = await arm.version.batcher.submit(decoded.batch, Context(deadline))
            encoded = protocol.encode(answer, decoded, arm.number)
        finally:
            arm.metrics.in_flight.add(-1)
            arm.version.leases.give_back()
        call.output_json_bytes = encoded.json_bytes
        reply = Reply(200, encoded.body, [*encoded.headers, *arm.headers])
        if decoded.ignored:
            reply.headers.append((b"roadworthy-ignored-columns", b"%d" % decoded.ignored))
        return reply

    def _refuse(self, call: Call, error: Exception) -> Reply:
        if isinstance(error, ModelFault) or not isinstance(error, RoadworthyError):
            self._log_fault(self._endpoint.entry.name, call.request, error)
        shown = as_error(error)
        call.code = shown.code
        reply = problem(shown, call.request.id)
        if call.arm is not None:
            reply.headers.extend(call.arm.headers)
        return reply

    def _note(self, call: Call, reply: Reply) -> None:
        """Count the request and hand its record on."""
        latency_s = time.monotonic() - call.request.started
        arm, decoded, entry = call.arm, call.decoded, self._endpoint.entry
        rows = 0 if decoded is None else decoded.batch.rows
        if arm is not None:
            arm.metrics.observe(call.code, latency_s, rows)
        else:
            self._metrics.refused(entry.name, call.code)
        if self._recorder is None:
            return
        self._recorder.append(
            PredictionRecord(
                id=call.request.prediction_id,
                at_us=call.at_us,
                endpoint=entry.name,
                generation=entry.generation,
                model="" if arm is None else arm.model,
                version=0 if arm is None else arm.number,
                digest="" if arm is None else arm.version.digest,
                runtime="" if arm is None else arm.version.runtime,
                caller=call.caller,
                request_id=call.request.id,
                status=reply.status,
                code=call.code,
                latency_us=int(latency_s * 1e6),
                rows=rows,
                input_format=self._protocol.name,
                json_bytes=-1 if decoded is None else decoded.json_bytes,
                inputs=call.body,
                outputs=reply.body,
                output_json_bytes=call.output_json_bytes,
            )
        )
