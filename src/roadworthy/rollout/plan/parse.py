"""A plan as a person writes it, in YAML or JSON, becomes a `Plan`; whatever is wrong with it is told at once.

The command line and the management API call `read_plan` and `check_plan`. docs/rollouts.md explains every key.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from roadworthy.contract.snapshot import FULL_SHARE
from roadworthy.foundation.errors import InvalidRequest
from roadworthy.rollout.plan import plan as plans
from roadworthy.rollout.plan.documents import load
from roadworthy.rollout.plan.plan import Guard, Metric, Plan, Stage, Sticky, Watch
from roadworthy.rollout.plan.signals import DEFAULT_GUARDS, GUARD, OBSERVER, Signal, names_of, signal_named

CANARY, BLUE_GREEN, AB, SHADOW, ALL_AT_ONCE = "canary", "blue-green", "ab", "shadow", "all-at-once"
STRATEGIES = (CANARY, BLUE_GREEN, AB, SHADOW, ALL_AT_ONCE)
MOST_STEPS = 50
_DAY_S = 86_400.0
_MOST_TOLD = 8
_HUGE = 1e300
"""No number of a plan is as large, and not every whole number beyond can be a float."""
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")

COMMON_KEYS = ("strategy", "alpha", "beta", "guards", "watch", "sticky", "deadline", "at_deadline", "crashes")
KEYS: Mapping[str, tuple[str, ...]] = {
    CANARY: (*COMMON_KEYS, "steps", "hold", "evidence"),
    BLUE_GREEN: (*COMMON_KEYS, "bake", "evidence", "approve"),
    AB: (*COMMON_KEYS, "share", "hold", "evidence", "metrics"),
    SHADOW: (*COMMON_KEYS, "share", "hold", "evidence"),
    ALL_AT_ONCE: COMMON_KEYS,
}
"""What a plan of each strategy may say."""
STEP_KEYS = ("share", "shadow", "hold", "evidence", "approve")
GUARD_KEYS = ("ratio", "margin", "limit", "weight", "evidence")
METRIC_KEYS = ("low", "high", "better")
WATCH_KEYS = ("on_alarm", "tolerance")
RANGES: Mapping[str, tuple[float, float]] = {
    "alpha": (1e-6, 0.2),
    "beta": (1e-6, 0.2),
    "share": (0.01, 100),
    "shadow": (0.01, 100),
    "evidence": (0, 10**9),
    "crashes": (1, 1_000),
    "ratio": (0.1, 100),
    "margin": (1.01, 100),
    "limit": (1e-6, 0.99),
    "weight": (0.001, 1_000),
    "tolerance": (0.001, 100),
    "hold": (0, 366 * _DAY_S),
    "bake": (0, 366 * _DAY_S),
    "deadline": (1, 366 * _DAY_S),
}
"""The smallest and the largest value of each number; times in seconds, shares in percent."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: where, what, and what would have been right where that is known."""

    path: str
    problem: str
    known: tuple[str, ...] = ()


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
    reader = _Reader()
    plan = reader.plan(document)
    if reader.faults or plan is None:
        raise _invalid(reader.faults)
    return plan


def _invalid(faults: list[Fault]) -> InvalidRequest:
    told = "; ".join(f"{each.path[:80]}: {each.problem}" if each.path else each.problem for each in faults[:_MOST_TOLD])
    more = f" (and {len(faults) - _MOST_TOLD} more)" if len(faults) > _MOST_TOLD else ""
    problems = [{"path": each.path, "problem": each.problem, "known": list(each.known)} for each in faults]
    return InvalidRequest(
        f"the plan is not valid: {told}{more}",
        code="invalid-plan",
        hint="docs/rollouts.md has every key with its default and bounds",
        facts={"problems": problems},
    )


