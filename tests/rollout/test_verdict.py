"""Verdicts: each criterion's PASS, FAIL and HOLD with its reason and numbers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadworthy.contract.evidence import CANARY, DRAWN, STABLE, BadUnit, PairCount, RolloutCounts, VariantCount
from roadworthy.rollout.decide.verdict import FAIL, HOLD, PASS, Finding, Scope, Segment, judge
from roadworthy.rollout.evidence.counts import Evidence
from roadworthy.rollout.plan.plan import Criterion, Plan, Stage, Sticky
from roadworthy.rollout.words import say
from roadworthy.statistics.e_process import log_e, log_e_over
from roadworthy.statistics.intervals import upper_sequence

LIVE = Segment(5, 1_000)


def plan(*criteria: Criterion, alpha: float = 0.01, sticky: bool = False) -> Plan:
    """One step of 10 % with these criteria."""
    return Plan("canary", (Stage(1_000),), alpha=alpha, criteria=criteria, sticky=Sticky(field="user") if sticky else None)


def scope(*segments: Segment, needed: int = 100, limit_from: int = 0) -> Scope:
    """All segments; the last one is the step."""
    return Scope(segments, segments[-1].generation, limit_from, needed)


def counted(canary: tuple[int, int], stable: tuple[int, int], signal: str = "errors", generation: int = 5) -> Evidence:
    """(samples, bad) of both versions."""
    return Evidence().merged(
        f"a/{generation}",
        RolloutCounts(
            "r",
            (VariantCount(generation, signal, CANARY, *canary), VariantCount(generation, signal, STABLE, *stable)),
        ),
    )


def finding(criterion: Criterion, evidence: Evidence, where: Scope | None = None, sticky: bool = False) -> Finding:
    """The only criterion's finding, which is the rollout's."""
    verdict = judge(plan(criterion, sticky=sticky), where or scope(LIVE), evidence)
    (found,) = verdict.findings
    assert (verdict.outcome, verdict.code, say(verdict.why)) == (found.outcome, found.code, say(found.why))
    return found


def test_a_canary_that_fails_everything_is_out_after_three() -> None:
    """At 10 % with the whole alpha of 1 %; two failures are suspicious. The numbers are those of the formula."""
    found = finding(Criterion("errors"), counted((3, 3), (27, 0)))
    assert (found.outcome, found.code) == (FAIL, "worse")
    assert found.log_e == pytest.approx(math.log(277.75))
    assert found.threshold == pytest.approx(math.log(100))
    assert found.p == pytest.approx(1 / 277.75)
    assert (found.samples, found.bad, found.other_samples, found.other_bad) == (3, 3, 27, 0)
    assert "canary 3 of 3 (1), stable 0 of 27 (0)" in say(found.why)
    assert "once in 278 rollouts" in say(found.why)
    assert finding(Criterion("errors"), counted((2, 2), (18, 0))).code == "suspicious"


def test_one_failure_is_not_suspicious_even_where_little_is_asked() -> None:
    """At alpha 20 % a tenth of the bound would be below 1: suspicion begins at E = 20."""
    verdict = judge(plan(Criterion("errors"), alpha=0.2), scope(LIVE), counted((100, 0), (900, 9)))
    assert verdict.outcome == PASS
    assert judge(plan(Criterion("errors"), alpha=0.02), scope(LIVE), counted((200, 1), (1_800, 0))).code == "enough"


def test_enough_clean_requests_pass_by_the_bound() -> None:
    """And the text says how large the rate may still be, which is the bound."""
    found = finding(Criterion("errors", limit=0.05), counted((300, 0), (2_700, 1)))
    assert (found.outcome, found.code) == (PASS, "enough")
    assert found.shown is not None
    assert found.shown.upper == upper_sequence(0, 300, 0.05)
    assert say(found.why) == "errors: 0 bad of 300 in this step; its rate is at most 0.0149 at every look, below 0.05"


def test_a_count_is_not_enough() -> None:
    """Enough samples pass only with a rate that is shown to be below the limit, or with evidence that it is below a multiple of
    the stable's; and both need the number of samples."""
    criterion = Criterion("errors", limit=0.05)
    found = finding(criterion, counted((100, 4), (900, 36)))
    assert (found.outcome, found.code) == (HOLD, "not-shown")
    assert "4 bad of 100 in this step, the stable's 36 of 900" in say(found.why)
    assert "must be shown to be below 0.05, or: E " in say(found.why)
    assert finding(criterion, counted((2_000, 40), (18_000, 360))).code == "enough"
    many = counted((20_000, 2_000), (180_000, 18_000))
    assert finding(Criterion("errors", limit=0.3), many).code == "enough"
    assert finding(Criterion("errors"), many).code == "shown-better"
    assert finding(Criterion("errors"), many, scope(LIVE, needed=20_001)).code == "too-little-evidence"


