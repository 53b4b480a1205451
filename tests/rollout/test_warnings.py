"""Warnings of a start: the cache is off, or traffic is thin for what the plan asks for."""

from __future__ import annotations

import pytest

from roadworthy.rollout.plan.parse import read_plan
from roadworthy.rollout.plan.warnings import plan_warnings

DEFAULT = read_plan("strategy: canary")
"""5, 25, 50, 100 %, ten minutes and 100 requests each."""


def codes(plan: str, per_s: float | None, *, cached: bool = False) -> list[str]:
    """Codes of all warnings."""
    return [each.code for each in plan_warnings(read_plan(plan), cached=cached, requests_per_s=per_s)]


def test_a_cache_is_told_whatever_the_traffic() -> None:
    """The cache is off meanwhile; without a cache there is no warning."""
    assert codes("strategy: canary", 100.0, cached=True) == ["cache-is-off"]
    assert codes("strategy: canary", None, cached=True) == ["cache-is-off"]
    assert codes("strategy: canary", 100.0) == []


def test_a_plan_that_is_unlikely_to_be_decided_is_told_with_the_time_that_it_takes() -> None:
    """307 requests of 5 % at one a minute are 6,140 minutes, by the bound of slow ones; the others 1,228, 614 and 307."""
    (found,) = plan_warnings(DEFAULT, cached=False, requests_per_s=1 / 60)
    assert found.code == "unlikely-to-be-decided"
    assert found.text == (
        "at the past hour's rate (1 a minute) the evidence that the steps need takes about 5.76 days, while their own time is "
        "40 min, so a decision in time is unlikely; at the deadline, after 24 h, it rolls back as inconclusive"
    )
    (seldom,) = plan_warnings(DEFAULT, cached=False, requests_per_s=1 / 1_200)
    assert seldom.text.startswith("at the past hour's rate (3 an hour)")


def test_what_can_never_be_shown_is_told_whatever_the_traffic() -> None:
    """5 % of the runs of an equal version are slow by definition, so a lower limit is never kept; below 100 % the comparison may
    pass the step, at 100 % nothing can."""
    plan = "strategy: canary\ncriteria: {slow: {limit: 0.04}}\nat_deadline: hold"
    for per_s in (100.0, None):
        (found,) = plan_warnings(read_plan(plan), cached=False, requests_per_s=per_s)
        assert found.code == "unlikely-to-be-decided"
        assert found.text == (
            "slow must be shown to be below 0.04 at 100 %, but a good version has about 0.05: the rollout waits until a person"
            " decides; at the deadline, after 24 h, it holds as inconclusive"
        )


def test_the_comparison_is_counted_on_where_it_is_sooner() -> None:
    """Where at most 2 % of requests may be slow, the comparison shows an equal version to be no worse, before 100 %."""
    plan = "strategy: ab\nshare: 20\ncriteria: {slow: {limit: 0.051}}\ndeadline: 1d"
    assert codes(plan, 10.0) == []
    assert codes("strategy: blue-green\ncriteria: {slow: {limit: 0.051}}\ndeadline: 1d", 1.0) == ["unlikely-to-be-decided"]


@pytest.mark.parametrize(
    ("plan", "per_s", "told"),
    [
        ("strategy: canary", 10.3, []),  # 307 of 5 % in the ten minutes that the step takes anyway
        ("strategy: canary\ndeadline: 30d", 1 / 60, ["thin-traffic"]),
        ("strategy: canary\nevidence: 0", 1 / 60, []),
        ("strategy: canary\ncriteria: [feedback]", 1 / 60, []),  # known days later, so no step waits for it
        ("strategy: canary\nhold: 0\nevidence: 10", 15.0, []),  # minutes, although the steps ask for no time at all
        ("strategy: all-at-once", 0.0, []),
        (
            "strategy: shadow\ncriteria: [disagreement]",
            1 / 360,
            ["unlikely-to-be-decided"],
        ),  # 449 that agree take two days
        ("strategy: shadow\ncriteria: [disagreement]\ndeadline: 3d", 1 / 360, ["thin-traffic"]),
        ("strategy: canary", 0.0, ["no-traffic"]),
        ("strategy: canary", None, []),
    ],
)
def test_only_what_a_plan_waits_for_counts(plan: str, per_s: float | None, told: list[str]) -> None:
    """And only when it is unusual."""
    assert codes(plan, per_s) == told


def test_what_the_deadline_will_do_is_told() -> None:
    """It rolls back or holds, as the plan says; without a deadline there is nothing to add."""
    (none,) = plan_warnings(DEFAULT, cached=False, requests_per_s=0.0)
    assert none.text.endswith("at the deadline, after 24 h, it rolls back as inconclusive")
    (holds,) = plan_warnings(read_plan("strategy: canary\nat_deadline: hold"), cached=False, requests_per_s=0.0)
    assert holds.text.endswith("it holds as inconclusive")
    (endless,) = plan_warnings(read_plan("strategy: ab"), cached=False, requests_per_s=0.0)
    assert "deadline" not in endless.text
