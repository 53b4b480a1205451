"""Reports of A/B tests: both variants, the difference, and what follows from it."""

from __future__ import annotations

import pytest

from roadworthy.contract.evidence import CANARY, STABLE, MetricCount, RolloutCounts
from roadworthy.rollout.decide.verdict import Segment
from roadworthy.rollout.evidence.counts import Evidence
from roadworthy.rollout.evidence.report import report
from roadworthy.rollout.plan.parse import read_plan

PLAN = read_plan("strategy: ab\nmetrics: {converted: , revenue: {high: 500}}")
SEGMENTS = (Segment(1, 0), Segment(2, 5_000), Segment(3, 5_000))


def evidence(*counts: tuple[int, str, str, int, float]) -> Evidence:
    """(generation, metric, variant, values, total)."""
    return Evidence().merged("a/1", RolloutCounts("r", metrics=tuple(MetricCount(*each) for each in counts)))


def test_a_difference_that_is_there_is_told() -> None:
    """Over both generations in which both variants had live requests; earlier counts do not belong to it."""
    found = evidence(
        (1, "converted", STABLE, 9_000, 9_000.0),
        (2, "converted", STABLE, 1_000, 100.0),
        (3, "converted", STABLE, 1_000, 100.0),
        (2, "converted", CANARY, 1_000, 200.0),
        (3, "converted", CANARY, 1_000, 200.0),
        (2, "revenue", STABLE, 100, 5_000.0),
        (2, "revenue", CANARY, 100, 5_100.0),
    )
    converted, revenue = report(PLAN, SEGMENTS, found)
    assert (converted.stable.values, converted.stable.mean) == (2_000, pytest.approx(0.1))
    assert (converted.canary.values, converted.canary.mean) == (2_000, pytest.approx(0.2))
    assert 0.0 < converted.low < 0.1 < converted.high
    assert converted.canary.low < 0.2 < converted.canary.high
    assert converted.text == "the new version's is higher"
    assert revenue.low < 1.0 < revenue.high
    assert revenue.text == "no difference is shown yet"


def test_no_values_are_no_evidence() -> None:
    """Not a difference of 0."""
    converted, revenue = report(PLAN, SEGMENTS, evidence((2, "converted", STABLE, 10, 10.0)))
    assert (converted.text, converted.canary.mean) == ("no evidence: one version has no values", None)
    assert (revenue.low, revenue.high) == (-500.0, 500.0)


def test_values_out_of_bounds_are_refused() -> None:
    """The interval would not hold."""
    with pytest.raises(ValueError, match="impossible sum"):
        report(PLAN, SEGMENTS, evidence((2, "converted", STABLE, 10, 11.0)))