def test_at_full_share_only_the_bound_can_speak() -> None:
    """The comparison in earlier steps says nothing about all of the traffic."""
    full = Segment(6, 10_000)
    many = counted((20_000, 2_000), (180_000, 18_000))
    for bad, code in ((30, "not-shown"), (1, "enough")):
        here = many.merged("a/6", RolloutCounts("r", (VariantCount(6, "errors", CANARY, 300, bad),)))
        found = finding(Criterion("errors"), here, scope(LIVE, full))
        assert found.code == code
        assert found.shown is not None
        assert found.shown.log_e is None


def test_slow_without_a_limit_must_be_under_what_is_tolerated() -> None:
    """5 % of the stable's runs are slow by definition; times ratio and margin, and never all."""
    assert Criterion("slow", ratio=1.25, margin=1.5).allowed == pytest.approx(0.09375)
    assert Criterion("slow", ratio=1.25, limit=0.2).allowed == 0.2
    assert Criterion("slow", ratio=100.0, margin=100.0).allowed == 0.99
    assert (Criterion("errors").allowed, Criterion("invalid_outputs").allowed, Criterion("custom.refund").allowed) == (0.05,) * 3
    assert (Criterion("disagreement").allowed, Criterion("disagreement", limit=0.02).allowed) == (0.01, 0.02)


def test_feedback_and_what_waits_for_nothing_need_show_nothing() -> None:
    """Feedback arrives after the step; with evidence 0 a criterion waits for nothing. An explicit count for feedback is waited
    for."""
    bad = counted((50, 20), (450, 180))
    assert finding(Criterion("errors", evidence=0), bad).code == "enough"
    assert finding(Criterion("errors"), bad, scope(LIVE, needed=0)).code == "enough"
    told = counted((50, 20), (450, 180), "feedback")
    assert finding(Criterion("feedback", evidence=50), told).code == "enough"
    assert finding(Criterion("feedback", evidence=51), told).code == "too-little-evidence"


def test_only_this_step_is_bounded() -> None:
    """Bad events of the previous step, or from before a person resumed, do not count against the present one."""
    earlier = counted((200, 16), (1_800, 144), generation=4)
    now = earlier.merged("a/5", RolloutCounts("r", (VariantCount(5, "errors", CANARY, 200, 0),)))
    where = (Segment(4, 1_000), LIVE)
    assert finding(Criterion("errors"), now, scope(*where)).code == "enough"
    same_step = Scope(where, 4, 0, 100)
    assert finding(Criterion("errors"), now, same_step).code == "not-shown"
    assert finding(Criterion("errors"), now, Scope(where, 4, 5, 100)).code == "enough"


def test_no_evidence_is_a_verdict_of_its_own() -> None:
    """Distinct from too little evidence; neither passes."""
    assert finding(Criterion("errors"), Evidence()).code == "no-evidence"
    assert finding(Criterion("errors"), Evidence()).outcome == HOLD
    little = finding(Criterion("errors"), counted((99, 0), (900, 0)))
    assert (little.outcome, little.code) == (HOLD, "too-little-evidence")
    assert finding(Criterion("errors", evidence=95), counted((99, 0), (900, 0))).outcome == PASS
    assert finding(Criterion("feedback", evidence=0), Evidence()).outcome == PASS


