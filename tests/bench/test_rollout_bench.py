"""`make bench-rollout` in a short form: its simulations judge as the product does, meet the guarantees, and catch violations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.guarantees import (
    accused_by,
    default_plan,
    equal_rollouts,
    naive,
    slow_part,
    sticky_rollouts,
)
from bench.rules import RULES
from bench.simulated import Stretch, accused, canary_requests_until_accused, peaks, requests_until_shown
from bench.whole import Ending, Rates, Traffic, endings
from roadworthy.contract.evidence import CANARY, STABLE, RolloutCounts, VariantCount
from roadworthy.rollout.decide.verdict import FAIL, Scope, Segment, Verdict, judge
from roadworthy.rollout.evidence.counts import Evidence
from roadworthy.rollout.plan.plan import Criterion, Plan, Stage

SHARES = (0.05, 0.25)


def verdicts(canary: list[list[bool]], shares: tuple[float, ...], ratio: float, alpha: float) -> list[Verdict]:
    """The product's verdict after each bad event of each segment."""
    plan = Plan("canary", (Stage(500),), alpha=alpha, criteria=(Criterion("errors", ratio=ratio),))
    evidence, segments, found = Evidence(), [], []
    for generation, (share, events) in enumerate(zip(shares, canary, strict=True)):
        segments.append(Segment(generation, round(share * 10_000)))
        bad = {CANARY: 0, STABLE: 0}
        for mine in events:
            bad[CANARY if mine else STABLE] += 1
            counts = tuple(VariantCount(generation, "errors", variant, count, count) for variant, count in bad.items())
            evidence = evidence.merged("a/1", RolloutCounts("r", counts))
            found.append(judge(plan, Scope(tuple(segments), generation, 0, 1), evidence))
    return found


def test_tables_judge_as_the_product_does() -> None:
    """The same events, one by one over several segments, give the same largest ln E."""
    runs, seed, ratio = 12, 5, 1.25
    events = [np.random.default_rng([seed, n]).integers(0, 40, runs) for n in range(2)]
    found = peaks(
        np.random.default_rng(seed),
        [Stretch(share, count, 0.4) for share, count in zip(SHARES, events, strict=True)],
        ratio,
    )
    rng = np.random.default_rng(seed)
    drawn = [np.stack([rng.random(runs) < 0.4 for _ in range(int(count.max()))], axis=1) for count in events]
    for run in range(runs):
        paths = [draws[run, : count[run]].tolist() for draws, count in zip(drawn, events, strict=True)]
        log_es = [each.findings[0].log_e for each in verdicts(paths, SHARES, ratio, 0.01)]
        assert found[run] == pytest.approx(max([0.0, *log_es]), abs=1e-9)


def test_boundaries_judge_as_the_product_does() -> None:
    """Exactly those runs are accused that the product would roll back."""
    canary = np.random.default_rng(3).random((40, 60)) < 0.2
    found = accused(canary, 0.1, 1.25, 0.05)
    for run, events in enumerate(canary.tolist()):
        outcomes = [each.outcome for each in verdicts([events], (0.1,), 1.25, 0.05)]
        assert found[run] == (FAIL in outcomes)
    assert 0 < found.sum() < 40


def test_equal_versions_are_rolled_back_as_rarely_as_guaranteed() -> None:
    """At both levels, and with sticky users; the same check catches a z-test with 200 looks."""
    runs = 1_500
    highest = equal_rollouts(np.random.default_rng(1), runs, 2_000, 0.05)
    for alpha in (0.01, 0.05):
        assert accused_by(default_plan(alpha), highest) <= alpha
    for hazards in ((0.6, 0.6), (0.6, 0.3)):
        assert float((sticky_rollouts(np.random.default_rng(2), runs, hazards) >= math.log(20)).mean()) <= 0.05
    z_test = naive(runs, 1).value
    assert z_test is not None
    assert z_test > 20


def test_worse_versions_are_found_as_soon_as_guaranteed() -> None:
    """The three targets, in the median of 2,000 rollouts."""
    for rates, most in (((0.01, 0.05), 165), ((0.01, 0.5), 8), ((0.05, slow_part(2.0)), 15)):
        found = canary_requests_until_accused(np.random.default_rng(4), rates, 0.1, 1.0, 0.01, 2_000)
        assert float(np.median(found)) <= most


@pytest.mark.parametrize("name", RULES)
def test_each_rule_matters(name: str) -> None:
    """With the rule few equal versions are accused, without it many."""
    found = RULES[name](np.random.default_rng(6), 300)
    assert found.rule <= 0.02
    assert found.naive > 0.03 + found.rule


def test_whole_rollouts_end_as_they_should() -> None:
    """Through the state machine: the equal version is promoted, the worse one is rolled back."""
    rng = np.random.default_rng(8)
    assert endings(rng, default_plan(0.01), Rates((0.005, 0.005)), 10)[Ending.PROMOTED] == 10
    assert endings(rng, default_plan(0.01), Rates((0.005, 0.05)), 10)[Ending.ROLLED_BACK] == 10


def test_a_step_passes_when_the_product_says() -> None:
    """A run is shown to be below the limit at the first sample, from the 100th on, at which `judge` passes it."""
    rate, limit, runs = 0.03, 0.1, 3
    found = requests_until_shown(np.random.default_rng(17), rate, limit, (100, 2_000), runs)
    bad = (np.random.default_rng(17).random((runs, 2_000), dtype=np.float32) < rate).cumsum(axis=1)
    plan = Plan("canary", (Stage(10_000),), criteria=(Criterion("errors", limit=limit),))
    scope = Scope((Segment(5, 10_000),), 5, 0, 100)
    for run in range(runs):
        for samples in (int(found[run]) - 1, int(found[run])):
            counts = RolloutCounts("r", (VariantCount(5, "errors", CANARY, samples, int(bad[run, samples - 1])),))
            passed = judge(plan, scope, Evidence().merged("a/1", counts)).outcome == "PASS"
            assert passed == (samples == found[run])


def test_at_little_traffic_a_rollout_is_inconclusive_rather_than_decided_by_its_count() -> None:
    """Only a hundredth of the requests that the steps need arrive before the deadline."""
    found = endings(np.random.default_rng(9), default_plan(0.01), Rates((0.01, 0.02)), 5, Traffic(0.01, 3_600.0))
    assert found == {Ending.INCONCLUSIVE: 5}
