"""From evidence to PASS, FAIL or HOLD, each with its reasons and its numbers. Pure.

`machine.py` calls `judge` at every tick and acts on the result. Each of the plan's criteria is judged separately:

- FAIL: the evidence that the canary is worse than the criterion tolerates has reached 1 / (the criterion's part of alpha).
- HOLD, with `withdraw`: the canary's rate is over the criterion's limit while the stable's is not, or is unknown. That does not
  justify a rollback, since the stable may be no better, but the canary gets no further requests until a person has looked.
- HOLD: there is no evidence, too little, or suspiciously much of it, or both versions are over the limit.
- HOLD: the versions did not get the intended shares of requests, so the bad events do not distinguish them.
- PASS: enough was seen, and it shows that the canary is well; see `passing.py`.

The rollout's verdict is FAIL if any criterion's is, else HOLD if any criterion's is, else PASS. The duration of a step is not
judged here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import msgspec

from roadworthy.contract.evidence import DRAWN
from roadworthy.contract.snapshot import FULL_SHARE
from roadworthy.rollout.decide.passing import Shown, Step, explain, shown
from roadworthy.rollout.evidence.counts import Evidence, Tally
from roadworthy.rollout.facts import Fact, Why, fact, of_signal, plugin_raised
from roadworthy.rollout.plan.plan import Criterion, Plan
from roadworthy.statistics.e_process import (
    Split,
    always_valid_p,
    log_e_of,
    log_e_other_share,
    log_e_over,
)

Tallies = Mapping[int, Tally]
PASS, FAIL, HOLD = "PASS", "FAIL", "HOLD"
_SUSPICION = math.log(10.0)
_LEAST_SUSPICION = math.log(20.0)
"""A step does not end while E is at least 20 and within a factor 10 of its bound: waiting is cheaper than a larger share."""

LEAST_LIMITED = 20
"""Requests of the canary before a limit withdraws its share while the stable has traffic too. Three failures of three are over a
limit of 5 %, but at a share of 25 % five show that it is worse, at 50 % eleven: a canary that can be rolled back so soon should
not wait for a person instead."""
_OTHER_SHARE = math.log(10_000.0)
"""Correct assignment reaches this E, in a segment, with a probability of at most 1 in 10,000, at any number of looks."""


class Segment(msgspec.Struct, frozen=True):
    """A generation of the endpoint during the rollout, and the canary's shares in it, of FULL_SHARE."""

    generation: int
    weight: int
    shadow: int = 0


class Scope(msgspec.Struct, frozen=True):
    """The generations that count.

    Attributes:
        segments: all of the rollout.
        step_from: first generation of the present step: its minimum of evidence counts from there.
        limit_from: first generation that limits are judged by, if later than `step_from`: limits start again when a person
            resumes after one.
        needed: minimum of samples for each criterion in the step.
    """

    segments: tuple[Segment, ...]
    step_from: int
    limit_from: int
    needed: int


class Finding(msgspec.Struct, frozen=True):
    """One criterion's verdict.

    Attributes:
        signal: of the criterion. outcome: PASS, FAIL or HOLD. code, why: the reason; the code is stable ("worse",
            "no-evidence", …), and `why` is stored as `text`.
        samples, bad: the canary's, over the whole rollout; in shadow steps, pairs. In a sticky rollout `bad` and `other_bad` are
            distinct users. other_samples, other_bad: the stable's.
        log_e: ln E now. threshold: ln E that rolls back. p: 1/E, at most 1.
        withdraw: whether the canary's share must be withdrawn.
        shown: what the present step has shown, and what it must show; None in verdicts of earlier releases.
    """

    signal: str
    outcome: str
    code: str
    why: Why = msgspec.field(name="text")
    samples: int = 0
    bad: int = 0
    other_samples: int = 0
    other_bad: int = 0
    log_e: float = 0.0
    threshold: float = 0.0
    p: float = 1.0
    withdraw: bool = False
    shown: Shown | None = None


class Verdict(msgspec.Struct, frozen=True):
    """The verdict on the evidence so far. `code` and `why` are the deciding criterion's; "no-criteria" is PASS without any."""

    outcome: str
    code: str
    why: Why = msgspec.field(name="text")
    findings: tuple[Finding, ...] = ()
    withdraw: bool = False


