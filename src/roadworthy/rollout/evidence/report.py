"""What an A/B test has found so far: each metric in both arms, and the difference, with intervals that hold at every look. Pure.

The control plane shows it; nothing is decided by it. A person promotes or aborts.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from roadworthy.contract.evidence import CANARY, STABLE
from roadworthy.rollout.decide.verdict import Segment
from roadworthy.rollout.evidence.counts import Evidence
from roadworthy.rollout.plan.plan import Metric, Plan
from roadworthy.statistics.intervals import Interval, Sample, difference_sequence, mean_sequence

CONFIDENCE = 0.95


class VariantReport(msgspec.Struct, frozen=True):
    """One arm of one metric: how many values, their mean (None without any), and where the true one lies."""

    arm: str
    values: int
    mean: float | None
    low: float
    high: float


class MetricReport(msgspec.Struct, frozen=True):
    """One metric: both arms, and where mean(canary) - mean(stable) lies. `text` says what that allows to say."""

    metric: str
    stable: VariantReport
    canary: VariantReport
    low: float
    high: float
    text: str


def report(plan: Plan, segments: Iterable[Segment], evidence: Evidence) -> tuple[MetricReport, ...]:
    """Each of the plan's metrics, over all generations in which both arms had live requests.

    Each interval covers its truth at all looks at once with probability CONFIDENCE, as long as every value is one request's, or
    one user's in a sticky rollout: several values of one user are no more evidence than one.

    Raises:
        ValueError: values beyond a metric's bounds were counted.
    """
    generations = [each.generation for each in segments if each.weight > 0]
    return tuple(_metric(metric, generations, evidence) for metric in plan.metrics)


def _metric(metric: Metric, generations: list[int], evidence: Evidence) -> MetricReport:
    stable, canary = (Sample(*evidence.metric(metric.name, variant, generations)) for variant in (STABLE, CANARY))
    difference = difference_sequence(stable, canary, 1.0 - CONFIDENCE, metric.low, metric.high)
    return MetricReport(
        metric.name,
        _variant(STABLE, stable, metric),
        _variant(CANARY, canary, metric),
        difference.low,
        difference.high,
        _conclusion(difference, stable, canary),
    )


def _variant(name: str, sample: Sample, metric: Metric) -> VariantReport:
    interval = mean_sequence(sample, 1.0 - CONFIDENCE, metric.low, metric.high)
    mean = sample.total / sample.values if sample.values else None
    return VariantReport(name, sample.values, mean, interval.low, interval.high)


def _conclusion(difference: Interval, stable: Sample, canary: Sample) -> str:
    if not stable.values or not canary.values:
        return "no evidence: an arm has no values"
    if difference.low > 0.0:
        return "the new version's is higher"
    if difference.high < 0.0:
        return "the new version's is lower"
    return "no difference is shown yet"
