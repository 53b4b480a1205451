"""A rollout's plan: a person's intention, with every default filled in.

`parse.py` makes it from YAML or JSON, `machine.py` follows it and `verdict.py` judges by it. Every strategy is such a plan: steps
with shares, the conditions of each, and what follows the last. Blue-green needs no other code than a canary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from roadworthy.contract.snapshot import FULL_SHARE
from roadworthy.rollout.plan.documents import in_this_form
from roadworthy.rollout.stored import read_stored
from roadworthy.signals.discovery import signal_named, signal_or_missing
from roadworthy.signals.signal import Signal

FORMAT, _WITH_GUARDS = 2, 1
"""The format of stored plans, and the earlier one, in which criteria are called guards."""
PROMOTE, WAIT, END = "promote", "wait", "end"
"""After the last step: the canary takes over, a person decides, or the rollout ends and the stable stays."""
ROLLBACK, HOLD = "rollback", "hold"
"""The action at the deadline."""
ALERT = "alert"
HIGHER, LOWER = "higher", "lower"
"""Whether higher or lower values of a metric are better."""


class Stage(msgspec.Struct, frozen=True):
    """One step of a plan.

    Attributes:
        weight: the canary's share of live requests, of FULL_SHARE (hundredths of a percent).
        shadow: the share of live requests that is also copied to the canary, of FULL_SHARE; only where weight is 0.
        hold_s: minimum duration of the step, in seconds of exposure.
        evidence: minimum of the canary's requests (in a shadow step, pairs) for each criterion.
        approve: whether a person must approve before the step begins.
    """

    weight: int
    shadow: int = 0
    hold_s: float = 600.0
    evidence: int = 100
    approve: bool = False

    @property
    def share(self) -> float:
        """`weight` as a fraction."""
        return self.weight / FULL_SHARE


class Criterion(msgspec.Struct, frozen=True):
    """A signal that can roll back.

    Attributes:
        signal: its name.
        ratio: the canary's rate of bad events may be this many times the stable's.
        margin: a step passes with evidence that the rate is below this many times what `ratio` tolerates.
        limit: the highest allowed rate; above it the canary's share is withdrawn. None for no limit.
        weight: its part of alpha, relative to the other criteria; None for the default (half of alpha for errors, else 1).
        evidence: replaces the step's minimum; 0 waits for none.
        parameters: the signal's own.
    """

    signal: str
    ratio: float = 1.0
    margin: float = 1.5
    limit: float | None = None
    weight: float | None = None
    evidence: int | None = None
    parameters: dict[str, Any] = {}

    @property
    def kind(self) -> Signal:
        """The signal itself."""
        return signal_or_missing(self.signal)

    @property
    def allowed(self) -> float:
        """The rate that the canary must be shown to stay below, unless it is shown to be below a multiple of the stable's."""
        return self.kind.allowed(self.ratio, self.margin) if self.limit is None else self.limit


class Watch(msgspec.Struct, frozen=True):
    """A signal that cannot roll back.

    Attributes:
        signal: its name. on_alarm: whether its alarm holds the rollout or only alerts people ("hold" or "alert").
        tolerance: how far the versions may differ; None for the signal's default. For "confidence" the difference of the means,
            for "drift" the share of answers in another class, for "resources" a multiple of the stable's memory, for others the
            share of answers in another bin.
        parameters: the signal's own.
    """

    signal: str
    on_alarm: str = HOLD
    tolerance: float | None = None
    parameters: dict[str, Any] = {}

    @property
    def tolerated(self) -> float:
        """`tolerance`, or the signal's default."""
        known = signal_named(self.signal)
        default = 0.0 if known is None else known.tolerance
        return default if self.tolerance is None else self.tolerance


class Metric(msgspec.Struct, frozen=True):
    """A metric that an A/B test reports for each variant: values between `low` and `high`, at most one per request. `better` is
    HIGHER or LOWER."""

    name: str
    low: float = 0.0
    high: float = 1.0
    better: str = HIGHER


class Sticky(msgspec.Struct, frozen=True):
    """The key that assigns a user to a variant, so that the user stays there: an input field or a header; the other is None."""

    field: str | None = None
    header: str | None = None


class Plan(msgspec.Struct, frozen=True):
    """A plan with all its defaults.

    Attributes:
        strategy: the person's name for it; only texts depend on it.
        steps: in order; empty only in a deployment.
        after: PROMOTE, WAIT or END.
        alpha: false-rollback probability over the whole rollout, for all criteria together and any number of looks.
        beta: probability that a version that is worse by a criterion's margin, or over its limit, passes a step.
        criteria: at most one of each signal. watches, metrics: the same.
        sticky: None to assign each request separately.
        deadline_s: time without pauses until `at_deadline` (ROLLBACK or HOLD) happens; None for no deadline.
        crashes: number of crashes of the canary's processes that rolls it back.
    """

    strategy: str
    steps: tuple[Stage, ...]
    after: str = PROMOTE
    alpha: float = 0.01
    beta: float = 0.05
    criteria: tuple[Criterion, ...] = ()
    watches: tuple[Watch, ...] = ()
    metrics: tuple[Metric, ...] = ()
    sticky: Sticky | None = None
    deadline_s: float | None = 86_400.0
    at_deadline: str = ROLLBACK
    crashes: int = 3
    format: int = FORMAT

    @property
    def signals(self) -> tuple[Criterion | Watch, ...]:
        """Every criterion and every watched signal."""
        return (*self.criteria, *self.watches)

    def alphas(self) -> dict[str, float]:
        """Each criterion's part of alpha, by signal; they add up to alpha.

        Errors get half of it and the rest is split by weight, unless the plan gives errors a weight of its own.
        """
        weights = {criterion.signal: 1.0 if criterion.weight is None else criterion.weight for criterion in self.criteria}
        halved = [criterion for criterion in self.criteria if criterion.signal == "errors" and criterion.weight is None]
        if halved and len(weights) > 1:
            weights["errors"] = sum(weight for signal, weight in weights.items() if signal != "errors")
        whole = sum(weights.values())
        return {signal: self.alpha * weight / whole for signal, weight in weights.items()}

    def to_document(self) -> dict[str, Any]:
        """Plain JSON values, for the store."""
        return dict(msgspec.to_builtins(self))


DEPLOYMENT = Plan("all-at-once", steps=(), deadline_s=None)
"""The plan of a deployment: all traffic at once, with nothing to measure and no time to pass."""


def plan_from_document(document: Mapping[str, Any]) -> Plan:
    """The plan that `to_document` of this release or the previous one described.

    Raises:
        ValueError: not such a document, or a format that this release does not know.
    """
    if document.get("format") == _WITH_GUARDS:
        if {"guards", "criteria"} <= document.keys():
            raise ValueError("a plan of format 1 has guards, and later ones have criteria; this one has both")
        document = {**in_this_form(document), "format": FORMAT}
    return read_stored(document, Plan, FORMAT, "plan", "a plan")