def judge(plan: Plan, scope: Scope, evidence: Evidence) -> Verdict:
    """Judge everything counted so far."""
    alphas = plan.alphas()
    skewed = _skewed(plan, scope, evidence)
    findings = tuple(_judged(plan, criterion, alphas[criterion.signal], scope, evidence, skewed) for criterion in plan.criteria)
    ordered = sorted(findings, key=lambda each: ((FAIL, HOLD, PASS).index(each.outcome), not each.withdraw))
    if not ordered and skewed is not None:
        return Verdict(HOLD, "share-not-as-set", skewed)
    if not ordered:
        return Verdict(PASS, "no-criteria", fact("no-criteria"))
    first = ordered[0]
    return Verdict(first.outcome, first.code, first.why, findings, any(each.withdraw for each in findings))


def splits_of(plan: Plan, segments: Iterable[Segment], tallies: Tallies) -> list[Split]:
    """How the bad events split between the versions, by segment: live requests by the assigned share; shadowed requests one to
    one, counting only those in which exactly one version was bad. No segment has both, because the stable's would count twice.

    In a sticky rollout a user's bad events count once, in the first segment with one: a user stays with one version, so a user
    whom both versions fail would otherwise look like many events of one version.
    """
    splits = []
    for segment in segments:
        tally = tallies.get(segment.generation, Tally())
        if segment.weight == 0:
            splits.append(Split(tally.pairs_canary_bad, tally.pairs_canary_bad + tally.pairs_stable_bad, 0.5))
            continue
        canary, stable = _bad(plan, tally)
        splits.append(Split(canary, canary + stable, segment.weight / FULL_SHARE))
    return splits


def _bad(plan: Plan, tally: Tally) -> tuple[int, int]:
    """Bad events of the canary and of the stable, or, where users are assigned, users with one."""
    if plan.sticky is not None:
        return tally.canary_units, tally.stable_units
    return tally.canary_bad, tally.stable_bad


def _skewed(plan: Plan, scope: Scope, evidence: Evidence) -> Fact | None:
    """The fact that a version got more requests than its share in some segment; None while that may be chance.

    Sticky rollouts assign users, and only those with bad events are distinguished: a user with many requests is not a fault
    there.
    """
    if plan.sticky is not None:
        return None
    tallies = evidence.tallies(DRAWN)
    for segment in scope.segments:
        tally = tallies.get(segment.generation, Tally())
        drawn, share = tally.canary_samples, segment.weight / FULL_SHARE
        requests = drawn + tally.stable_samples
        if 0.0 < share < 1.0 and log_e_other_share(drawn, requests, share) >= _OTHER_SHARE:
            return fact("share-not-as-set", got=_share(drawn, requests), share=share)
    return None


def _judged(plan: Plan, criterion: Criterion, alpha: float, scope: Scope, evidence: Evidence, skewed: Fact | None) -> Finding:
    """The finding; HOLD if the signal raises an error, so that the other criteria and the deadline still act."""
    try:
        return _judge(plan, criterion, alpha, scope, evidence, skewed)
    except Exception as error:  # noqa: BLE001 - another distribution's code may raise anything
        return _unmeasurable(criterion, alpha, plugin_raised(error))


def _unmeasurable(criterion: Criterion, alpha: float, why: Why) -> Finding:
    found = of_signal(criterion.signal, why)
    return Finding(criterion.signal, HOLD, "signal-not-measurable", found, threshold=-math.log(alpha))


def _judge(plan: Plan, criterion: Criterion, alpha: float, scope: Scope, evidence: Evidence, skewed: Fact | None) -> Finding:
    if criterion.kind.unmeasurable is not None:
        return _unmeasurable(criterion, alpha, criterion.kind.unmeasurable)
    threshold, tallies = -math.log(alpha), evidence.tallies(criterion.signal)
    splits, total = splits_of(plan, scope.segments, tallies), _total(scope.segments, tallies)
    step = _step(scope, tallies)
    seen = shown(plan, criterion, splits, step)
    if criterion.kind.compares:
        log_e = log_e_of(splits, criterion.ratio)
        bad, other_bad = sum(each.bad for each in splits), sum(each.events - each.bad for each in splits)
        counted = (total.canary_samples + total.pairs, bad, total.stable_samples + total.pairs, other_bad)
    else:
        log_e = log_e_over(total.pairs_canary_bad, total.pairs, criterion.limit or criterion.kind.limit or 0.5)
        counted = (total.pairs, total.pairs_canary_bad, 0, 0)
    facts = (*counted, log_e, threshold, always_valid_p(log_e))
    misled = skewed if criterion.kind.compares else None
    if log_e >= threshold and misled is None:
        accused = of_signal(criterion.signal, _accusation(plan, criterion, counted, log_e, threshold))
        return Finding(criterion.signal, FAIL, "worse", accused, *facts, shown=seen)
    outcome, code, why, withdraw = (
        _limit(criterion, threshold, scope, tallies)
        or (None if misled is None else (HOLD, "share-not-as-set", misled, False))
        or _uncounted(plan, total, evidence)
        or _suspicion(criterion, log_e, threshold)
        or _of_step(seen, step)
    )
    return Finding(criterion.signal, outcome, code, of_signal(criterion.signal, why), *facts, withdraw, seen)


