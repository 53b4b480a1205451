"""A plan as a person writes it, in YAML or JSON, becomes a `Plan`; all its faults are reported at once.

The command line and the management API call `read_plan` and `check_plan`. The classes below declare what a plan may say;
docs/rollouts.md explains every key.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, TypedDict

from roadworthy.contract.snapshot import FULL_SHARE
from roadworthy.foundation.documents import INVALID, Bounds, Fault, Given, OneOf, Reader, invalid_request
from roadworthy.foundation.errors import InvalidRequest
from roadworthy.rollout.plan import plan as plans
from roadworthy.rollout.plan.documents import in_this_form, load
from roadworthy.rollout.plan.plan import Criterion, Metric, Plan, Stage, Sticky, Watch
from roadworthy.signals.discovery import DEFAULT_CRITERIA, names_of, signal_named
from roadworthy.signals.signal import CRITERION, MOST_ALLOWED, OBSERVER, Signal

CANARY, BLUE_GREEN, AB, SHADOW, ALL_AT_ONCE = "canary", "blue-green", "ab", "shadow", "all-at-once"
STRATEGIES = (CANARY, BLUE_GREEN, AB, SHADOW, ALL_AT_ONCE)
MOST_STEPS = 50
_DAY_S = 86_400.0
_HUGE = 1e300
"""Larger than any valid number of a plan. Not every larger whole number fits into a float."""
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")


def duration_s(value: object) -> float | None:
    """Seconds of a time such as "90s", "10m" or "1h30m", or of a plain number; None when it is not a time."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) < _HUGE else None
    found = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
    if found is None:
        return None
    return math.fsum(float(part) * unit for part, unit in zip(found.groups(), (86_400, 3_600, 60, 1), strict=True) if part)


def _seconds(value: object) -> float:
    seconds = duration_s(value)
    if seconds is None:
        raise ValueError(f"expected a time such as 90s, 10m or 1h30m, got {value!r:.40}")
    return seconds


