"""From evidence to PASS, FAIL or HOLD, each with its reasons, its numbers and a sentence for whoever is on call. Pure.

`machine.py` calls `judge` at every tick and acts on it. Each guard of the plan is judged by itself:

- FAIL: the evidence that the canary is worse than the guard tolerates has reached 1 / (the guard's part of alpha).
- HOLD, with `withdraw`: its rate is over the guard's limit while the stable's is not, or nobody knows. That is no reason to roll
  back, since the stable may be no better, but one to send no more requests there until a person has looked.
- HOLD: there is no evidence, or too little, or suspiciously much of it, or both versions are over the limit.
- HOLD: the arms did not get the requests that they were to get, so that nobody knows whose share of bad events is too large.
- PASS: enough was seen, and it shows the canary to be well; see `passing.py`.

The rollout's verdict is FAIL when any guard's is, else HOLD when any's is, else PASS. How long a step lasts is not judged here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import msgspec

from roadworthy.contract.evidence import DRAWN
from roadworthy.contract.snapshot import FULL_SHARE
from roadworthy.rollout.decide.passing import Shown, Step, shown, told
from roadworthy.rollout.evidence.counts import Evidence, Tally
from roadworthy.rollout.plan.plan import Guard, Plan
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
"""A step does not go on while E is within a factor 10 of what rolls back, and 20 at least: waiting is cheaper than widening."""

LEAST_LIMITED = 20
"""Requests of the canary before a limit takes its share away while the stable has traffic too. Three failures of three are over a
limit of 5 %, and at a share of 25 % it takes five to show it worse, at 50 % eleven: what can be rolled back so soon is not to be
withheld until a person comes."""
_OTHER_SHARE = math.log(10_000.0)
"""Draws as set reach this E, in a segment, with a probability of 1 in 10,000 at most, however often one looks."""


class Segment(msgspec.Struct, frozen=True):
    """A generation of the endpoint during the rollout, and the canary's parts in it, of FULL_SHARE."""

    generation: int
    weight: int
    shadow: int = 0


class Scope(msgspec.Struct, frozen=True):
    """Which generations count.

    Attributes:
        segments: all of the rollout.
        step_from: first generation of the present step: what its minimum of evidence is counted from.
        limit_from: first generation that limits are judged by, if later than `step_from`: a person who resumes after a limit
            starts them anew.
        needed: samples that each guard wants to see in the step at least.
    """

    segments: tuple[Segment, ...]
    step_from: int
    limit_from: int
    needed: int


class Finding(msgspec.Struct, frozen=True):
    """One guard's verdict.

    Attributes:
        signal: of the guard. outcome: PASS, FAIL or HOLD. code: why, stable ("worse", "no-evidence", …). text: why, in words.
        samples, bad: the canary's, over the whole rollout; in shadow steps, pairs. In a sticky rollout `bad` and `other_bad` are
            distinct users. other_samples, other_bad: the stable's.
        log_e: ln E now. threshold: ln E that rolls back. p: 1/E, at most 1.
        withdraw: whether the canary's share is to be taken from it.
        shown: what the present step has shown of it, against what it must; None in verdicts of releases that did not ask.
    """

    signal: str
    outcome: str
    code: str
    text: str
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
    """What the evidence says now. `code` and `text` are those of the guard that decided; PASS without guards is "no-guards"."""

    outcome: str
    code: str
    text: str
    findings: tuple[Finding, ...] = ()
    withdraw: bool = False


def judge(plan: Plan, scope: Scope, evidence: Evidence) -> Verdict:
    """The verdict on everything counted so far."""
    alphas = plan.alphas()
    skewed = _skewed(plan, scope, evidence)
    findings = tuple(_judge(plan, guard, alphas[guard.signal], scope, evidence, skewed) for guard in plan.guards)
    ordered = sorted(findings, key=lambda each: ((FAIL, HOLD, PASS).index(each.outcome), not each.withdraw))
    if not ordered and skewed is not None:
        return Verdict(HOLD, "share-not-as-set", skewed)
    if not ordered:
        return Verdict(PASS, "no-guards", "the plan has no guards")
    first = ordered[0]
    return Verdict(first.outcome, first.code, first.text, findings, any(each.withdraw for each in findings))


