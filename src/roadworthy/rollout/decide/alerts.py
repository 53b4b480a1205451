"""Evaluates a plan's watched signals: confidence and distribution of answers, memory, and business metrics. Pure.

`observation.py` calls it at every look, and `machine.py` holds or alerts. A signal without measurements has no samples, which
does not mean "all is well". Two equal versions ever raise confidence, drift or business with at most the plan's alpha, at any
number of looks. These signals say "different", not "worse", so they never roll back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from roadworthy.contract.evidence import CANARY, CONFIDENCE, COUNTERS, STABLE
from roadworthy.contract.snapshot import FULL_SHARE, WatchedOutput
from roadworthy.rollout.decide.state import SignalAlert, State
from roadworthy.rollout.decide.verdict import Segment
from roadworthy.rollout.evidence.counts import Evidence
from roadworthy.rollout.facts import Fact, Why, fact, plugin_raised
from roadworthy.rollout.plan.plan import LOWER, Metric, Plan, Watch
from roadworthy.signals.discovery import signal_named
from roadworthy.signals.signal import BinSignal
from roadworthy.statistics.drift import Answers, log_e_different, shifts_of, total_variation
from roadworthy.statistics.intervals import Sample, difference_sequence

LEAST_GROWTH_BYTES = 64 << 20
"""Growth of memory that is tolerated at any ratio: small processes differ by their libraries alone."""
_MIB = 1 << 20


class Machine(NamedTuple):
    """Runner processes of both versions on one machine: how many of the canary's are READY, and the memory of the largest one of
    each version in bytes, None where a version has no runner process."""

    gateway: str
    processes: int
    canary_bytes: int | None
    stable_bytes: int | None


class Look(NamedTuple):
    """Input of the evaluation."""

    plan: Plan
    state: State
    evidence: Evidence
    machines: Sequence[Machine]


def signal_alerts(look: Look) -> tuple[SignalAlert, ...]:
    """The state of each watched signal, in the plan's order."""
    found = (_measured(look, watch) for watch in look.plan.watches)
    return tuple(alert for alert in found if alert is not None)


def _measured(look: Look, watch: Watch) -> SignalAlert | None:
    try:
        measure, signal = _MEASURES.get(watch.signal), signal_named(watch.signal)
        if measure is not None:
            return measure(look, watch)
        return _sorted(look, watch, signal) if isinstance(signal, BinSignal) else None
    except Exception as error:  # noqa: BLE001 - another distribution's code may raise anything; the other signals are judged
        return SignalAlert(watch.signal, 0, raised=True, why=plugin_raised(error))


def compares(weight: int, shadow: int) -> bool:
    """Whether both versions answer at these shares, so that their answers can be compared."""
    return shadow > 0 or 0 < weight < FULL_SHARE


def _compared(state: State) -> list[Segment]:
    """All segments in which both versions answered."""
    return [each for each in state.segments if compares(each.weight, each.shadow)]


def _lately(state: State) -> list[int]:
    """The generations of the present step, or, where the canary has all traffic, of the last step in which both versions
    answered. One step has one share. Over several steps, the hours with large shares would weigh more for one version than for
    the other.
    """
    compared = _compared(state)
    present = [each for each in compared if each.generation >= state.step_from]
    last = compared[-1:]
    same = present or [each for each in compared if (each.weight, each.shadow) == (last[0].weight, last[0].shadow)]
    return [each.generation for each in same]


def _weight(look: Look, generations: Iterable[int]) -> float:
    """The weight of one answer. In a sticky rollout each worker counts a user once in a generation; together these counts are no
    more evidence than one answer."""
    if look.plan.sticky is None:
        return 1.0
    return 1.0 / max(1, look.evidence.metric(COUNTERS, STABLE, generations)[0])


def _difference(look: Look, metric: Metric, alpha: float, weight: float = 1.0) -> tuple[Sample, Sample, float, float]:
    """Both versions' values in the step, and the interval of the canary's mean minus the stable's."""
    generations = _lately(look.state)
    stable, canary = (Sample(*look.evidence.metric(metric.name, variant, generations)) for variant in (STABLE, CANARY))
    alpha /= len(look.plan.steps)
    interval = difference_sequence(stable, canary, alpha, metric.low, metric.high, weight)
    return stable, canary, interval.low, interval.high


def _nothing(signal: str, stable: int, canary: int, what: Fact) -> SignalAlert:
    kind = "none-of-stable" if canary else "none-of-canary"
    return SignalAlert(signal, 0, raised=False, why=fact(kind, what=what), other_samples=stable)


def _confidence(look: Look, watch: Watch) -> SignalAlert:
    stable, canary, low, high = _difference(look, Metric(CONFIDENCE), look.plan.alpha, _weight(look, _lately(look.state)))
    if not stable.values or not canary.values:
        return _nothing(watch.signal, stable.values, canary.values, fact("answer"))
    tolerated = watch.tolerated
    why = fact("confidence", **_means(stable, canary), low=low, high=high, tolerated=tolerated)
    raised = low > tolerated or high < -tolerated
    return SignalAlert(watch.signal, canary.values, raised, why, stable.values)


def _business(look: Look, watch: Watch) -> SignalAlert:
    """The worst result among the plan's metrics."""
    found = []
    for metric in look.plan.metrics:
        try:
            stable, canary, low, high = _difference(look, metric, look.plan.alpha / len(look.plan.metrics))
        except ValueError:
            why = fact("metric-outside", metric=metric.name, low=metric.low, high=metric.high)
            found.append(SignalAlert(watch.signal, 0, raised=False, why=why))
            continue
        if not stable.values or not canary.values:
            found.append(_nothing(watch.signal, stable.values, canary.values, fact("value-of", metric=metric.name)))
            continue
        raised = low > 0.0 if metric.better == LOWER else high < 0.0
        kind = "metric-worse" if raised else "metric"
        why = fact(kind, metric=metric.name, **_means(stable, canary), low=low, high=high)
        found.append(SignalAlert(watch.signal, canary.values, raised, why, stable.values))
    nothing = SignalAlert(watch.signal, 0, raised=False, why=fact("no-metrics"))
    return min(found, key=lambda each: (not each.raised, each.samples), default=nothing)