_Reason = tuple[str, str, Why, bool]


def _limit(criterion: Criterion, threshold: float, scope: Scope, tallies: Tallies) -> _Reason | None:
    """Whether the canary's rate alone is too high in this step. The stable's rate in the same step shows whether moving requests
    there would help."""
    if criterion.limit is None or not criterion.kind.compares:
        return None
    since = max(scope.limit_from, scope.step_from)
    lately = [each for each in scope.segments if each.generation >= since and not each.shadow]
    total = _total((each for each in lately if each.weight > 0), tallies)
    stable = _total(lately, tallies)  # includes the time since the withdrawal: whether the stable alone fares better
    if log_e_over(total.canary_bad, total.canary_samples, criterion.limit) < threshold:
        return None
    rate = {"canary": _share(total.canary_bad, total.canary_samples), "limit": criterion.limit}
    if log_e_over(stable.stable_bad, stable.stable_samples, criterion.limit) >= threshold:
        other = _share(stable.stable_bad, stable.stable_samples)
        return HOLD, "shared-outage", fact("shared-outage", **rate, stable=other), False
    if total.canary_samples < LEAST_LIMITED and 0 < scope.segments[-1].weight < FULL_SHARE:
        return HOLD, "suspicious", fact("over-limit-soon", **rate, least=LEAST_LIMITED), False
    return HOLD, "over-limit", fact("over-limit", **rate), True


def _uncounted(plan: Plan, total: Tally, evidence: Evidence) -> _Reason | None:
    """In a sticky rollout bad events count by user; without users no bad event would count."""
    if plan.sticky is None:
        return None
    if evidence.overflow:
        return HOLD, "too-many-units", fact("too-many-users"), False
    if total.canary_bad + total.stable_bad and not total.canary_units + total.stable_units:
        return HOLD, "units-missing", fact("users-missing"), False
    return None


def _suspicion(criterion: Criterion, log_e: float, threshold: float) -> _Reason | None:
    if criterion.kind.compares and log_e >= max(threshold - _SUSPICION, _LEAST_SUSPICION):
        return HOLD, "suspicious", fact("suspicious", odds=math.exp(log_e)), False
    return None


def _step(scope: Scope, tallies: Tallies) -> Step:
    """The step's counts. Criteria that only shadowed requests can serve do not wait where no requests are shadowed."""
    last = scope.segments[-1] if scope.segments else Segment(0, 0)
    since = max(scope.limit_from, scope.step_from)
    return Step(
        _total((each for each in scope.segments if each.generation >= scope.step_from), tallies),
        _total((each for each in scope.segments if each.generation >= since), tallies),
        shadowed=last.shadow > 0,
        whole=last.weight >= FULL_SHARE,
        needed=scope.needed,
    )


def _of_step(seen: Shown, step: Step) -> _Reason:
    """Whether the step has shown enough, with the stable's counts for comparison."""
    total = step.total
    other = (total.pairs_stable_bad, total.pairs) if step.shadowed else (total.stable_bad, total.stable_samples)
    passes, code, why = explain(seen, other)
    return PASS if passes else HOLD, code, why, False


def _total(segments: Iterable[Segment], tallies: Tallies) -> Tally:
    total = Tally()
    for segment in segments:
        total = total.plus(tallies.get(segment.generation, Tally()))
    return total


def _accusation(plan: Plan, criterion: Criterion, counted: tuple[int, int, int, int], log_e: float, threshold: float) -> Fact:
    samples, bad, other_samples, other_bad = counted
    rare = fact("rare", odds=math.exp(min(log_e, 700.0)), threshold=math.exp(threshold))
    if not criterion.kind.compares:
        return fact("worse-pairs", canary=_share(bad, samples), rare=rare)
    canary, stable = _share(bad, samples), _share(other_bad, other_samples)
    if plan.sticky is not None:
        canary, stable = fact("users", users=bad), fact("users", users=other_bad)
    return fact("worse", canary=canary, stable=stable, ratio=criterion.ratio, rare=rare)


def _share(bad: int, samples: int) -> Fact:
    return fact("share", bad=bad, samples=samples)