def test_only_this_step_counts_towards_its_minimum() -> None:
    """The previous step had plenty."""
    evidence = counted((500, 1), (4_500, 9), generation=4).merged(
        "a/5", RolloutCounts("r", (VariantCount(5, "errors", CANARY, 60, 0),))
    )
    found = finding(Criterion("errors"), evidence, scope(Segment(4, 500), LIVE))
    assert (found.code, found.samples) == ("too-little-evidence", 560)


def test_a_canary_that_is_shown_not_worse_passes_with_its_count_only() -> None:
    """By the mirrored test, where its own rate is too high for the bound; not before the step has its minimum of samples."""
    found = finding(Criterion("errors"), counted((100, 10), (900, 400)))
    assert (found.outcome, found.code) == (PASS, "shown-better")
    assert say(found.why).endswith("10 bad of 100 in this step; shown to be below 1.5 times the stable's rate")
    assert finding(Criterion("errors"), counted((90, 0), (810, 60))).code == "too-little-evidence"


def test_a_shared_outage_accuses_nobody() -> None:
    """Half of everything fails on both: held, without rolling back and without moving traffic."""
    found = finding(Criterion("errors", limit=0.05), counted((100, 50), (900, 450)))
    assert (found.outcome, found.code, found.withdraw) == (HOLD, "shared-outage", False)
    found = finding(Criterion("errors"), counted((100, 50), (900, 450)))
    assert (found.outcome, found.code) == (HOLD, "not-shown"), "nor is it shown to be well"
    assert finding(Criterion("errors"), counted((1_000, 500), (9_000, 4_500))).code == "shown-better"


def test_over_the_limit_takes_the_share_away_and_no_more() -> None:
    """At full share, without a stable to compare with; a person who resumes starts the limit again."""
    full = Segment(6, 10_000)
    evidence = counted((40, 10), (0, 0), generation=6)
    found = finding(Criterion("errors", limit=0.05), evidence, scope(full))
    assert (found.outcome, found.code, found.withdraw) == (HOLD, "over-limit", True)
    assert log_e_over(10, 40, 0.05) > found.threshold > found.log_e == 0.0
    assert finding(Criterion("errors", limit=0.05), evidence, scope(full, limit_from=7)).withdraw is False
    outage = evidence.merged("a/5", RolloutCounts("r", (VariantCount(5, "errors", STABLE, 900, 450),)))
    assert finding(Criterion("errors", limit=0.05), outage, scope(LIVE, full)).withdraw is True, "that was another step's"


def test_e1_the_limit_does_not_forestall_the_rollback_of_what_fails_everything() -> None:
    """Whatever the share, a version that fails all its requests goes from suspicion to FAIL; only an undecided one is
    withdrawn."""
    criterion = Criterion("errors", limit=0.05)
    for weight, worse_from in ((500, 2), (2_500, 5), (5_000, 9)):
        where = scope(Segment(5, weight))
        for failed in range(3, 12):
            found = finding(criterion, counted((failed, failed), (30, 0)), where)
            assert found.withdraw is False
            assert found.code == ("worse" if failed >= worse_from else "suspicious"), (weight, failed)
    undecided = finding(criterion, counted((20, 7), (20, 1)), scope(Segment(5, 5_000)))
    assert (undecided.code, undecided.withdraw) == ("over-limit", True)
    assert finding(criterion, counted((3, 3), (0, 0)), scope(Segment(5, 10_000))).withdraw is True, "no stable to compare with"


def test_slow_tolerates_some() -> None:
    """1.2 times as many slow runs as the stable's never count against it, however many there are."""
    evidence = counted((100_000, 6_000), (900_000, 45_000), "slow")
    assert finding(Criterion("slow", ratio=1.25), evidence).outcome == PASS
    assert finding(Criterion("slow", ratio=1.0), evidence).outcome == FAIL
    assert "a version with 1.25 times the stable's rate" in say(
        finding(Criterion("slow", ratio=1.25), counted((100, 40), (900, 45), "slow")).why
    )


