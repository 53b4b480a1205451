"""G16: a canary that is worse on a part of its requests is not promoted merely because it has enough requests."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from bench.whole import Ending, Rates, rollouts
from roadworthy.contract.evidence import CANARY, STABLE, RolloutCounts, VariantCount
from roadworthy.rollout.decide.machine import advance, begin
from roadworthy.rollout.decide.state import READY, STEPPING, Moment, Observation
from roadworthy.rollout.decide.verdict import FAIL, HOLD, PASS, Scope, Segment, Verdict, judge
from roadworthy.rollout.evidence.counts import Evidence
from roadworthy.rollout.plan.parse import read_plan
from roadworthy.rollout.plan.plan import Plan
from roadworthy.rollout.words import say

SEEN = "strategy: canary\nsteps: [10, 50, 100]\nhold: 10s\nevidence: 100\ncriteria: {slow: {ratio: 1.25}}\ndeadline: 1h"


def judged(plan: Plan, canary: tuple[int, int], stable: tuple[int, int], share: int = 1_000) -> Verdict:
    """The verdict on slow requests, from (samples, bad) of both."""
    counts = (VariantCount(5, "slow", CANARY, *canary), VariantCount(5, "slow", STABLE, *stable))
    return judge(plan, Scope((Segment(5, share),), 5, 0, 100), Evidence().merged("a/1", RolloutCounts("r", counts)))


@pytest.mark.parametrize("samples", [100, 150, 200])
def test_g16_sixteen_percent_slow_against_six_waits_and_then_goes_back(samples: int) -> None:
    """With the given counts it holds and states what is missing; with more of the same it is found worse. It never passes."""
    plan = read_plan(SEEN)
    early = judged(plan, (samples, samples * 16 // 100), (9 * samples, 9 * samples * 6 // 100))
    assert early.outcome == HOLD
    if samples == 100:
        assert early.code == "not-shown"
        assert "slow: 16 bad of 100 in this step, the stable's 54 of 900: not shown to be well. Its rate is at most" in say(
            early.why
        )
        assert "and must be shown to be below 0.0938, or: E" in say(early.why)
    late = judged(plan, (10 * samples, 10 * samples * 16 // 100), (90 * samples, 90 * samples * 6 // 100))
    assert (late.outcome, late.code) == (FAIL, "worse")


def test_g16_no_path_of_it_ever_passes_a_step() -> None:
    """300 rollouts with a look every ten seconds: each is rolled back as worse, or inconclusive if the deadline is near."""
    for deadline, allowed in (("1d", {Ending.ROLLED_BACK}), ("4m", {Ending.ROLLED_BACK, Ending.INCONCLUSIVE})):
        plan = read_plan(f"strategy: canary\nsteps: [10, 50, 100]\nhold: 1m\ncriteria: [errors, slow]\ndeadline: {deadline}")
        found = rollouts(np.random.default_rng(16), plan, Rates((0.0, 0.0), (0.06, 0.16)), 150)
        assert {each.ending for each in found} <= allowed, Counter(each.ending for each in found)


def test_g16_at_full_share_the_bound_alone_speaks() -> None:
    """Earlier comparisons do not let a version pass that is slow once it has all traffic."""
    plan = read_plan(SEEN)
    assert judged(plan, (400, 64), (0, 0), 10_000).code == "not-shown"
    assert judged(plan, (400, 20), (0, 0), 10_000).outcome == PASS


def test_g16_an_equal_version_that_was_slow_by_chance_waits_for_its_evidence() -> None:
    """It is neither accused nor promoted at once: with more requests it passes."""
    plan = read_plan(SEEN)
    assert judged(plan, (100, 8), (900, 54)).code == "not-shown"
    assert judged(plan, (1_000, 60), (9_000, 540)).outcome == PASS


def test_g16_a_deadline_tells_what_was_missing() -> None:
    """Being undecided at the deadline is no accusation: outcome and code say so, and the text has the criterion's numbers."""
    plan = read_plan(SEEN)
    state, evidence, generation = begin("r", 1), Evidence(), 1
    for second in (0, 5, 3_700, 3_701):
        seen = Observation(Moment("b", float(second)), generation, generation, READY, READY)
        state = advance(plan, state, seen, evidence).state
        generation = state.generation
        if state.phase == STEPPING and not evidence.counts:
            counts = (
                VariantCount(generation, "slow", CANARY, 100, 16),
                VariantCount(generation, "slow", STABLE, 900, 54),
            )
            evidence = evidence.merged("a/1", RolloutCounts("r", counts))
    assert (state.ends_as, state.code) == ("inconclusive", "inconclusive")
    assert "slow: 16 bad of 100 in this step, the stable's 54 of 900: not shown to be well" in say(state.why)
