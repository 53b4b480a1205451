"""The meaning of slow compared with a version, from the run times that gateways counted."""

from __future__ import annotations

import pytest

from roadworthy.contract.telemetry import RUN_TIME_BOUNDS_US, RunTimes
from roadworthy.control.controllers.observation import LEAST_RUNS, LEAST_SLOW_MS, slow_ms
from roadworthy.monitoring.gateways import Gateway


def gateway(digest: str, times_us: dict[float, int]) -> Gateway:
    """A gateway that has counted these runs, by their time."""
    counts = [0] * (len(RUN_TIME_BOUNDS_US) + 1)
    for time_us, count in times_us.items():
        counts[sum(bound < time_us for bound in RUN_TIME_BOUNDS_US)] += count
    return Gateway("g", "b", 1, 0, (), 0, (RunTimes(digest, tuple(counts)),))


def test_it_is_the_95th_percentile_over_all_gateways() -> None:
    """Within a bin, which is about 10 % wide; other versions' runs do not count."""
    found = [gateway("d", {20_000: 60, 50_000: 3}), gateway("d", {20_000: 36, 50_000: 1}), gateway("e", {9: 10_000})]
    assert slow_ms("d", found) == pytest.approx(20 * 1.05, rel=0.07)
    assert slow_ms("d", [*found, gateway("d", {50_000: 20})]) == pytest.approx(50 * 1.05, rel=0.07)


def test_it_is_never_less_than_a_millisecond() -> None:
    """Cold caches make a run of microseconds several times as long, without a late answer."""
    assert slow_ms("d", [gateway("d", {30: 1_000})]) == LEAST_SLOW_MS


def test_few_runs_say_nothing() -> None:
    """Neither do none at all."""
    assert slow_ms("d", [gateway("d", {20_000: LEAST_RUNS - 1})]) is None
    assert slow_ms("d", []) is None
