"""What a start tells although it goes on: the cache that is off, traffic that is thin against what the plan asks for."""

from __future__ import annotations

import pytest

from roadworthy.rollout.cautions import cautions
from roadworthy.rollout.reading import read_plan

DEFAULT = read_plan("strategy: canary")
"""5, 25, 50, 100 %, ten minutes and 100 requests each."""


def codes(plan: str, per_s: float | None, *, cached: bool = False) -> list[str]:
    """Of all cautions."""
    return [each.code for each in cautions(read_plan(plan), cached=cached, requests_per_s=per_s)]


def test_a_cache_is_told_whatever_the_traffic() -> None:
    """It answers nothing meanwhile; without one there is nothing to say."""
    assert codes("strategy: canary", 100.0, cached=True) == ["cache-is-off"]
    assert codes("strategy: canary", None, cached=True) == ["cache-is-off"]
    assert codes("strategy: canary", 100.0) == []


def test_thin_traffic_is_told_with_the_time_that_it_takes() -> None:
    """100 requests of 5 % at one a minute are 2,000 minutes; the other steps are 400, 200 and 100."""
    (found,) = cautions(DEFAULT, cached=False, requests_per_s=1 / 60)
    assert found.code == "thin-traffic"
    assert found.text == (
        "at the past hour's rate (1 a minute) the evidence that the steps ask for takes about 45 h, where their own time is "
        "40 min; at the deadline, after 24 h, it goes back"
    )
    (seldom,) = cautions(DEFAULT, cached=False, requests_per_s=1 / 1_200)
    assert seldom.text.startswith("at the past hour's rate (3 an hour)")


@pytest.mark.parametrize(
    ("plan", "per_s", "told"),
    [
        ("strategy: canary", 3.3, []),  # 100 of 5 % in the ten minutes that the step takes anyway
        ("strategy: canary\ndeadline: 30d", 1 / 60, ["thin-traffic"]),
        ("strategy: canary\nevidence: 0", 1 / 60, []),
        ("strategy: canary\nguards: [feedback]", 1 / 60, []),  # known days later, so no step waits for it
        ("strategy: canary\nhold: 0\nevidence: 10", 1.0, []),  # minutes, although the steps ask for no time at all
        ("strategy: all-at-once", 0.0, []),
        ("strategy: shadow\nguards: [disagreement]", 1 / 3600, ["thin-traffic"]),
        ("strategy: canary", 0.0, ["no-traffic"]),
        ("strategy: canary", None, []),
    ],
)
def test_only_what_a_plan_waits_for_counts(plan: str, per_s: float | None, told: list[str]) -> None:
    """And only when it is a surprise."""
    assert codes(plan, per_s) == told


def test_what_the_deadline_will_do_is_told() -> None:
    """It goes back or holds, as the plan says; without one there is nothing to add."""
    (none,) = cautions(DEFAULT, cached=False, requests_per_s=0.0)
    assert none.text.endswith("at the deadline, after 24 h, it goes back")
    (holds,) = cautions(read_plan("strategy: canary\nat_deadline: hold"), cached=False, requests_per_s=0.0)
    assert holds.text.endswith("it holds")
    (endless,) = cautions(read_plan("strategy: ab"), cached=False, requests_per_s=0.0)
    assert "deadline" not in endless.text
