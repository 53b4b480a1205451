"""Golden probes check that every version in service still answers, and as it did in training. On a schedule, each worker sends
golden examples along a caller's path: read, batched, run, written. The answer is compared and timed.

A probe has one row. It waits a moment for an idle version, counts as no request, and is not recorded. Two failures in a row make
a version unhealthy; one success makes it healthy again. `reload.py` passes the results to the readiness probe and to the agent.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from roadworthy.foundation.errors import DeadlineExceeded, ModelFault, RoadworthyError
from roadworthy.runtime.collected import Collected
from roadworthy.runtime.manager import Version
from roadworthy.runtime.parts import Parts
from roadworthy.runtime.pending import Answer, Outcome, PendingRequest
from roadworthy.serving.endpoint import Endpoint
from roadworthy.serving.health.golden import CodecOf, Example, Examples, ProbeCodec, read_examples

OK, SLOW, BUSY, UNKNOWN = "ok", "slow", "busy", "unknown"
NOT_ANSWERING, WRONG_ANSWERS = "not-answering", "wrong-answers"
FAILURES = (NOT_ANSWERING, WRONG_ANSWERS)

TIMEOUT_S = 10.0
"""How long one example may take, unless an endpoint of the version has a longer timeout."""
AGAIN_S = 5.0
"""After a failure, the next probe follows within this time."""
IN_A_ROW = 2
_IDLE_WAIT_S, _LOOK_AGAIN_S = 1.0, 0.01
_MOST_ROWS = 100_000
_SLOW_TIMES, _SLOW_S, _FIRST_FEW = 10.0, 1.0, 3

_log = structlog.get_logger("worker")

CountProbe = Callable[[str, str, float], None]
"""Counts a probe: version label, result, seconds."""


@dataclass(slots=True)
class Health:
    """The results of one version's probes.

    Attributes:
        result: of the last probe: OK, SLOW, BUSY (it took longer than allowed while other requests ran), UNKNOWN, or one of
            FAILURES.
        fault: NOT_ANSWERING, WRONG_ANSWERS or SLOW once it came IN_A_ROW times, else None.
        in_a_row: how often `result` has come in a row.
        seconds: how long the last example took. usual_s: the median of the first ones.
        checked: time of the last probe, monotonic clock, seconds. reason: of a failure, in words, for the operator.
    """

    result: str = UNKNOWN
    fault: str | None = None
    in_a_row: int = 0
    seconds: float = 0.0
    usual_s: float | None = None
    checked: float | None = None
    reason: str | None = None
    _first: list[float] = field(default_factory=list)

    def take(self, result: str, seconds: float, reason: str | None = None) -> None:
        """Record the result of one probe."""
        if result == OK and self.usual_s is not None and seconds > max(_SLOW_S, _SLOW_TIMES * self.usual_s):
            result, reason = SLOW, f"it took {seconds:.2f} s; {self.usual_s:.3f} s is usual"
        self.in_a_row = self.in_a_row + 1 if result == self.result else 1
        self.result, self.seconds, self.reason, self.checked = result, seconds, reason, time.monotonic()
        if result in (OK, BUSY):
            self.fault = None
        elif result != UNKNOWN and self.in_a_row >= IN_A_ROW:
            self.fault = result
        if result == OK and self.usual_s is None:
            self._first.append(seconds)
            if len(self._first) == _FIRST_FEW:
                self.usual_s = statistics.median(self._first)


@dataclass(frozen=True, slots=True)
class Subject:
    """A version to probe. `label` is "model:3"; `timeout_s` is how long one example may take."""

    version: Version
    label: str
    number: int
    timeout_s: float = TIMEOUT_S


class GoldenProbes:
    """Probes the served versions on a schedule. Event loop only.

    Args:
        folder: the gateway's; packages are read below it, each once, in a thread.
        endpoints: returns the endpoints in service.
        every_s: the mean pause between two probes of a version; None disables them.
        count: counts each probe.
        changed: called when a version becomes unhealthy or healthy.
        codec_of: makes the codec that reads examples and writes their answers as the edge does for callers.
    """

    def __init__(
        self,
        folder: Path,
        endpoints: Callable[[], Mapping[str, Endpoint]],
        every_s: float | None,
        count: CountProbe,
        changed: Callable[[], None],
        codec_of: CodecOf,
    ) -> None:
        self._folder = folder
        self._endpoints = endpoints
        self._every_s = every_s
        self._count = count
        self._changed = changed
        self._codec_of = codec_of
        self._examples: dict[str, Examples | None] = {}
        self._found: dict[str, Health] = {}

    def health(self, digest: str) -> Health | None:
        """The health of a version; None before its first probe."""
        return self._found.get(digest)

    def faults(self) -> Mapping[str, str]:
        """By digest, NOT_ANSWERING, WRONG_ANSWERS or SLOW of the versions of which that is known."""
        return {digest: health.fault for digest, health in self._found.items() if health.fault is not None}

    async def run(self) -> None:
        """Probe at intervals, until cancelled."""
        if self._every_s is None:
            return
        while True:
            await asyncio.sleep(self._pause_s(self._every_s))
            await self.probe_all()

    def _pause_s(self, every_s: float) -> float:
        uncertain = any(health.result in FAILURES and health.fault is None for health in self._found.values())
        return (min(every_s, AGAIN_S) if uncertain else every_s) * random.uniform(0.8, 1.2)  # noqa: S311 - spreads probes

    async def probe_all(self) -> None:
        """Probe every version once, all at the same time."""
        subjects = _subjects(self._endpoints())
        for digest in [digest for digest in self._found if digest not in subjects]:
            del self._found[digest]
            self._examples.pop(digest, None)
        before = self.faults()
        await asyncio.gather(*(self._probe(subject) for subject in subjects.values()))
        if self.faults() != before:
            self._changed()

    async def _probe(self, subject: Subject) -> None:
        version = subject.version
        if version.digest not in self._examples:
            self._examples[version.digest] = await self._read(version)
        examples = self._examples[version.digest]
        health = self._found.setdefault(version.digest, Health())
        if examples is None:
            health.take(UNKNOWN, 0.0, "cannot read its golden examples")
        else:
            health.take(*await self._send_next(subject, examples))
        self._count(subject.label, health.result, health.seconds)
        if health.result in FAILURES:
            _log.warning("golden-probe-failed", digest=version.digest, result=health.result, reason=health.reason)

    async def _read(self, version: Version) -> Examples | None:
        try:
            return await asyncio.to_thread(read_examples, self._folder, version.digest, self._codec_of)
        except (RoadworthyError, OSError, ValueError) as error:
            _log.warning("no-golden-examples", digest=version.digest, reason=str(error))
            return None

    async def _send_next(self, subject: Subject, examples: Examples) -> tuple[str, float, str | None]:
        """Send the next example; returns the result, seconds, and the reason of a failure."""
        version, example = subject.version, examples.next()
        await _wait_until_idle(version)
        begun = time.monotonic()
        request = _AwaitedRequest(begun + subject.timeout_s)
        try:
            version.leases.take()
        except RoadworthyError:
            return UNKNOWN, 0.0, "the version is being unloaded"
        try:
            outcome = await _send(version, examples.codec, example, request)
            seconds = time.monotonic() - begun
            if isinstance(outcome, Answer):
                difference = example.difference(outcome)
                if difference is None:
                    examples.codec.write(outcome, subject.number)  # raises when the answer has no exact form
                    return OK, seconds, None
                return WRONG_ANSWERS, seconds, difference
        except Exception as error:  # noqa: BLE001 - any exception on the version's path is a finding of the probe
            outcome = error if isinstance(error, RoadworthyError) else ModelFault(f"{type(error).__name__}: {error}")
            seconds = time.monotonic() - begun
        finally:
            version.leases.give_back()
        if isinstance(outcome, ModelFault):
            return WRONG_ANSWERS, seconds, outcome.message
        return BUSY if _runs_others(subject, request) else NOT_ANSWERING, seconds, outcome.message


def _runs_others(subject: Subject, request: _AwaitedRequest) -> bool:
    """Whether the version runs other requests while the probe waits or was refused: it is overloaded, which is no fault of the
    version. A run that has lasted longer than the timeout counts as stuck."""
    busy_since = subject.version.batcher.busy_since
    return not request.running and busy_since is not None and time.monotonic() - busy_since < subject.timeout_s


def _subjects(endpoints: Mapping[str, Endpoint]) -> dict[str, Subject]:
    """The versions to probe by digest; a version of several endpoints gets the longest of their timeouts."""
    found: dict[str, Subject] = {}
    for endpoint in endpoints.values():
        for variant in endpoint.split.variants:
            before = found.get(variant.version.digest)
            timeout_s = max(TIMEOUT_S if before is None else before.timeout_s, endpoint.entry.policy.timeout_ms / 1e3)
            found[variant.version.digest] = Subject(
                variant.version, f"{variant.model}:{variant.number}", variant.number, timeout_s
            )
    return found


async def _wait_until_idle(version: Version) -> None:
    """Wait until the version is idle, for at most _IDLE_WAIT_S."""
    until = time.monotonic() + _IDLE_WAIT_S
    while (version.batcher.waiting or version.batcher.busy_since is not None) and time.monotonic() < until:  # noqa: ASYNC110 - requests must not pay for an event
        await asyncio.sleep(_LOOK_AGAIN_S)


class _AwaitedRequest(PendingRequest):
    """A pending request whose outcome can be awaited."""

    __slots__ = ("_rest", "answered")

    def __init__(self, deadline: float) -> None:
        super().__init__(deadline)
        self._rest: Parts | None = None
        self.answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def settled(self, outcome: Outcome) -> None:
        if isinstance(outcome, Answer) and outcome.rest is not None:
            self._rest = outcome.rest
            collected = Collected(self._set, _MOST_ROWS)
            collected.start(outcome)
            collected.emit([outcome.batch()])
            outcome.rest.flow(collected)
        else:
            self._set(outcome)

    def drop(self) -> None:
        super().drop()
        if self._rest is not None:
            self._rest.stop()

    def _set(self, outcome: Outcome) -> None:
        if not self.answered.done():
            self.answered.set_result(outcome)


async def _send(version: Version, codec: ProbeCodec, example: Example, request: _AwaitedRequest) -> Outcome:
    batch = example.inputs if example.body is None else codec.read(example.body)
    version.batcher.submit(batch, request)
    try:
        async with asyncio.timeout(request.deadline - time.monotonic() + 1.0):  # a healthy batcher settles it at the deadline
            return await request.answered
    except TimeoutError:
        return DeadlineExceeded("the probe was not settled at its deadline")
    finally:
        request.drop()
