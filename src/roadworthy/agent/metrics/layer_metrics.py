"""The metrics of caches, breakers and fallbacks."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client.core import Metric

from roadworthy.agent.metrics.families import counter, gauge
from roadworthy.contract.snapshot import Snapshot
from roadworthy.contract.telemetry import CONNECTED, UNREACHABLE
from roadworthy.runtime.layers.breaker import OWNER, State, bucket_of, view_of
from roadworthy.serving.layers import owner_of
from roadworthy.serving.metrics import CACHE, FALLBACK, SHARED_CACHE, Totals

_SHARING = {True: CONNECTED, False: UNREACHABLE}


def layer_counts(totals: Totals) -> Iterator[Metric]:
    """How often caches and fallbacks answered, summed over all workers and their restarts."""
    for kind, name, text, labels in (
        (
            CACHE,
            "roadworthy_cache_requests",
            "Requests that came to a cache: hit, hit-shared, miss, collapsed (waited for an equal one), bypass.",
            ("endpoint", "result"),
        ),
        (
            FALLBACK,
            "roadworthy_fallbacks",
            "Requests whose version could not answer, by the fallback that answered (none: no answer) and the error code.",
            ("endpoint", "kind", "reason"),
        ),
        (
            SHARED_CACHE,
            "roadworthy_shared_cache_events",
            "Answers stored, dropped, not-shared or refused; unfit entries; lost connections to the server.",
            ("event",),
        ),
    ):
        counts = {tuple(of): count for (counted, *of), count in totals.counted.items() if counted == kind}
        yield counter(name, text, labels, counts)
    if totals.sharing:
        text = "Live workers, by whether the shared cache answers them."
        workers = {(state,): totals.sharing.get(answers, 0) for answers, state in _SHARING.items()}
        yield gauge("roadworthy_shared_cache_workers", text, ["state"], workers)


def breakers(totals: Totals, snapshot: Snapshot) -> Metric:
    """The states of the breakers of the snapshot's versions: 1 for the current state of each."""
    names = {entry.digest: f"{entry.model}:{entry.version}" for entry in snapshot.packages}
    found = {
        (endpoint, names.get(digest, ""), state.value): state is present
        for endpoint, digest, present in _states(totals, snapshot)
        for state in State
    }
    text = "1 for the current state of the breaker, 0 for the others."
    return gauge("roadworthy_breaker_state", text, ("endpoint", "version", "state"), found)


def not_closed(totals: Totals, snapshot: Snapshot) -> set[str]:
    """The digests of versions with a breaker that is open or half-open."""
    return {digest for _, digest, state in _states(totals, snapshot) if state is not State.CLOSED}


def _states(totals: Totals, snapshot: Snapshot) -> Iterator[tuple[str, str, State]]:
    """Endpoint, digest and state of each breaker."""
    now_ns = time.monotonic_ns()
    for endpoint in snapshot.endpoints:
        policy = endpoint.policy.breaker
        if policy is None:
            continue
        for number, variant in enumerate(endpoint.split):
            owner = owner_of(variant.digest, policy.window_s)
            runs = [run for run in totals.breakers.get((endpoint.name, number), ()) if run[0][OWNER] == owner]
            yield endpoint.name, variant.digest, view_of(runs, now_ns, bucket_of(policy.window_s)).state(now_ns)
