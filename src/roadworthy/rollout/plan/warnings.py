"""Warnings for the person who starts a rollout, when nothing prevents it. Pure.

`preflight.py` finds what prevents a rollout; warnings come with the reply to a start and change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from roadworthy.contract.snapshot import FULL_SHARE
from roadworthy.rollout.plan.plan import ROLLBACK, Criterion, Plan, Stage
from roadworthy.statistics.waiting import samples_until_not_worse, samples_until_under

_LONGER = 2.0
"""A rollout that takes more than this many times its steps' own time is worth a warning…"""
_LEAST_S = 600.0
"""…unless it takes less than this anyway."""


@dataclass(frozen=True, slots=True)
class PlanWarning:
    """One warning: a stable code and a sentence that says what to expect."""

    code: str
    text: str


def plan_warnings(plan: Plan, *, cached: bool, requests_per_s: float | None) -> tuple[PlanWarning, ...]:
    """All warnings about a plan; empty when nothing is unusual.

    Args:
        cached: whether the endpoint has a cache of answers.
        requests_per_s: the endpoint's recent rate of requests; None when unknown.
    """
    return tuple(_warnings(plan, cached, requests_per_s))


def _warnings(plan: Plan, cached: bool, requests_per_s: float | None) -> Iterator[PlanWarning]:
    if cached:
        yield PlanWarning(
            "cache-is-off",
            "the endpoint's cache is off during a rollout: both versions get the full load until it is over",
        )
    if not any(_needed(criterion, stage) for stage in plan.steps for criterion in plan.criteria):
        return
    never = [each for stage in plan.steps for criterion in plan.criteria for each in _never(plan, criterion, stage)]
    if never:
        yield PlanWarning(
            "unlikely-to-be-decided",
            f"{'; '.join(dict.fromkeys(never))}: the rollout waits until a person decides{_deadline(plan)}",
        )
    if requests_per_s is None:
        return
    if requests_per_s <= 0.0:
        yield PlanWarning("no-traffic", f"no requests in the past hour, but the steps wait for some{_deadline(plan)}")
        return
    if not never:
        yield from _slow(plan, requests_per_s)


def _slow(plan: Plan, requests_per_s: float) -> Iterator[PlanWarning]:
    """Whether the evidence will arrive before the deadline, and whether much later than the steps' own time."""
    holds_s = sum(stage.hold_s for stage in plan.steps)
    takes_s = sum(max(stage.hold_s, _evidence_s(plan, stage, requests_per_s)) for stage in plan.steps)
    estimate = (
        f"at the past hour's rate ({_rate(requests_per_s)}) the evidence that the steps need takes about "
        f"{_time(takes_s)}, while their own time is {_time(holds_s)}"
    )
    if plan.deadline_s is not None and takes_s > plan.deadline_s:
        yield PlanWarning("unlikely-to-be-decided", f"{estimate}, so a decision in time is unlikely{_deadline(plan)}")
    elif takes_s > max(_LONGER * holds_s, _LEAST_S):
        yield PlanWarning("thin-traffic", estimate)


def _needed(criterion: Criterion, stage: Stage) -> int:
    """The criterion's minimum of samples in this step; 0 for a criterion on copied requests in a step without any."""
    if not (criterion.kind.compares or stage.shadow):
        return 0
    return stage.evidence if criterion.evidence is None else criterion.evidence


def _samples(plan: Plan, criterion: Criterion, stage: Stage) -> float:
    """The canary's requests until the criterion passes the step, assuming a typical good version."""
    needed = _needed(criterion, stage)
    if not needed or not criterion.kind.waits:
        return needed
    usual = criterion.kind.usual
    shown = samples_until_under(usual, criterion.allowed, plan.beta)
    share = 0.5 if stage.shadow else stage.share
    if criterion.kind.compares and 0.0 < share < 1.0:
        times = criterion.margin * criterion.ratio
        shown = min(shown, samples_until_not_worse(usual, share, times, plan.beta))
    return max(needed, shown)


def _never(plan: Plan, criterion: Criterion, stage: Stage) -> Iterator[str]:
    if math.isinf(_samples(plan, criterion, stage)):
        where = "at 100 %" if stage.weight >= FULL_SHARE else "in a step"
        yield (
            f"{criterion.signal} must be shown to be below {criterion.allowed:.3g} {where}, but a good version has about"
            f" {criterion.kind.usual:.3g}"
        )


def _evidence_s(plan: Plan, stage: Stage, requests_per_s: float) -> float:
    part = max(stage.weight, stage.shadow) / FULL_SHARE
    samples = max((_samples(plan, criterion, stage) for criterion in plan.criteria), default=0)
    return samples / (requests_per_s * part)


def _deadline(plan: Plan) -> str:
    if plan.deadline_s is None:
        return ""
    then = "rolls back" if plan.at_deadline == ROLLBACK else "holds"
    return f"; at the deadline, after {_time(plan.deadline_s)}, it {then} as inconclusive"


def _rate(per_s: float) -> str:
    for unit, seconds in (("second", 1.0), ("minute", 60.0)):
        if per_s * seconds >= 1.0:
            return f"{per_s * seconds:.3g} a {unit}"
    return f"{per_s * 3_600.0:.2g} an hour"


def _time(seconds: float) -> str:
    for unit, size in (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2.0 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
