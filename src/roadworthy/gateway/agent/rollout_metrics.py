"""What `/metrics` says of the rollouts that the snapshot names. Called by `exposition.py`."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric

from roadworthy.contract.snapshot import Snapshot
from roadworthy.gateway.metrics import Totals


def rollout_counts(totals: Totals, snapshot: Snapshot) -> Iterator[Metric]:
    """Samples, bad ones, copies and what is no evidence, over all generations. Nothing where there is no rollout."""
    labels = ("endpoint", "rollout")
    samples = CounterMetricFamily("roadworthy_rollout_samples", "Eligible outcomes.", labels=(*labels, "signal", "arm"))
    bad = CounterMetricFamily("roadworthy_rollout_bad", "Bad ones of them.", labels=(*labels, "signal", "arm"))
    excluded = CounterMetricFamily(
        "roadworthy_rollout_excluded",
        "Requests and copies that are no evidence: shed, breaker, fallback, retried, cached.",
        labels=(*labels, "reason", "arm"),
    )
    pairs = CounterMetricFamily(
        "roadworthy_rollout_pairs",
        "Copied requests that both versions answered, by what came out: equal, canary or stable (that one alone was bad).",
        labels=(*labels, "signal", "result"),
    )
    entries = [(entry.name, entry.rollout.id) for entry in snapshot.endpoints if entry.rollout is not None]
    for endpoint, rollout in entries:
        sums: dict[tuple[CounterMetricFamily, str, str], int] = {}
        counts = totals.evidence.counts(rollout)
        for each in counts.arms:
            _add(sums, (samples, each.signal, each.arm), each.samples)
            _add(sums, (bad, each.signal, each.arm), each.bad)
        for left in counts.excluded:
            _add(sums, (excluded, left.reason, left.arm), left.count)
        for pair in counts.pairs:
            _add(sums, (pairs, pair.signal, "canary"), pair.canary_bad)
            _add(sums, (pairs, pair.signal, "stable"), pair.stable_bad)
            _add(sums, (pairs, pair.signal, "equal"), pair.pairs - pair.canary_bad - pair.stable_bad)
        for (family, first, second), count in sums.items():
            family.add_metric((endpoint, rollout, first, second), float(count))
    if entries:
        yield from (samples, bad, excluded, pairs)


def _add(
    sums: dict[tuple[CounterMetricFamily, str, str], int], key: tuple[CounterMetricFamily, str, str], count: int
) -> None:
    sums[key] = sums.get(key, 0) + count