def _whole(value: object) -> object:
    """A whole number, also from a form such as 1e3, which YAML reads as a float."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _hundredths(percent: float) -> int:
    """A share in percent as hundredths of a percent."""
    hundredths = round(percent * 100)
    if abs(percent * 100 - hundredths) > 1e-6:
        raise ValueError("must have at most two decimals")
    return hundredths


def _header(name: str) -> str:
    if not _HEADER.fullmatch(name):
        raise ValueError("expected the name of a header")
    return name


Chance = Annotated[float, Bounds(1e-6, 0.2)]
Share = Annotated[float, Bounds(0.01, 100), _hundredths]
Evidence = Annotated[int, Given(_whole), Bounds(0, 10**9)]
Hold = Annotated[float, Given(_seconds), Bounds(0, 366 * _DAY_S)]
Finite = Annotated[float, Bounds(-_HUGE, _HUGE)]
Strategy = Annotated[str, OneOf(STRATEGIES)]
OnAlarm = Annotated[str, OneOf((plans.HOLD, plans.ALERT))]


class _Step(TypedDict, total=False):
    share: Share
    shadow: Share
    hold: Hold
    evidence: Evidence
    approve: bool


class _Criterion(TypedDict, total=False):
    ratio: Annotated[float, Bounds(0.1, 100)]
    margin: Annotated[float, Bounds(1.01, 100)]
    limit: Annotated[float, Bounds(1e-6, MOST_ALLOWED)] | None
    weight: Annotated[float, Bounds(0.001, 1_000)]
    evidence: Evidence


class _Metric(TypedDict, total=False):
    low: Finite
    high: Finite
    better: Annotated[str, OneOf((plans.HIGHER, plans.LOWER))]


class _Watch(TypedDict, total=False):
    on_alarm: OnAlarm
    tolerance: Annotated[float, Bounds(0.001, 100)]


class _Sticky(TypedDict, total=False):
    field: str
    header: Annotated[str, _header]


class _Plan(TypedDict, total=False):
    strategy: Strategy
    alpha: Chance
    beta: Chance
    criteria: Any
    watch: Any
    sticky: _Sticky | None
    deadline: Annotated[float, Given(_seconds), Bounds(1, 366 * _DAY_S)] | None
    at_deadline: Annotated[str, OneOf((plans.ROLLBACK, plans.HOLD))]
    crashes: Annotated[int, Given(_whole), Bounds(1, 1_000)]


class _Canary(_Plan, total=False):
    steps: Annotated[tuple[Any, ...], Bounds(1, MOST_STEPS)]
    hold: Hold
    evidence: Evidence


class _BlueGreen(_Plan, total=False):
    bake: Hold
    evidence: Evidence
    approve: bool


class _AB(_Plan, total=False):
    share: Annotated[float, Bounds(0.01, 99.99), _hundredths]
    hold: Hold
    evidence: Evidence
    metrics: Any


class _Shadow(_Plan, total=False):
    share: Share
    hold: Hold
    evidence: Evidence


DECLARED: Mapping[str, Any] = {CANARY: _Canary, BLUE_GREEN: _BlueGreen, AB: _AB, SHADOW: _Shadow, ALL_AT_ONCE: _Plan}
"""What a plan of each strategy may say."""


def read_plan(text: str | bytes) -> Plan:
    """A plan from YAML or JSON text.

    Raises:
        InvalidRequest: "invalid-plan"; facts["problems"] has every fault.
    """
    try:
        document = load(text)
    except ValueError as error:
        raise _invalid([Fault("", str(error))]) from error
    return check_plan(document)


def check_plan(document: object) -> Plan:
    """A plan from plain values.

    Raises:
        InvalidRequest: "invalid-plan"; facts["problems"] has every fault.
    """
    reader = _PlanReader()
    plan = reader.plan(document)
    if reader.faults or plan is None:
        raise _invalid(reader.faults)
    return plan


def _invalid(faults: Sequence[Fault]) -> InvalidRequest:
    hint = "docs/rollouts.md has every key with its default and bounds"
    return invalid_request("the plan is not valid", faults, code="invalid-plan", hint=hint)


@functools.cache
def _with_parameters(kind: type, parameters: type) -> type:
    """A declaration of the keys of both."""
    return types.new_class(parameters.__name__, (kind, parameters))


class _PlanReader(Reader):
    """Fills in defaults, also for a value with a fault, so that the rest is read too."""

    def plan(self, document: object) -> Plan | None:
        """The plan, or None when it has no strategy by which it could be read. Usable only without faults."""
        if not isinstance(document, Mapping):
            self.fault("", "a plan is a mapping that begins with `strategy:`")
            return None
        document = in_this_form(document)
        if "strategy" not in document:
            self.fault("strategy", f"is missing; known are {', '.join(STRATEGIES)}", STRATEGIES)
            return None
        strategy = self.value(Strategy, document["strategy"], "strategy")
        if strategy is INVALID:
            return None
        given = self.table(DECLARED[strategy], document)
        steps = self._steps(strategy, given)
        return Plan(
            strategy=strategy,
            steps=steps,
            after={AB: plans.WAIT, SHADOW: plans.END}.get(strategy, plans.PROMOTE),
            alpha=given.get("alpha", 0.01),
            beta=given.get("beta", 0.05),
            criteria=self._criteria(strategy, given.get("criteria"), any(stage.shadow for stage in steps)),
            watches=self._watches(given),
            metrics=self._metrics(given.get("metrics", [])),
            sticky=self._sticky(document.get("sticky"), given.get("sticky")),
            deadline_s=self._deadline(strategy, given, sum(stage.hold_s for stage in steps)),
            at_deadline=given.get("at_deadline", plans.HOLD if strategy == AB else plans.ROLLBACK),
            crashes=given.get("crashes", 3),
        )

    def _steps(self, strategy: str, given: Mapping[str, Any]) -> tuple[Stage, ...]:
        evidence = given.get("evidence", 100)
        hold_s = given.get("hold", 600.0 if strategy == CANARY else 3_600.0)
        if strategy == ALL_AT_ONCE:
            return (Stage(FULL_SHARE, hold_s=0.0, evidence=0),)
        if strategy == BLUE_GREEN:
            return (Stage(FULL_SHARE, 0, given.get("bake", 600.0), evidence, given.get("approve", False)),)
        if strategy == AB:
            return (Stage(given.get("share", FULL_SHARE // 2), 0, hold_s, evidence),)
        if strategy == SHADOW:
            return (Stage(0, given.get("share", FULL_SHARE), hold_s, evidence),)
        stages = tuple(
            self._step(f"steps[{number}]", step, Stage(0, 0, hold_s, evidence))
            for number, step in enumerate(given.get("steps", (5, 25, 50, 100)))
        )
        for number, (one, other) in enumerate(itertools.pairwise(stages), start=1):
            if other.weight <= one.weight and not (other.shadow > one.shadow and one.weight == 0):
                self.fault(f"steps[{number}]", "each step must give the new version more than the previous one")
        return stages

    def _step(self, path: str, value: object, default: Stage) -> Stage:
        if not isinstance(value, Mapping):
            share = self.value(Share, value, path)
            return Stage(FULL_SHARE if share is INVALID else share, 0, default.hold_s, default.evidence)
        given = self.table(_Step, value, path)
        if ("share" in value) == ("shadow" in value):
            self.fault(path, "expected either `share` or `shadow`: the stable's requests cannot be evidence twice")
        return Stage(
            given.get("share", FULL_SHARE if "share" in value else 0),
            given.get("shadow", FULL_SHARE if "shadow" in value else 0),
            given.get("hold", default.hold_s),
            given.get("evidence", default.evidence),
            given.get("approve", False),
        )

    def _criteria(self, strategy: str, given: object, shadowed: bool) -> tuple[Criterion, ...]:
        if given is None:
            given = [*DEFAULT_CRITERIA, *(["disagreement"] if strategy == SHADOW else [])]
        criteria = (self._criterion(f"criteria.{name}", name, value, shadowed) for name, value in self._named("criteria", given))
        return tuple(criterion for criterion in criteria if criterion is not None)

    def _criterion(self, path: str, name: str, value: Mapping[str, Any], shadowed: bool) -> Criterion | None:
        signal = signal_named(name)
        if signal is None:
            self.unknown(path, "signal", name, names_of(CRITERION))
            return None
        if signal.kind != CRITERION:
            self.fault(path, "this signal can only hold or alert, never roll back; list it under `watch`", names_of(CRITERION))
            return None
        given, own = self._of_signal(_Criterion, signal, value, path)
        if not signal.compares and not shadowed:
            self.fault(path, "this signal is counted in shadow steps only, and the plan has none")
        limit = given.get("limit", signal.limit)
        if "limit" in given and limit is None and not signal.compares:
            self.fault(f"{path}.limit", "expected a number, got null")
        return Criterion(
            name,
            given.get("ratio", signal.ratio),
            given.get("margin", 1.5),
            limit,
            given.get("weight"),
            given.get("evidence", None if signal.waits else 0),
            own,
        )

    def _of_signal(
        self, kind: type, signal: Signal, value: Mapping[str, Any], path: str
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the plan says of a signal: what it may say of every one, and the signal's own parameters."""
        if signal.parameters is None:
            return self.table(kind, value, path), {}
        given = self.table(_with_parameters(kind, signal.parameters), value, path)
        own = {name: given.pop(name) for name in signal.parameters.__annotations__ if name in given}
        return given, own

    def _watches(self, given: Mapping[str, Any]) -> tuple[Watch, ...]:
        asked, watches = given.get("watch", {}), []
        if isinstance(asked, list):
            asked = {name: plans.HOLD for name in asked if isinstance(name, str)}
        if not isinstance(asked, Mapping):
            self.fault("watch", f"expected `SIGNAL: {plans.HOLD}` or `SIGNAL: {plans.ALERT}` for each")
            return ()
        for name, value in asked.items():
            signal = signal_named(str(name))
            if signal is None or signal.kind != OBSERVER:
                self.unknown(f"watch.{name}", "signal to watch", str(name), names_of(OBSERVER))
            else:
                watches.append(self._watch(f"watch.{name}", signal, value))
        if any(watch.signal == "business" for watch in watches) and not given.get("metrics"):
            self.fault("watch.business", "needs `metrics`, which name the values to watch")
        return tuple(watches)

    def _watch(self, path: str, signal: Signal, value: object) -> Watch:
        """`hold`, `alert`, or a mapping with more; the tolerance of parts and differences is under 1, a ratio is at least 1."""
        if not isinstance(value, Mapping):
            on_alarm = self.value(OnAlarm, value, path)
            return Watch(signal.name, on_alarm, None, self._of_signal(_Watch, signal, {}, path)[1])
        given, own = self._of_signal(_Watch, signal, value, path)
        tolerance = given.get("tolerance")
        if "tolerance" in value and not signal.tolerance:
            self.fault(f"{path}.tolerance", "not possible here: any metric that is shown to be worse is an alarm")
        elif tolerance is not None and (tolerance >= 1.0) != (signal.tolerance >= 1.0):
            meaning = "a multiple of the stable's, 1 or more" if signal.tolerance >= 1.0 else "a part, under 1"
            self.fault(f"{path}.tolerance", f"expected {meaning}, got {tolerance:g}")
        return Watch(signal.name, given.get("on_alarm", plans.HOLD), tolerance, own)

    def _metrics(self, asked: object) -> tuple[Metric, ...]:
        metrics = []
        for name, value in self._named("metrics", asked):
            path = f"metrics.{name}"
            metric = Metric(name, **self.table(_Metric, value, path))
            if not _NAME.fullmatch(name):
                self.fault(path, "expected a name of lower-case letters, digits and underscores")
            if metric.low >= metric.high:
                self.fault(path, "`low` must be under `high`: intervals need to know where values can lie")
            metrics.append(metric)
        return tuple(metrics)

    def _sticky(self, asked: object, given: Mapping[str, str] | None) -> Sticky | None:
        if isinstance(asked, Mapping) and len(asked) != 1:
            self.fault("sticky", "expected `{field: NAME}` or `{header: NAME}`", ("field", "header"))
        return None if given is None else Sticky(**given)

    def _deadline(self, strategy: str, given: Mapping[str, Any], least_s: float) -> float | None:
        deadline_s: float | None = given.get("deadline", None if strategy == AB else max(_DAY_S, 4 * least_s))
        if deadline_s is not None and deadline_s <= least_s:
            self.fault("deadline", f"must be longer than the steps, which last {least_s:g} s")
        return deadline_s

    def _named(self, path: str, given: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Each name with its settings, from a list of names or a mapping."""
        if isinstance(given, list):
            for name in given:
                if not isinstance(name, str):
                    self.fault(path, f"expected names, got {name!r:.40}")
                elif given.count(name) > 1:
                    self.fault(f"{path}.{name}", "is listed twice")
                else:
                    yield name, {}
        elif isinstance(given, Mapping):
            for name, value in given.items():
                if value is not None and not isinstance(value, Mapping):
                    self.fault(f"{path}.{name}", "expected a mapping of its settings, or nothing")
                yield str(name), value if isinstance(value, Mapping) else {}
        else:
            self.fault(path, "expected a list of names, or a mapping from names to their settings")