def test_shadow_pairs_count_one_to_one_and_stay_apart_from_live_arms() -> None:
    """Only pairs with exactly one bad side; live counts of a shadow step are not evidence."""
    shadow = Segment(5, 0, 2_000)
    evidence = counted((0, 0), (5_000, 40)).merged("b/1", RolloutCounts("r", pairs=(PairCount(5, "errors", 900, 20, 3),)))
    found = finding(Criterion("errors"), evidence, scope(shadow))
    assert found.outcome == FAIL
    assert found.log_e == pytest.approx(log_e(20, 23, 0.5))
    assert finding(Criterion("errors"), counted((0, 0), (5_000, 40)), scope(shadow)).code == "no-evidence"


def test_disagreement_is_judged_by_its_limit() -> None:
    """3 of 20 pairs differ where 1 % is allowed."""
    shadow = Segment(5, 0, 2_000)

    def pairs(number: int, differ: int) -> Evidence:
        return Evidence().merged("a/1", RolloutCounts("r", pairs=(PairCount(5, "disagreement", number, differ),)))

    found = finding(Criterion("disagreement", limit=0.01), pairs(20, 4), scope(shadow))
    assert (found.outcome, found.samples, found.bad) == (FAIL, 20, 4)
    assert found.log_e == pytest.approx(log_e_over(4, 20, 0.01))
    assert finding(Criterion("disagreement", limit=0.01), pairs(2_000, 20), scope(shadow)).code == "not-shown"
    assert finding(Criterion("disagreement", limit=0.01), pairs(2_000, 4), scope(shadow)).outcome == PASS
    assert finding(Criterion("disagreement", limit=0.01), pairs(20, 0), scope(shadow)).code == "too-little-evidence"
    later = scope(shadow, Segment(6, 500), needed=1_000)
    assert finding(Criterion("disagreement", limit=0.01), pairs(200, 0), later).outcome == PASS, "further pairs will not come"


def test_segments_multiply() -> None:
    """Each with its own share."""
    evidence = counted((100, 4), (1_900, 20), generation=4).merged(
        "a/5",
        RolloutCounts("r", (VariantCount(5, "errors", CANARY, 200, 9), VariantCount(5, "errors", STABLE, 1_800, 20))),
    )
    found = finding(Criterion("errors"), evidence, scope(Segment(4, 500), LIVE))
    assert found.log_e == pytest.approx(log_e(4, 24, 0.05) + log_e(9, 29, 0.1))


def drawn(canary: int, stable: int, generation: int = 5) -> RolloutCounts:
    """The number of assigned requests, by variant."""
    counts = ((CANARY, canary), (STABLE, stable))
    return RolloutCounts("r", tuple(VariantCount(generation, DRAWN, variant, number, 0) for variant, number in counts))


def test_shares_that_are_not_as_set_hold_whatever_the_evidence_says() -> None:
    """Evidence for a rollback and for passing; with the intended shares both act, and so they do before the skew is known."""
    worse, clean = counted((200, 40), (1_800, 10)), counted((200, 0), (1_800, 0))
    for evidence, outcome in ((worse, FAIL), (clean, PASS)):
        assert finding(Criterion("errors"), evidence).outcome == outcome
        assert finding(Criterion("errors"), evidence.merged("b/1", drawn(200, 1_800))).outcome == outcome
        for canary, stable in ((320, 1_680), (100, 1_900)):
            found = finding(Criterion("errors"), evidence.merged("b/1", drawn(canary, stable)))
            assert (found.outcome, found.code) == (HOLD, "share-not-as-set")
            assert f"got {canary} of 2,000 (" in say(found.why)
            assert "where 0.1 was set" in say(found.why)
    assert judge(plan(), scope(LIVE), clean.merged("b/1", drawn(320, 1_680))).code == "share-not-as-set"