def _drift(look: Look, watch: Watch) -> SignalAlert:
    """The output with the largest shift. In a sticky rollout a user counts once in every step, so steps are not independent
    evidence: only the present one is judged."""
    outputs = look.state.outputs
    found = [
        _shifted(look, watch, number, output.label, partial(_bin_name, output), len(outputs))
        for number, output in enumerate(outputs)
    ]
    if not found:
        return SignalAlert(watch.signal, 0, raised=False, why=fact("no-bins"))
    return max(found, key=lambda each: (each[1].raised, each[0]))[1]


def _sorted(look: Look, watch: Watch, signal: BinSignal) -> SignalAlert:
    """A signal that sorts answers into bins of its own; judged like drift."""
    return _shifted(look, watch, signal.name, signal.event, partial(_own_bin_name, signal), 1)[1]


def _own_bin_name(signal: BinSignal, place: int) -> Why:
    """A gateway with another release of the plug-in may count in bins that this one does not have."""
    return signal.bins[place] if place < len(signal.bins) else fact("bin-numbered", place=place)


def _shifted(
    look: Look, watch: Watch, of: int | str, label: str, bin_name: Callable[[int], Why], family: int
) -> tuple[float, SignalAlert]:
    """How far the answers of the versions differ in their bins.

    Args:
        of: a watched output, by its number, or a signal.
        label, bin_name: of both, for people.
        family: number of outputs that share the signal's alpha.
    """
    steps = 1 if look.plan.sticky is None else len(look.plan.steps)
    bound = math.log(steps * family) - math.log(look.plan.alpha)
    generations = {each.generation for each in _compared(look.state)} if steps == 1 else set(_lately(look.state))
    segments = _answers(look, of, generations)
    stable, canary = (sum(sum(getattr(each, variant)) for each in segments) for variant in (STABLE, CANARY))
    if not stable or not canary:
        return 0.0, _nothing(watch.signal, stable, canary, fact("answer-in", label=label))
    log_e, shift = log_e_different(segments, _weight(look, generations)), total_variation(segments)
    raised = log_e >= bound and shift >= watch.tolerated
    more = _largest(segments, bin_name) if raised else {}
    figures = {"label": label, "shift": shift, "tolerated": watch.tolerated, "e": _e(log_e), "bound": _e(bound), **more}
    return shift, SignalAlert(watch.signal, canary, raised, fact("shift-most" if raised else "shift", **figures), stable)


def _answers(look: Look, of: int | str, generations: Collection[int]) -> list[Answers]:
    """Counts in bins, by segment. Both versions answer shadowed requests."""
    stable, canary = (look.evidence.binned(of, variant) for variant in (STABLE, CANARY))
    return [
        Answers(
            stable.get(each.generation, ()) or (0,) * len(canary[each.generation]),
            canary.get(each.generation, ()) or (0,) * len(stable[each.generation]),
            0.5 if each.shadow else each.weight / FULL_SHARE,
        )
        for each in _compared(look.state)
        if each.generation in generations and (each.generation in stable or each.generation in canary)
    ]


def _largest(segments: Sequence[Answers], bin_name: Callable[[int], Why]) -> dict[str, Why | float]:
    """The bin with the largest gain or loss."""
    shifts = shifts_of(segments)
    place = max(range(len(shifts)), key=lambda each: abs(shifts[each]))
    return {"bin": bin_name(place), "gain": shifts[place]}


def _bin_name(output: WatchedOutput, place: int) -> Why:
    if output.categories is not None:
        if place < len(output.categories):
            return repr(output.categories[place])
        return fact("bin-others" if place == len(output.categories) else "bin-none")
    edges = output.edges
    if place > len(edges):
        return fact("bin-none")
    if place == 0:
        return fact("bin-under", high=edges[0])
    if place == len(edges):
        return fact("bin-from", low=edges[-1])
    return fact("bin-between", low=edges[place - 1], high=edges[place])


def _resources(look: Look, watch: Watch) -> SignalAlert:
    processes = sum(each.processes for each in look.machines)
    both = [
        (each.canary_bytes, each.stable_bytes, each.gateway)
        for each in look.machines
        if each.canary_bytes is not None and each.stable_bytes is not None
    ]
    if not both:
        return SignalAlert(watch.signal, 0, raised=False, why=fact("memory-incomparable"))
    canary, stable, gateway = max(both, key=lambda each: each[0] / max(each[1], 1))
    raised = canary > watch.tolerated * stable and canary - stable >= LEAST_GROWTH_BYTES
    held = {"canary_mib": canary // _MIB, "stable_mib": stable // _MIB}
    why = fact("memory", **held, gateway=gateway, tolerated=watch.tolerated)
    return SignalAlert(watch.signal, processes, raised, why, len(both))


_MEASURES: dict[str, Callable[[Look, Watch], SignalAlert]] = {
    "confidence": _confidence,
    "drift": _drift,
    "resources": _resources,
    "business": _business,
}
"""The measure of each watched signal in the catalogue."""


def _means(stable: Sample, canary: Sample) -> dict[str, float]:
    return {"canary": canary.total / canary.values, "stable": stable.total / stable.values}


def _e(log_e: float) -> float:
    return math.exp(min(log_e, 700.0))
