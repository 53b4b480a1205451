"""Builds the controller's observation of a rollout from the last reports of live gateways."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from roadworthy.contract.telemetry import RUN_TIME_BOUNDS_US, WorkerReport
from roadworthy.monitoring.gateways import Gateway, workers_of
from roadworthy.rollout.decide.alerts import Look, Machine, signal_alerts
from roadworthy.rollout.decide.state import FAILED, LOADING, PREPARING, READY, Moment, Observation
from roadworthy.rollout.decide.switch import Refuse, Switch, Wait, decide
from roadworthy.rollout.endpoints import Endpoint
from roadworthy.rollout.evidence.counts import Evidence
from roadworthy.rollout.facts import of_signal
from roadworthy.rollout.plan.counting import uncounted
from roadworthy.rollout.rollouts import Rollout

FRESH_US = 5_000_000
"""Telemetry is stale when a live gateway has been silent for longer than this."""
LEAST_RUNS = 100
"""A percentile of fewer runs is not reliable."""
LEAST_SLOW_MS = 1.0
"""Lower bound of what counts as slow. A run of microseconds takes twice as long where requests are rare, because caches are cold.
No caller notices, and the new version is the one with fewer requests."""
_SLOW = 0.95


def observe(
    rollout: Rollout,
    endpoint: Endpoint,
    found: Sequence[Gateway],
    evidence: Evidence | None,
    *,
    epoch: str,
    moment: Moment,
    now_us: int,
) -> Observation:
    """Observe a rollout once.

    Args:
        rollout: with the endpoint's generation noted.
        found: live gateways.
        evidence: everything counted for the rollout; None for a person's command, which must work whatever signals do.
        epoch: the store's; a report from another epoch is outdated.
        moment: the controller's monotonic clock now.
        now_us: microseconds since 1970 UTC.
    """
    workers = workers_of(found)
    canary = canary_of(rollout, workers, epoch)
    stable = decide(rollout.stable_digest, workers)
    states = [state for worker in workers for state in worker.versions if state.digest == rollout.canary_digest]
    machines = [_machine(rollout, gateway) for gateway in found]
    return Observation(
        moment=moment,
        generation=endpoint.generation,
        applied=min((_applied(rollout, worker, epoch) for worker in workers), default=0),
        refusing=tuple(gateway.id for gateway in found if any(rollout.endpoint in worker.refused for worker in gateway.workers)),
        canary=FAILED if _between_attempts(rollout) else _STATES.get(type(canary), LOADING),
        stable=_STATES.get(type(stable), LOADING),
        code=getattr(canary, "code", ""),
        reason=rollout.state.why if _between_attempts(rollout) else getattr(canary, "reason", ""),
        fresh=bool(found) and all(now_us - gateway.seen_at_us <= FRESH_US for gateway in found),
        breaker_open=any(state.breaker_open for state in states),
        uncounted=()
        if evidence is None
        else tuple(of_signal(*found) for found in uncounted(rollout.plan, workers, evidence.failed)),
        alerts=() if evidence is None else signal_alerts(Look(rollout.plan, rollout.state, evidence, machines)),
    )


def _machine(rollout: Rollout, gateway: Gateway) -> Machine:
    """Memory of both versions' runner processes on one machine. All workers of a machine report the same."""
    states = {state.digest: state for worker in gateway.workers for state in worker.versions}
    canary, stable = states.get(rollout.canary_digest), states.get(rollout.stable_digest)
    return Machine(
        gateway.id,
        0 if canary is None else canary.processes,
        None if canary is None else canary.memory_bytes,
        None if stable is None else stable.memory_bytes,
    )


def slow_ms(digest: str, found: Iterable[Gateway]) -> float | None:
    """The time from which a run counts as slow compared with this version, in milliseconds: the 95th percentile of its run times
    on these gateways since they started, and at least LEAST_SLOW_MS. None while fewer than LEAST_RUNS are known."""
    counts = [0] * (len(RUN_TIME_BOUNDS_US) + 1)
    for gateway in found:
        for times in gateway.run_times:
            if times.digest == digest and len(times.counts) == len(counts):
                counts = [one + other for one, other in zip(counts, times.counts, strict=True)]
    whole, seen = sum(counts), 0
    if whole < LEAST_RUNS:
        return None
    for bound_us, count in zip(RUN_TIME_BOUNDS_US, counts, strict=False):
        seen += count
        if seen >= _SLOW * whole:
            return max(bound_us / 1e3, LEAST_SLOW_MS)
    return RUN_TIME_BOUNDS_US[-1] / 1e3


_STATES: dict[type, str] = {Switch: READY, Refuse: FAILED}


def _between_attempts(rollout: Rollout) -> bool:
    """Whether gateways do not hold the canary until the next attempt to load it."""
    return rollout.state.phase == PREPARING and rollout.state.retry_s is not None


def canary_of(rollout: Rollout, workers: Sequence[WorkerReport], epoch: str) -> Switch | Refuse | Wait:
    """Whether the canary may take traffic. Reports of workers that have not received the revision that asks for it are
    outdated."""
    return decide_since(rollout.canary_digest, workers, epoch, rollout.asked_revision)


def decide_since(digest: str, workers: Sequence[WorkerReport], epoch: str, revision: int = 0) -> Switch | Refuse | Wait:
    """Decide about a package as if workers that have not received this revision of this epoch had not reported on it."""
    speaking = [
        worker if worker.epoch == epoch and worker.offered >= revision else msgspec.structs.replace(worker, versions=())
        for worker in workers
    ]
    return decide(digest, speaking)


def _applied(rollout: Rollout, worker: WorkerReport, epoch: str) -> int:
    """The newest generation of the endpoint that a worker serves; 0 while it refuses the endpoint."""
    if worker.epoch != epoch or rollout.endpoint in worker.refused:
        return 0
    return max((generation for generation, revision in rollout.revisions if revision <= worker.revision), default=0)