def test_the_share_is_checked_where_something_was_to_be_compared() -> None:
    """In every segment separately; not at 0 and 100 %, not for users. A limit needs no share."""
    evidence = counted((200, 0), (1_800, 0), generation=6).merged("b/1", drawn(320, 1_680))
    now = Segment(6, 1_000)
    assert finding(Criterion("errors"), evidence, scope(LIVE, now)).code == "share-not-as-set"
    assert finding(Criterion("errors"), evidence, scope(LIVE, now), sticky=True).code == "enough"
    for weight in (0, 1_600, 10_000):
        assert finding(Criterion("errors"), evidence, scope(Segment(5, weight), now)).code == "enough"
    over = counted((200, 90), (1_800, 0)).merged("b/1", drawn(320, 1_680))
    found = finding(Criterion("errors", limit=0.1), over)
    assert (found.code, found.withdraw) == ("over-limit", True)


def test_sticky_rollouts_count_users() -> None:
    """A user with 40 errors is one; without users it holds; too many users hold too."""
    evidence = counted((1_000, 30), (9_000, 8))
    assert finding(Criterion("errors"), evidence).outcome == FAIL
    assert finding(Criterion("errors"), evidence, sticky=True).code == "units-missing"
    one = evidence.merged("a/1", RolloutCounts("r", units=(BadUnit(5, "errors", CANARY, "u"), BadUnit(5, "errors", STABLE, "v"))))
    found = finding(Criterion("errors"), one, sticky=True)
    assert (found.outcome, found.bad, found.other_bad) == (PASS, 1, 1)
    assert (
        finding(Criterion("errors"), one.merged("b/1", RolloutCounts("r", overflow=True)), sticky=True).code == "too-many-units"
    )
    many = one.merged("b/1", RolloutCounts("r", units=tuple(BadUnit(5, "errors", CANARY, f"u{number}") for number in range(9))))
    assert "canary 10 users, stable 1 users" in say(finding(Criterion("errors"), many, sticky=True).why)


def test_the_worst_criterion_speaks_for_all() -> None:
    """FAIL over withdrawal over HOLD over PASS; alpha is split, half of it for errors."""
    criteria = (Criterion("slow", ratio=1.25), Criterion("errors", limit=0.05), Criterion("invalid_outputs"))
    whole = plan(*criteria)
    assert whole.alphas() == pytest.approx({"errors": 0.005, "slow": 0.0025, "invalid_outputs": 0.0025})
    slow = RolloutCounts("r", (VariantCount(5, "slow", CANARY, 100, 60), VariantCount(5, "slow", STABLE, 900, 45)))
    over = counted((100, 17), (900, 60))
    verdict = judge(whole, scope(LIVE), over)
    assert (verdict.outcome, verdict.code, verdict.withdraw) == (HOLD, "over-limit", True)
    verdict = judge(whole, scope(LIVE), over.merged("b/1", slow))
    assert (verdict.outcome, verdict.code) == (FAIL, "worse")
    assert say(verdict.why).startswith("slow:")
    assert {each.signal: each.outcome for each in verdict.findings} == {
        "slow": FAIL,
        "errors": HOLD,
        "invalid_outputs": HOLD,
    }
    assert judge(plan(), scope(LIVE), Evidence()).outcome == PASS


def test_weights_are_parts_of_alpha() -> None:
    """Given weights count as given; a lone criterion has all of alpha."""
    assert plan(Criterion("slow")).alphas() == {"slow": 0.01}
    assert plan(Criterion("errors")).alphas() == {"errors": 0.01}
    assert plan(Criterion("errors", weight=1.0), Criterion("slow", weight=3.0)).alphas() == pytest.approx(
        {"errors": 0.0025, "slow": 0.0075}
    )


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 3_000), st.integers(0, 3_000))
def test_more_failures_of_the_canary_never_look_better(bad: int, other: int, good: int, other_good: int) -> None:
    """One more failure of the canary, all else equal: the evidence grows, and a FAIL stays a FAIL."""
    here = finding(Criterion("errors"), counted((bad + good, bad), (other + other_good, other)))
    worse = finding(Criterion("errors"), counted((bad + good + 1, bad + 1), (other + other_good, other)))
    assert worse.log_e > here.log_e
    assert not (here.outcome == FAIL and worse.outcome != FAIL)
