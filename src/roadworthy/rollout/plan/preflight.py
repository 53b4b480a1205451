"""Decides whether a rollout may begin: finds every obstacle at once, before anything is changed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from roadworthy.contract.snapshot import WatchedOutput
from roadworthy.rollout.decide.alerts import compares
from roadworthy.rollout.decide.machine import Baseline
from roadworthy.rollout.facts import Why
from roadworthy.rollout.plan.plan import Plan
from roadworthy.rollout.words import say
from roadworthy.signals.discovery import signal_or_missing


@dataclass(frozen=True, slots=True)
class Facts:
    """What the controller knows before a rollout begins.

    Attributes:
        stable, canary: versions such as "flights:2"; stable None when no version serves yet.
        stable_ready: whether every live worker has the stable READY, so that the rollout can go back to it.
        difference: why the canary does not accept the endpoint's signature; None when it does.
        accepted_by: the person who accepts that difference; None when no one does.
        kept_out: why the canary is in quarantine; None when it is not.
        fields: the names of the endpoint's input fields.
        slow_ms: the stable's 95th percentile, which defines "slow"; None while it is unknown.
        outputs, probabilities: what gateways should count of answers; see `RolloutEntry`.
        short: machines without capacity for the canary, a sentence each.
        unmeasurable: by signal, why it cannot be measured on this endpoint; measurable signals are absent.
    """

    stable: str | None
    canary: str
    stable_ready: bool = True
    difference: str | None = None
    accepted_by: str | None = None
    kept_out: Why | None = None
    fields: tuple[str, ...] = ()
    slow_ms: float | None = None
    outputs: tuple[WatchedOutput, ...] = ()
    probabilities: str | None = None
    short: tuple[str, ...] = ()
    unmeasurable: Mapping[str, str] = field(default_factory=dict)

    @property
    def baseline(self) -> Baseline:
        """What both versions are measured by."""
        return Baseline(self.slow_ms, self.outputs, self.probabilities)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One obstacle: a stable code and a sentence."""

    code: str
    text: str


def obstacles(plan: Plan, facts: Facts) -> tuple[Obstacle, ...]:
    """All obstacles; empty when the rollout may begin."""
    return tuple(_obstacles(plan, facts))


def _obstacles(plan: Plan, facts: Facts) -> Iterator[Obstacle]:
    if facts.stable is None:
        yield Obstacle("no-stable", "no version serves yet, so there is nothing to compare with and nothing to go back to")
    elif facts.stable == facts.canary:
        yield Obstacle("same-version", f"{facts.canary} already serves")
    elif not facts.stable_ready:
        yield Obstacle("stable-not-ready", f"{facts.stable} is not ready on every worker, so a rollback would fail")
    if facts.difference is not None and facts.accepted_by is None:
        yield Obstacle("signature-incompatible", f"it does not fit the endpoint's signature: {facts.difference}")
    if facts.kept_out is not None:
        yield Obstacle("kept-out", f"{facts.canary} is in quarantine: {say(facts.kept_out)}")
    for text in facts.short:
        yield Obstacle("no-room", text)
    if plan.sticky is not None and plan.sticky.field is not None and plan.sticky.field not in facts.fields:
        yield Obstacle("no-such-field", f"the endpoint has no input {plan.sticky.field}, by which the plan identifies users")
    timed = [each.signal for each in plan.signals if signal_or_missing(each.signal).needs_run_times]
    if facts.slow_ms is None and timed:
        yield Obstacle(
            "no-baseline",
            f"the stable's run time is not measured yet; let it serve first, or remove {', '.join(timed)} from the plan",
        )
    yield from _unmeasured(plan, facts)


def _unmeasured(plan: Plan, facts: Facts) -> Iterator[Obstacle]:
    """Signals that the rollout would wait for forever."""
    for signal in (*(criterion.signal for criterion in plan.criteria), *(watch.signal for watch in plan.watches)):
        if signal in facts.unmeasurable:
            yield Obstacle("signal-not-measurable", f"{signal} cannot be measured: {facts.unmeasurable[signal]}")
    if not any(compares(stage.weight, stage.shadow) for stage in plan.steps):
        for watch in plan.watches:
            if watch.signal != "resources":
                yield Obstacle(
                    "signal-not-measurable",
                    f"{watch.signal} cannot be measured: in no step do both versions answer",
                )
