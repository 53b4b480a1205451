"""Watched signals: the state of each from given counts, with its samples, with and without evidence; equal versions raise
none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from roadworthy.contract.evidence import (
    CANARY,
    CONFIDENCE,
    COUNTERS,
    OUTPUT_BINS,
    STABLE,
    BinCount,
    MetricCount,
    RolloutCounts,
)
from roadworthy.contract.snapshot import WatchedOutput
from roadworthy.rollout.decide.alerts import LEAST_GROWTH_BYTES, Look, Machine, signal_alerts
from roadworthy.rollout.decide.state import SignalAlert, State
from roadworthy.rollout.decide.verdict import Segment
from roadworthy.rollout.evidence.counts import Evidence
from roadworthy.rollout.plan.plan import Metric, Plan, Stage, Sticky, Watch
from roadworthy.rollout.words import say

STEPS = tuple(Stage(weight) for weight in (500, 2_500, 10_000))
LABEL = WatchedOutput("label", categories=("early", "late"))
NUMBER = WatchedOutput("price", edges=(0.0, 10.0, 20.0))
SEGMENTS = (Segment(7, 0), Segment(8, 500), Segment(9, 2_500))
MIB = 1 << 20


def binned(generation: int, variant: str, *cells: int, output: int = 0) -> BinCount:
    """Counts of the first bins."""
    return BinCount(generation, output, variant, (*cells, *[0] * (OUTPUT_BINS - len(cells))))


def sure(generation: int, variant: str, values: int, mean: float) -> MetricCount:
    """So many answers with this mean confidence."""
    return MetricCount(generation, CONFIDENCE, variant, values, values * mean)


def said(
    watch: Watch,
    *counts: BinCount | MetricCount,
    machines: Sequence[Machine] = (),
    metrics: Sequence[Metric] = (),
    **state: Any,
) -> SignalAlert:
    """The state of one signal from these counts, in the step at 25 %."""
    sticky = state.pop("sticky", None)
    given = {"segments": SEGMENTS, "step_from": 9, "outputs": (LABEL,), **state}
    reported = RolloutCounts(
        "r",
        bins=tuple(each for each in counts if isinstance(each, BinCount)),
        metrics=tuple(each for each in counts if isinstance(each, MetricCount)),
    )
    plan = Plan("canary", STEPS, watches=(watch,), metrics=tuple(metrics), sticky=sticky)
    (alarm,) = signal_alerts(Look(plan, State("r", **given), Evidence().merged("g/1", reported), machines))
    assert alarm.signal == watch.signal
    return alarm


def test_confidence_is_compared_in_the_step_that_runs() -> None:
    """The text has each version's mean and the interval of the difference; higher confidence is an alarm as much as lower. An
    earlier step covered other hours of the day, and does not count."""
    watch = Watch("confidence")
    before = (sure(8, STABLE, 90_000, 0.5), sure(8, CANARY, 5_000, 0.9))
    equal = said(watch, *before, sure(9, STABLE, 9_000, 0.81), sure(9, CANARY, 3_000, 0.80))
    assert (equal.raised, equal.samples, equal.other_samples) == (False, 3_000, 9_000)
    assert say(equal.why).startswith("mean largest probability 0.8, the stable's 0.81; the difference is -0.0")
    for mean in (0.6, 0.98):
        assert said(watch, sure(9, STABLE, 9_000, 0.8), sure(9, CANARY, 3_000, mean)).raised
    assert not said(watch, sure(9, STABLE, 90, 0.8), sure(9, CANARY, 30, 0.6)).raised
    tolerant = Watch("confidence", tolerance=0.3)
    assert not said(tolerant, sure(9, STABLE, 9_000, 0.8), sure(9, CANARY, 3_000, 0.6)).raised


def test_at_full_traffic_the_last_comparison_stands() -> None:
    """No stable is left to compare with, and the earlier comparison is not forgotten."""
    full = {"segments": (*SEGMENTS, Segment(10, 10_000)), "step_from": 10}
    alarm = said(Watch("confidence"), sure(9, STABLE, 9_000, 0.8), sure(9, CANARY, 3_000, 0.6), sure(10, CANARY, 9, 0.1), **full)
    assert (alarm.raised, alarm.samples) == (True, 3_000)


def test_no_evidence_says_whose_is_missing() -> None:
    """Without samples it is neither quiet nor an alarm."""
    nobody = said(Watch("confidence"))
    assert (nobody.samples, nobody.raised, say(nobody.why)) == (0, False, "no answer of the new version yet")
    half = said(Watch("confidence"), sure(9, CANARY, 50, 0.5))
    assert (half.samples, say(half.why)) == (0, "no answer of the previous version yet")
    assert say(said(Watch("drift")).why) == "no answer in label of the new version yet"
    assert say(said(Watch("drift"), outputs=()).why) == "no output can be counted in bins"
    assert say(said(Watch("business"), metrics=(Metric("revenue"),)).why) == "no value of revenue of the new version yet"
    assert "no machine runs both versions in runner processes" in say(said(Watch("resources")).why)


def test_drift_needs_evidence_and_size() -> None:
    """A large shift of few answers is chance; a small one of many is real, and tolerated."""
    drifted = said(Watch("drift"), binned(9, STABLE, 7_000, 2_000), binned(9, CANARY, 1_500, 1_500))
    assert (drifted.raised, drifted.samples, drifted.other_samples) == (True, 3_000, 9_000)
    assert say(drifted.why).startswith("label: 27.8% of answers differ, 10.0% are tolerated; E 5.37e+168")
    assert say(drifted.why).endswith("of 100; most of it 'early': -27.8%")
    few = said(Watch("drift"), binned(9, STABLE, 70, 20), binned(9, CANARY, 3, 3))
    assert (few.raised, few.samples) == (False, 6)
    small = (binned(9, STABLE, 70_000, 20_000), binned(9, CANARY, 22_000, 8_000))
    assert not said(Watch("drift"), *small).raised
    assert said(Watch("drift", tolerance=0.02), *small).raised


def test_drift_adds_up_over_steps_and_shadowed_requests() -> None:
    """Each in its own segment: one step alone would not show it yet."""
    steps = (
        binned(8, STABLE, 2_000, 600),
        binned(8, CANARY, 93, 57),
        binned(9, STABLE, 300, 90),
        binned(9, CANARY, 73, 49),
    )
    assert said(Watch("drift"), *steps).raised
    assert not said(Watch("drift"), *steps[:2], step_from=8).raised
    assert not said(Watch("drift"), *steps[2:]).raised
    shadowed = {"segments": (Segment(7, 0), Segment(8, 0, 10_000)), "step_from": 8}
    assert said(Watch("drift"), binned(8, STABLE, 400, 100), binned(8, CANARY, 250, 250), **shadowed).raised


def test_in_a_sticky_rollout_each_step_is_judged_by_itself() -> None:
    """Its users count again in every step, and together they would be the same evidence twice. Each step has its part of
    alpha."""
    sticky = Sticky(header="X-User")
    step = (binned(9, STABLE, 300, 90), binned(9, CANARY, 73, 49))
    before = (binned(8, STABLE, 2_000, 600), binned(8, CANARY, 93, 57))
    alone = said(Watch("drift"), *step, sticky=sticky)
    assert said(Watch("drift"), *before, *step, sticky=sticky) == alone
    assert (alone.raised, alone.samples) == (False, 122)
    assert said(Watch("drift"), *before, *step).samples == 272
    clear = said(Watch("drift"), binned(9, STABLE, 3_000, 900), binned(9, CANARY, 730, 490), sticky=sticky)
    assert clear.raised
    assert " of 300;" in say(clear.why)


def test_in_a_sticky_rollout_answers_are_shared_by_the_workers_that_count() -> None:
    """Each worker may have counted the same user; the samples are the counted answers."""
    sticky = Sticky(header="X-User")
    counts = (
        binned(9, STABLE, 900, 270),
        binned(9, CANARY, 219, 147),
        sure(9, STABLE, 900, 0.8),
        sure(9, CANARY, 700, 0.6),
    )
    workers = MetricCount(9, COUNTERS, STABLE, 8, 0.0)
    for signal in ("drift", "confidence"):
        assert said(Watch(signal), *counts, sticky=sticky).raised
        shared = said(Watch(signal), *counts, workers, sticky=sticky)
        assert not shared.raised
        assert shared.samples == said(Watch(signal), *counts).samples
        assert said(Watch(signal), *counts, workers).raised, "users are not what is drawn"


def test_the_worst_output_is_told() -> None:
    """By the bin that moved most; numbers have the bins of training."""
    outputs = (LABEL, NUMBER)
    equal = (binned(9, STABLE, 900, 900), binned(9, CANARY, 300, 300))
    for place, name in enumerate(("under 0", "from 0 to 10", "from 10 to 20", "from 20", "no value")):
        cells = [200] * 5
        cells[place] = 1_200
        moved = [*cells[:4], *[0] * 27, cells[4]]
        even = [400] * 4 + [0] * 27 + [400]
        alarm = said(
            Watch("drift"),
            *equal,
            binned(9, STABLE, *even, output=1),
            binned(9, CANARY, *moved, output=1),
            outputs=outputs,
        )
        assert alarm.raised
        assert say(alarm.why).startswith("price: 40.0% of answers differ")
        assert say(alarm.why).endswith(f"most of it {name}: +40.0%")
    other = said(Watch("drift"), binned(9, STABLE, 900, 900), binned(9, CANARY, 300, 300, 400))
    assert say(other.why).endswith("most of it other values: +40.0%")


def test_memory_needs_a_ratio_and_a_size() -> None:
    """The machine with the largest ratio counts; a few megabytes more are tolerated."""
    watch, stable = Watch("resources"), 200 * MIB
    fine = Machine("gw-1", 2, int(1.4 * stable), stable)
    alarm = said(watch, machines=[fine, Machine("gw-2", 1, None, None), Machine("gw-3", 0, None, stable)])
    assert (alarm.raised, alarm.samples, alarm.other_samples) == (False, 3, 1)
    large = said(watch, machines=[fine, Machine("gw-2", 1, 2 * stable, stable)])
    assert large.raised
    assert say(large.why) == "a process of the new version holds 400 MiB on gw-2, the stable's 200 MiB; tolerated is 1.5 times"
    assert not said(watch, machines=[Machine("gw-1", 1, 10 * MIB + LEAST_GROWTH_BYTES - 1, 10 * MIB)]).raised
    assert not said(Watch("resources", tolerance=3.0), machines=[Machine("gw-1", 1, 2 * stable, stable)]).raised


def test_business_values_are_an_alarm_on_the_worse_side_only() -> None:
    """The lower side, unless the metric says otherwise; the worst of several metrics counts."""
    revenue, delay = Metric("revenue", 0.0, 10.0), Metric("delay", 0.0, 10.0, better="lower")
    up = {name: (MetricCount(9, name, STABLE, 9_000, 27_000.0), MetricCount(9, name, CANARY, 3_000, 15_000.0)) for name in "rd"}
    counts = [
        MetricCount(each.generation, name, each.variant, each.values, each.total)
        for name in ("revenue", "delay")
        for each in up["r"]
    ]
    watch = Watch("business")
    assert not said(watch, *counts, metrics=[revenue]).raised
    alarm = said(watch, *counts, metrics=[revenue, delay])
    assert (alarm.raised, alarm.samples, alarm.other_samples) == (True, 3_000, 9_000)
    assert say(alarm.why).startswith("delay: mean 5, the stable's 3; the difference is +")
    assert say(alarm.why).endswith(", so it is worse")
    worse = said(
        watch,
        MetricCount(9, "revenue", STABLE, 9_000, 27_000.0),
        MetricCount(9, "revenue", CANARY, 3_000, 3_000.0),
        metrics=[revenue],
    )
    assert worse.raised
    beyond = said(
        watch,
        MetricCount(9, "revenue", STABLE, 9, 27.0),
        MetricCount(9, "revenue", CANARY, 3, 900.0),
        metrics=[revenue],
    )
    assert (beyond.samples, say(beyond.why)) == (0, "revenue: values outside its bounds 0 to 10 were reported")


@pytest.mark.parametrize(("lower", "raised"), [(0.0, 0), (0.15, 30)])
def test_equal_versions_are_left_alone(lower: float, raised: int) -> None:
    """Thirty whole rollouts of 60 looks over two steps, with answers as uncertain as possible, while their mix changes by the
    hour; a version that is less certain and answers differently raises an alarm every time."""
    random, found = np.random.default_rng(7), 0
    for _ in range(30):
        rises = np.zeros((2, 2, 2))  # by step, variant: answers, sum; and by class
        classes = np.zeros((2, 2, 2), dtype=int)
        any_raised = False
        for look in range(60):
            step, hour = look // 30, 0.3 + 0.4 * (look % 30) / 30
            for variant, number in enumerate((400, 40) if step == 0 else (300, 100)):
                rises[step, variant] += number, random.binomial(number, hour - lower * variant)
                late = random.binomial(number, hour + lower * variant)
                classes[step, variant] += number - late, late
            counts: list[BinCount | MetricCount] = []
            for place in range(step + 1):
                for variant, name in enumerate((STABLE, CANARY)):
                    counts.append(binned(8 + place, name, *classes[place, variant].tolist()))
                    counts.append(
                        MetricCount(8 + place, CONFIDENCE, name, int(rises[place, variant, 0]), rises[place, variant, 1])
                    )
            step_from = 8 + step
            segments = SEGMENTS[: 2 + step]
            for signal in ("drift", "confidence"):
                any_raised |= said(Watch(signal), *counts, segments=segments, step_from=step_from).raised
        found += any_raised
    assert found == raised
