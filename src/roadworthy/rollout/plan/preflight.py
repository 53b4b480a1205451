"""Whether a rollout may begin at all: every reason against it at once, before anything is changed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from roadworthy.contract.snapshot import WatchedOutput
from roadworthy.rollout.decide.alerts import compares
from roadworthy.rollout.decide.machine import Baseline
from roadworthy.rollout.plan.plan import Plan


@dataclass(frozen=True, slots=True)
class Facts:
    """What the controller knows before it begins.

    Attributes:
        stable, canary: versions such as "flights:2"; stable None when none serves yet.
        stable_ready: whether every live worker has the stable READY; it is what the rollout goes back to.
        difference: why the canary does not accept the endpoint's signature; None when it does.
        accepted_by: who answers for that difference; None for nobody.
        running: the rollout that is in progress on the endpoint; None when there is none.
        kept_out: why the canary is kept out of service (quarantine); None when it is not.
        fields: the names of the endpoint's input fields.
        slow_ms: the stable's 95th percentile that "slow" would be measured by; None while it is not known.
        outputs, probabilities: what gateways are to count of answers; see `RolloutEntry`.
        short: machines without room for the canary, a sentence each.
        unmeasurable: why a signal cannot be measured on this endpoint, by signal; those that can be are missing.
    """

    stable: str | None
    canary: str
    stable_ready: bool = True
    difference: str | None = None
    accepted_by: str | None = None
    running: str | None = None
    kept_out: str | None = None
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
    """One reason against it: a stable code and a sentence."""

    code: str
    text: str


def obstacles(plan: Plan, facts: Facts) -> tuple[Obstacle, ...]:
    """All reasons not to begin; empty when there is none."""
    return tuple(_obstacles(plan, facts))


def _obstacles(plan: Plan, facts: Facts) -> Iterator[Obstacle]:
    if facts.stable is None:
        yield Obstacle(
            "no-stable", "no version serves yet, so there is nothing to compare with and nothing to go back to"
        )
    elif facts.stable == facts.canary:
        yield Obstacle("same-version", f"{facts.canary} serves already")
    elif not facts.stable_ready:
        yield Obstacle("stable-not-ready", f"{facts.stable} is not ready everywhere, so nothing could go back to it")
    if facts.running is not None:
        yield Obstacle("rollout-running", f"rollout {facts.running} is in progress; abort it or let it end")
    if facts.difference is not None and facts.accepted_by is None:
        yield Obstacle("signature-incompatible", f"it does not fit the endpoint's signature: {facts.difference}")
    if facts.kept_out is not None:
        yield Obstacle("kept-out", f"{facts.canary} is kept out of service: {facts.kept_out}")
    for text in facts.short:
        yield Obstacle("no-room", text)
    if plan.sticky is not None and plan.sticky.field is not None and plan.sticky.field not in facts.fields:
        yield Obstacle("no-such-field", f"the endpoint has no input {plan.sticky.field} to keep users apart by")
    if facts.slow_ms is None and any(guard.signal == "slow" for guard in plan.guards):
        yield Obstacle(
            "no-baseline", "how slow the stable is was not measured yet; let it serve, or leave out the guard slow"
        )
    yield from _unmeasured(plan, facts)


def _unmeasured(plan: Plan, facts: Facts) -> Iterator[Obstacle]:
    """Signals that the rollout would wait for in vain."""
    for signal in (*(guard.signal for guard in plan.guards), *(watch.signal for watch in plan.watches)):
        if signal in facts.unmeasurable:
            yield Obstacle("signal-not-measurable", f"{signal} cannot be measured: {facts.unmeasurable[signal]}")
    if not any(compares(stage.weight, stage.shadow) for stage in plan.steps):
        for watch in plan.watches:
            if watch.signal != "resources":
                yield Obstacle(
                    "signal-not-measurable",
                    f"{watch.signal} cannot be measured: there is no step in which both versions answer",
                )