@dataclass(slots=True)
class _Reader:
    """Collects faults while it reads; a value with a fault is replaced by its default, so that the rest is read too."""

    faults: list[Fault] = field(default_factory=list)

    def plan(self, document: object) -> Plan | None:
        if not isinstance(document, Mapping):
            self._fault("", "a plan is a mapping that begins with `strategy:`")
            return None
        strategy = self._choice(document, "strategy", STRATEGIES, None)
        if strategy is None:
            return None
        self._keys("", document, KEYS[strategy])
        steps = self._steps(strategy, document)
        guards, watches = self._guards(document, any(stage.shadow for stage in steps)), self._watches(document)
        deadline_s = self._deadline(strategy, document, steps)
        return Plan(
            strategy=strategy,
            steps=steps,
            after={AB: plans.WAIT, SHADOW: plans.END}.get(strategy, plans.PROMOTE),
            alpha=self._number("", document, "alpha", 0.01),
            beta=self._number("", document, "beta", 0.05),
            guards=guards,
            watches=watches,
            metrics=self._metrics(document) if strategy == AB else (),
            sticky=self._sticky(document),
            deadline_s=deadline_s,
            at_deadline=self._choice(
                document, "at_deadline", (plans.ROLLBACK, plans.HOLD), plans.HOLD if strategy == AB else plans.ROLLBACK
            )
            or plans.ROLLBACK,
            crashes=self._whole("", document, "crashes", 3),
        )

    def _steps(self, strategy: str, document: Mapping[str, Any]) -> tuple[Stage, ...]:
        evidence = self._whole("", document, "evidence", 100)
        if strategy == ALL_AT_ONCE:
            return (Stage(FULL_SHARE, hold_s=0.0, evidence=0),)
        if strategy == BLUE_GREEN:
            bake_s = self._seconds("", document, "bake", 600.0)
            return (Stage(FULL_SHARE, 0, bake_s, evidence, self._flag("", document, "approve")),)
        hold_s = self._seconds("", document, "hold", 600.0 if strategy == CANARY else 3_600.0)
        if strategy == AB:
            return (Stage(self._part("", document, "share", 50.0, 99.99), 0, hold_s, evidence),)
        if strategy == SHADOW:
            return (Stage(0, self._part("", document, "share", 100.0), hold_s, evidence),)
        steps = document.get("steps", [5, 25, 50, 100])
        if not isinstance(steps, list) or not 1 <= len(steps) <= MOST_STEPS:
            self._fault("steps", f"expected a list of 1 to {MOST_STEPS} shares in percent, such as [5, 25, 50, 100]")
            return (Stage(FULL_SHARE),)
        stages = tuple(self._step(f"steps[{n}]", each, hold_s, evidence) for n, each in enumerate(steps))
        self._growing(stages)
        return stages

    def _step(self, path: str, value: object, hold_s: float, evidence: int) -> Stage:
        if not isinstance(value, Mapping):
            return Stage(self._part("", {path: value}, path, 100.0), 0, hold_s, evidence)
        self._keys(path, value, STEP_KEYS)
        if ("share" in value) == ("shadow" in value):
            self._fault(path, "expected either `share` or `shadow`: the stable's requests cannot be evidence twice")
        return Stage(
            self._part(path, value, "share", 100.0) if "share" in value else 0,
            self._part(path, value, "shadow", 100.0) if "shadow" in value else 0,
            self._seconds(path, value, "hold", hold_s),
            self._whole(path, value, "evidence", evidence),
            self._flag(path, value, "approve"),
        )

    def _growing(self, stages: tuple[Stage, ...]) -> None:
        for number, (one, other) in enumerate(itertools.pairwise(stages), start=1):
            if other.weight <= one.weight and not (other.shadow > one.shadow and one.weight == 0):
                self._fault(f"steps[{number}]", "each step must give the new version more than the one before it")

    def _guards(self, document: Mapping[str, Any], shadowed: bool) -> tuple[Guard, ...]:
        given = document.get("guards")
        if given is None:
            given = [*DEFAULT_GUARDS, *(["disagreement"] if document["strategy"] == SHADOW else [])]
        return tuple(
            guard
            for name, value in self._named("guards", given)
            if (guard := self._guard(f"guards.{name}", name, value, shadowed)) is not None
        )

    def _guard(self, path: str, name: str, value: Mapping[str, Any], shadowed: bool) -> Guard | None:
        signal = signal_named(name)
        if signal is None:
            self._unknown(path, "signal", name, names_of(GUARD))
            return None
        if signal.kind != GUARD:
            self._fault(path, "it can only hold or alert, never roll back; list it under `watch`", names_of(GUARD))
            return None
        self._keys(path, value, GUARD_KEYS)
        if not signal.compares and not shadowed:
            self._fault(path, "it is known of shadowed requests only, and no step has any")
        limit = 0.05 if name == "errors" else signal.limit
        if "limit" in value and (value["limit"] is not None or not signal.compares):
            limit = self._number(path, value, "limit", 0.05)
        elif "limit" in value:
            limit = None
        return Guard(
            name,
            self._number(path, value, "ratio", signal.ratio),
            self._number(path, value, "margin", 1.5),
            limit,
            self._number(path, value, "weight", 1.0) if "weight" in value else None,
            self._whole(path, value, "evidence", 0) if "evidence" in value else None if signal.waits else 0,
        )

    def _watches(self, document: Mapping[str, Any]) -> tuple[Watch, ...]:
        given, watches = document.get("watch", {}), []
        if isinstance(given, list):
            given = {name: plans.HOLD for name in given if isinstance(name, str)}
        if not isinstance(given, Mapping):
            self._fault("watch", f"expected `SIGNAL: {plans.HOLD}` or `SIGNAL: {plans.ALERT}` for each")
            return ()
        for name, value in given.items():
            signal = signal_named(str(name))
            if signal is None or signal.kind != OBSERVER:
                self._unknown(f"watch.{name}", "signal to watch", str(name), names_of(OBSERVER))
            else:
                watches.append(self._watch(f"watch.{name}", signal, value))
        if any(watch.signal == "business" for watch in watches) and not document.get("metrics"):
            self._fault("watch.business", "needs `metrics`, which say what values it watches")
        return tuple(watches)

    def _watch(self, path: str, signal: Signal, value: object) -> Watch:
        """`hold`, `alert`, or a mapping with more; the tolerance of parts and differences is under 1, a ratio is at least 1."""
        settings: Mapping[str, Any] = value if isinstance(value, Mapping) else {"on_alarm": value}
        self._keys(path, settings, WATCH_KEYS)
        action = settings.get("on_alarm", plans.HOLD)
        if action not in (plans.HOLD, plans.ALERT):
            self._unknown(path, "choice", str(action)[:40], (plans.HOLD, plans.ALERT))
        if "tolerance" not in settings:
            return Watch(signal.name, action)
        tolerance = self._number(path, settings, "tolerance", signal.tolerance)
        if not signal.tolerance:
            self._fault(
                f"{path}.tolerance", "nothing is tolerated here: any metric that is shown to be worse is an alarm"
            )
        elif (tolerance >= 1.0) != (signal.tolerance >= 1.0):
            meaning = "how many times the stable's, 1 or more" if signal.tolerance >= 1.0 else "a part, under 1"
            self._fault(f"{path}.tolerance", f"is {meaning}")
        return Watch(signal.name, action, tolerance)

    def _metrics(self, document: Mapping[str, Any]) -> tuple[Metric, ...]:
        metrics = []
        for name, value in self._named("metrics", document.get("metrics", [])):
            path = f"metrics.{name}"
            self._keys(path, value, METRIC_KEYS)
            low, high = (self._finite(path, value, key, default) for key, default in (("low", 0.0), ("high", 1.0)))
            if not _NAME.fullmatch(name):
                self._fault(path, "a name is small letters, digits and underscores")
            if low >= high:
                self._fault(path, "`low` must be under `high`: intervals need to know where values can lie")
            better = value.get("better", plans.HIGHER)
            if better not in (plans.HIGHER, plans.LOWER):
                self._unknown(f"{path}.better", "choice", str(better)[:40], (plans.HIGHER, plans.LOWER))
            metrics.append(Metric(name, low, high, better))
        return tuple(metrics)

    def _sticky(self, document: Mapping[str, Any]) -> Sticky | None:
        given = document.get("sticky")
        if given is None:
            return None
        if not isinstance(given, Mapping) or len(given) != 1 or not isinstance(next(iter(given.values())), str):
            self._fault("sticky", "expected `{field: NAME}` or `{header: NAME}`", ("field", "header"))
            return None
        self._keys("sticky", given, ("field", "header"))
        if "header" in given and not _HEADER.fullmatch(given["header"]):
            self._fault("sticky.header", "that is no name of a header")
        return Sticky(given.get("field"), given.get("header"))

    def _deadline(self, strategy: str, document: Mapping[str, Any], steps: Iterable[Stage]) -> float | None:
        least_s = sum(stage.hold_s for stage in steps)
        if "deadline" not in document:
            return None if strategy == AB else max(_DAY_S, 4 * least_s)
        if document["deadline"] is None:
            return None
        deadline_s = self._seconds("", document, "deadline", _DAY_S)
        if deadline_s <= least_s:
            self._fault("deadline", f"the steps alone last {least_s:g} s, so it must be longer")
        return deadline_s

    def _named(self, path: str, given: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Names with what is said of each: a list of names, or a mapping from each to its settings."""
        if isinstance(given, list):
            for name in given:
                if not isinstance(name, str):
                    self._fault(path, f"expected names, not {name!r:.40}")
                elif given.count(name) > 1:
                    self._fault(f"{path}.{name}", "is listed twice")
                else:
                    yield name, {}
        elif isinstance(given, Mapping):
            for name, value in given.items():
                if value is not None and not isinstance(value, Mapping):
                    self._fault(f"{path}.{name}", "expected a mapping of its settings, or nothing")
                yield str(name), value if isinstance(value, Mapping) else {}
        else:
            self._fault(path, "expected a list of names, or a mapping from names to their settings")

    def _keys(self, path: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for key in given:
            if key not in known:
                self._unknown(_join(path, key), "key", str(key), known)

    def _unknown(self, path: str, what: str, name: str, known: tuple[str, ...]) -> None:
        close = difflib.get_close_matches(name, known, 1, 0.5)
        meant = f"; did you mean {close[0]}?" if close else "."
        self._fault(path, f"there is no such {what}{meant} Known are {', '.join(known)}", known)

    def _choice(self, given: Mapping[str, Any], key: str, known: tuple[str, ...], default: str | None) -> str | None:
        value = given.get(key, default)
        if isinstance(value, str) and value in known:
            return value
        if key not in given:
            self._fault(key, f"is missing; known are {', '.join(known)}", known)
        else:
            self._unknown(key, key, str(value)[:40], known)
        return None

    def _finite(self, path: str, given: Mapping[str, Any], key: str, default: float) -> float:
        value = given.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _HUGE:
            self._fault(_join(path, key), f"expected a number, not {value!r:.40}")
            return default
        return float(value)

    def _number(self, path: str, given: Mapping[str, Any], key: str, default: float) -> float:
        value = self._finite(path, given, key, default)
        return value if self._within(_join(path, key), key, value) else default

    def _within(self, path: str, key: str, value: float) -> bool:
        low, high = RANGES[key]
        if not low <= value <= high:
            self._fault(path, f"must be from {low:g} to {high:g}, not {value:g}")
        return low <= value <= high

    def _whole(self, path: str, given: Mapping[str, Any], key: str, default: int) -> int:
        value = self._number(path, given, key, float(default))
        if value != int(value):
            self._fault(_join(path, key), f"expected a whole number, not {value:g}")
        return int(value)

    def _flag(self, path: str, given: Mapping[str, Any], key: str) -> bool:
        value = given.get(key, False)
        if not isinstance(value, bool):
            self._fault(_join(path, key), f"expected true or false, not {value!r:.40}")
        return value is True

    def _part(self, path: str, given: Mapping[str, Any], key: str, default: float, most: float = 100.0) -> int:
        """A share in percent as hundredths of it."""
        percent = self._finite(path, given, key, default)
        if not 0.01 <= percent <= most:
            self._fault(_join(path, key), f"a share is from 0.01 to {most:g} %, not {percent:g}")
            percent = default
        hundredths = round(percent * 100)
        if abs(percent * 100 - hundredths) > 1e-6:
            self._fault(_join(path, key), "a share has at most two decimals")
        return hundredths

    def _seconds(self, path: str, given: Mapping[str, Any], key: str, default: float) -> float:
        value = given.get(key, default)
        seconds = duration_s(value)
        if seconds is None:
            self._fault(_join(path, key), f"expected a time such as 90s, 10m or 1h30m, not {value!r:.40}")
            return default
        return seconds if self._within(_join(path, key), key, seconds) else default

    def _fault(self, path: str, problem: str, known: tuple[str, ...] = ()) -> None:
        self.faults.append(Fault(path, problem, known))


def duration_s(value: object) -> float | None:
    """Seconds of a time such as "90s", "10m" or "1h30m", or of a plain number; None when it is none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) < _HUGE else None
    found = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
    if found is None:
        return None
    return math.fsum(
        float(part) * unit for part, unit in zip(found.groups(), (86_400, 3_600, 60, 1), strict=True) if part
    )


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)
