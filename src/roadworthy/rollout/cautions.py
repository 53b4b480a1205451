"""What a person should know when a rollout begins, although nothing stands against it. Pure.

`preflight.py` says what stops one; this is told with the answer to a start, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from roadworthy.contract.snapshot import FULL_SHARE
from roadworthy.rollout.plan import ROLLBACK, Plan, Stage

_LONGER = 2.0
"""A rollout that takes more than this many times its steps' own time is a surprise…"""
_LEAST_S = 600.0
"""…unless it is over in this time anyway."""


@dataclass(frozen=True, slots=True)
class Caution:
    """One thing to know: a stable code and a sentence that says what to expect."""

    code: str
    text: str


def cautions(plan: Plan, *, cached: bool, requests_per_s: float | None) -> tuple[Caution, ...]:
    """All there is to know; empty when nothing is out of the ordinary.

    Args:
        cached: whether the endpoint has a cache of answers.
        requests_per_s: how often the endpoint was asked lately; None when nobody knows.
    """
    return tuple(_cautions(plan, cached, requests_per_s))


def _cautions(plan: Plan, cached: bool, requests_per_s: float | None) -> Iterator[Caution]:
    if cached:
        yield Caution(
            "cache-is-off",
            "the endpoint's cache answers nothing during a rollout: both versions get the full load until it is over",
        )
    if requests_per_s is None or not any(_needed(plan, stage) for stage in plan.steps):
        return
    if requests_per_s <= 0.0:
        yield Caution("no-traffic", f"no request came in the past hour, and steps wait for some{_deadline(plan)}")
        return
    holds_s = sum(stage.hold_s for stage in plan.steps)
    takes_s = sum(max(stage.hold_s, _evidence_s(plan, stage, requests_per_s)) for stage in plan.steps)
    if takes_s > max(_LONGER * holds_s, _LEAST_S):
        early = plan.deadline_s is not None and takes_s > plan.deadline_s
        yield Caution(
            "thin-traffic",
            f"at the past hour's rate ({_rate(requests_per_s)}) the evidence that the steps ask for takes about "
            f"{_time(takes_s)}, where their own time is {_time(holds_s)}{_deadline(plan) if early else ''}",
        )


def _needed(plan: Plan, stage: Stage) -> int:
    """The most that a guard wants to see in this step; what only copied requests tell is not waited for where there are none."""
    waiting = [guard for guard in plan.guards if guard.kind.compares or stage.shadow]
    return max((stage.evidence if guard.evidence is None else guard.evidence for guard in waiting), default=0)


def _evidence_s(plan: Plan, stage: Stage, requests_per_s: float) -> float:
    part = max(stage.weight, stage.shadow) / FULL_SHARE
    return _needed(plan, stage) / (requests_per_s * part)


def _deadline(plan: Plan) -> str:
    if plan.deadline_s is None:
        return ""
    then = "it goes back" if plan.at_deadline == ROLLBACK else "it holds"
    return f"; at the deadline, after {_time(plan.deadline_s)}, {then}"


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
