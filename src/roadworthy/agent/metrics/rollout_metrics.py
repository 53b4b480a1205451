"""The metrics of the rollouts in the snapshot."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric

from roadworthy.contract.snapshot import Snapshot
from roadworthy.serving.metrics import Totals

Sums = dict[tuple[str, str, str], int]
"""Counts by family and the two labels after the rollout."""


def rollout_counts(totals: Totals, snapshot: Snapshot) -> Iterator[Metric]:
    """Samples, bad outcomes, mirrored requests and excluded requests, over all generations. Empty without a rollout."""
    labels = ("endpoint", "rollout")
    samples = CounterMetricFamily("roadworthy_rollout_samples", "Eligible outcomes.", labels=(*labels, "signal", "variant"))
    bad = CounterMetricFamily("roadworthy_rollout_bad", "Bad outcomes among them.", labels=(*labels, "signal", "variant"))
    excluded = CounterMetricFamily(
        "roadworthy_rollout_excluded",
        "Requests and mirrored requests that do not count as evidence: shed, breaker, fallback, retried, cached.",
        labels=(*labels, "reason", "variant"),
    )
    pairs = CounterMetricFamily(
        "roadworthy_rollout_pairs",
        "Mirrored requests that both versions answered, by result: equal, canary or stable (only that version was bad).",
        labels=(*labels, "signal", "result"),
    )
    families = {family.name: family for family in (samples, bad, excluded, pairs)}
    entries = [(entry.name, entry.rollout.id) for entry in snapshot.endpoints if entry.rollout is not None]
    for endpoint, rollout in entries:
        sums: Sums = {}
        counts = totals.evidence.counts(rollout)
        for each in counts.variants:
            _add(sums, (samples.name, each.signal, each.variant), each.samples)
            _add(sums, (bad.name, each.signal, each.variant), each.bad)
        for left in counts.excluded:
            _add(sums, (excluded.name, left.reason, left.variant), left.count)
        for pair in counts.pairs:
            _add(sums, (pairs.name, pair.signal, "canary"), pair.canary_bad)
            _add(sums, (pairs.name, pair.signal, "stable"), pair.stable_bad)
            _add(sums, (pairs.name, pair.signal, "equal"), pair.pairs - pair.canary_bad - pair.stable_bad)
        for (name, first, second), count in sums.items():
            families[name].add_metric((endpoint, rollout, first, second), float(count))
    if entries:
        yield from families.values()


def _add(sums: Sums, key: tuple[str, str, str], count: int) -> None:
    sums[key] = sums.get(key, 0) + count
