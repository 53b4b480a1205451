"""The report of an A/B test: each metric for both versions, and the difference, with intervals that hold at every look. Pure.

The control plane shows the report; no decision rests on it. A person promotes or aborts.
"""

from __future__ import annotations

from collections.abc import Iterable

from roadworthy.contract.api.rollouts import MetricReport, VariantReport
from roadworthy.contract.evidence import CANARY, STABLE
from roadworthy.rollout.decide.verdict import Segment
from roadworthy.rollout.evidence.counts import Evidence
from roadworthy.rollout.plan.plan import Metric, Plan
from roadworthy.statistics.intervals import Interval, Sample, difference_sequence, mean_sequence

CONFIDENCE = 0.95


def report(plan: Plan, segments: Iterable[Segment], evidence: Evidence) -> list[MetricReport]:
    """Each of the plan's metrics, over all generations in which both versions had live requests.

    Each interval covers the truth at all looks together with probability CONFIDENCE, provided that every value is of another
    request, or of another user in a sticky rollout: several values of one user count as one piece of evidence.

    Raises:
        ValueError: values outside a metric's bounds were counted.
    """
    generations = [each.generation for each in segments if each.weight > 0]
    return [_metric(metric, generations, evidence) for metric in plan.metrics]


def _metric(metric: Metric, generations: list[int], evidence: Evidence) -> MetricReport:
    stable, canary = (Sample(*evidence.metric(metric.name, variant, generations)) for variant in (STABLE, CANARY))
    difference = difference_sequence(stable, canary, 1.0 - CONFIDENCE, metric.low, metric.high)
    return MetricReport(
        metric=metric.name,
        stable=_variant(STABLE, stable, metric),
        canary=_variant(CANARY, canary, metric),
        low=difference.low,
        high=difference.high,
        text=_conclusion(difference, stable, canary),
    )


def _variant(name: str, sample: Sample, metric: Metric) -> VariantReport:
    interval = mean_sequence(sample, 1.0 - CONFIDENCE, metric.low, metric.high)
    mean = sample.total / sample.values if sample.values else None
    return VariantReport(variant=name, values=sample.values, mean=mean, low=interval.low, high=interval.high)


def _conclusion(difference: Interval, stable: Sample, canary: Sample) -> str:
    if not stable.values or not canary.values:
        return "no evidence: one version has no values"
    if difference.low > 0.0:
        return "the new version's is higher"
    if difference.high < 0.0:
        return "the new version's is lower"
    return "no difference is shown yet"