def splits_of(plan: Plan, segments: Iterable[Segment], tallies: Tallies) -> list[Split]:
    """Whose the bad events were, segment by segment: live requests by the share that drew them; shadowed ones one to one, of
    which only those count where exactly one side was bad. No segment has both, because the stable's side would count twice.

    In a sticky rollout one user's bad events are one, in the first segment that saw them: a user stays with an arm, so one user
    whom both versions fail would otherwise look like many events of one arm.
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
    """Bad events of the canary and of the stable, or users with one where users are what is drawn."""
    if plan.sticky is not None:
        return tally.canary_units, tally.stable_units
    return tally.canary_bad, tally.stable_bad


def _skewed(plan: Plan, scope: Scope, evidence: Evidence) -> str | None:
    """In words, that an arm got more requests than its share in some segment; None while that may be chance.

    Sticky rollouts draw users, of whom only those with bad events are told apart: there one that calls often is no fault.
    """
    if plan.sticky is not None:
        return None
    tallies = evidence.tallies(DRAWN)
    for segment in scope.segments:
        tally = tallies.get(segment.generation, Tally())
        drawn, share = tally.canary_samples, segment.weight / FULL_SHARE
        requests = drawn + tally.stable_samples
        if 0.0 < share < 1.0 and log_e_other_share(drawn, requests, share) >= _OTHER_SHARE:
            return (
                f"the new version got {_share(drawn, requests)} requests where {share:g} was set, which is no chance: "
                "whose the bad events are says nothing"
            )
    return None


def _judge(plan: Plan, guard: Guard, alpha: float, scope: Scope, evidence: Evidence, skewed: str | None) -> Finding:
    threshold, tallies = -math.log(alpha), evidence.tallies(guard.signal)
    splits, total = splits_of(plan, scope.segments, tallies), _total(scope.segments, tallies)
    step = _step(scope, tallies)
    seen = shown(plan, guard, splits, step)
    if guard.kind.compares:
        log_e = log_e_of(splits, guard.ratio)
        bad, other_bad = sum(each.bad for each in splits), sum(each.events - each.bad for each in splits)
        counted = (total.canary_samples + total.pairs, bad, total.stable_samples + total.pairs, other_bad)
    else:
        log_e = log_e_over(total.pairs_canary_bad, total.pairs, guard.limit or guard.kind.limit or 0.5)
        counted = (total.pairs, total.pairs_canary_bad, 0, 0)
    facts = (*counted, log_e, threshold, always_valid_p(log_e))
    misled = skewed if guard.kind.compares else None
    if log_e >= threshold and misled is None:
        text = _accusation(plan, guard, counted, log_e, threshold)
        return Finding(guard.signal, FAIL, "worse", text, *facts, shown=seen)
    outcome, code, text, withdraw = (
        _limit(guard, threshold, scope, tallies)
        or (None if misled is None else (HOLD, "share-not-as-set", misled, False))
        or _uncounted(plan, total, evidence)
        or _suspicion(guard, log_e, threshold)
        or _of_step(seen, step)
    )
    return Finding(guard.signal, outcome, code, f"{guard.signal}: {text}", *facts, withdraw, seen)


_Reason = tuple[str, str, str, bool]


def _limit(guard: Guard, threshold: float, scope: Scope, tallies: Tallies) -> _Reason | None:
    """Whether the canary's rate alone is too high in this step. The stable's, in the same step, tells whether it would help to
    send the requests there."""
    if guard.limit is None or not guard.kind.compares:
        return None
    since = max(scope.limit_from, scope.step_from)
    lately = [each for each in scope.segments if each.generation >= since and not each.shadow]
    total = _total((each for each in lately if each.weight > 0), tallies)
    stable = _total(lately, tallies)  # also since the share was taken: whether the stable fares better alone
    if log_e_over(total.canary_bad, total.canary_samples, guard.limit) < threshold:
        return None
    rate = f"{_share(total.canary_bad, total.canary_samples)} of the canary's, where {guard.limit:.3g} is the limit"
    if log_e_over(stable.stable_bad, stable.stable_samples, guard.limit) >= threshold:
        other = _share(stable.stable_bad, stable.stable_samples)
        return HOLD, "shared-outage", f"{rate}, but {other} of the stable's too: both suffer, nobody is accused", False
    if total.canary_samples < LEAST_LIMITED and 0 < scope.segments[-1].weight < FULL_SHARE:
        return HOLD, "suspicious", f"{rate}; {LEAST_LIMITED} of its requests will tell whether it is worse", False
    return HOLD, "over-limit", f"{rate}; its traffic is back on the stable until a person resumes or aborts", True


def _uncounted(plan: Plan, total: Tally, evidence: Evidence) -> _Reason | None:
    """In a sticky rollout bad events count by user; without users they would look like none at all."""
    if plan.sticky is None:
        return None
    if evidence.overflow:
        return (
            HOLD,
            "too-many-units",
            "more users had bad events than can be told apart, so they cannot be counted",
            False,
        )
    if total.canary_bad + total.stable_bad and not total.canary_units + total.stable_units:
        return HOLD, "units-missing", "bad events came without the users who had them, so they cannot be counted", False
    return None


def _suspicion(guard: Guard, log_e: float, threshold: float) -> _Reason | None:
    if guard.kind.compares and log_e >= max(threshold - _SUSPICION, _LEAST_SUSPICION):
        odds = f"once in {_count(math.exp(log_e))}"
        return (
            HOLD,
            "suspicious",
            f"an equal version looks this bad {odds}; wait until it looks better or is refuted",
            False,
        )
    return None


def _step(scope: Scope, tallies: Tallies) -> Step:
    """The step's counts. What only shadowed requests tell is not waited for where there are none."""
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
    """Whether the step has shown enough, beside the stable's counts in it."""
    total = step.total
    other = (total.pairs_stable_bad, total.pairs) if step.shadowed else (total.stable_bad, total.stable_samples)
    passes, code, text = told(seen, other)
    return PASS if passes else HOLD, code, text, False


def _total(segments: Iterable[Segment], tallies: Tallies) -> Tally:
    total = Tally()
    for segment in segments:
        total = total.plus(tallies.get(segment.generation, Tally()))
    return total


def _accusation(plan: Plan, guard: Guard, counted: tuple[int, int, int, int], log_e: float, threshold: float) -> str:
    samples, bad, other_samples, other_bad = counted
    rarity = (
        f"would look this bad once in {_count(math.exp(min(log_e, 700.0)))} rollouts; the plan rolls back from once in"
    )
    rarity = f"{rarity} {_count(math.exp(threshold))} on"
    if not guard.kind.compares:
        return f"{guard.signal}: {_share(bad, samples)} pairs; a version within the limit {rarity}"
    worse = "that is no worse" if guard.ratio == 1.0 else f"with {guard.ratio:.3g} times the stable's rate"
    sides = f"canary {_share(bad, samples)}, stable {_share(other_bad, other_samples)}"
    if plan.sticky is not None:
        sides = f"canary {bad:,} users, stable {other_bad:,} users"
    return f"{guard.signal}: {sides}; one {worse} {rarity}"


def _share(bad: int, samples: int) -> str:
    return f"{bad:,} of {samples:,}" + (f" ({bad / samples:.3g})" if samples else "")


def _count(number: float) -> str:
    return f"{number:,.0f}" if number < 1e6 else f"{number:.0e}"
