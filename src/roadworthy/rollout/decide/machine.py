"""The state machine of all strategies. Pure: plan, state and observation in, state and actions out.

The controller calls `advance` at every tick; `commands.py` applies people's commands. Each tick of a running step goes through
`GATES` in order, and the first gate with a result decides. Safety comes first: a canary that is found worse always goes back.

    PREPARING -> STEPPING -> PROMOTING -> FINISHED
        |            |  ^        |           ^
        +------------+--|--------+-> RETURNING

A deployment goes from PREPARING to FINISHED.

Invariants that tests hold: no version gains share unless it is READY, and none loses share to a version that is not READY; a look
changes the split at most once; time counts only while it passes on one monotonic clock; a FAIL is final; FINISHED is final.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from msgspec.structs import replace

from roadworthy.contract.snapshot import FULL_SHARE, WatchedOutput
from roadworthy.foundation.backoff import Backoff
from roadworthy.rollout.decide.state import (
    BEGINS,
    COMPLETED,
    FAILED,
    FINISHED,
    INCONCLUSIVE,
    NOT_STARTED,
    PREPARING,
    PROMOTED,
    PROMOTING,
    READY,
    RETREAT,
    RETURNING,
    ROLLED_BACK,
    STEPPING,
    Action,
    Advance,
    Alert,
    Finish,
    Observation,
    Retry,
    SetSplit,
    State,
)
from roadworthy.rollout.decide.verdict import FAIL, PASS, Segment, Verdict, judge
from roadworthy.rollout.evidence.counts import Evidence
from roadworthy.rollout.facts import Why, fact, of_signal
from roadworthy.rollout.plan import plan as plans
from roadworthy.rollout.plan.plan import Plan, Stage

LOAD_ATTEMPTS = 3
RELOADS = Backoff(5.0)
"""Delays before each further attempt to load, in seconds."""
STALE_LOOKS = 4
"""Consecutive looks without telemetry before people are alerted."""
_QUIET = frozenset(
    {
        BEGINS,
        "minimum-time",
        "no-evidence",
        "too-little-evidence",
        "not-shown",
        "split-not-applied",
        "paused",
        "not-fresh",
    }
)
"""Reasons to hold that need no one's attention."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What both versions are measured by until the rollout ends; see the attributes of the same names in `State`."""

    slow_ms: float | None = None
    outputs: tuple[WatchedOutput, ...] = ()
    probabilities: str | None = None


UNKNOWN = Baseline()


def baseline_of(state: State) -> Baseline:
    """The baseline of a rollout that has not begun."""
    return Baseline(state.slow_ms, state.outputs, state.probabilities)


def begin(rollout: str, generation: int, by: Baseline = UNKNOWN) -> State:
    """The state of a new rollout on an endpoint of this generation, whose traffic is all the stable's, or of a deployment."""
    return State(
        rollout,
        generation=generation,
        segments=(Segment(generation, 0),),
        step_from=generation,
        slow_ms=by.slow_ms,
        outputs=by.outputs,
        probabilities=by.probabilities,
    )


def retreats(state: State | None, stable: str) -> bool:
    """Whether an endpoint whose serving version is in quarantine goes back to its previous version.

    Args:
        state: of the rollout or deployment that is running there. A canary with all traffic does not need the stable, and a
            retreat is not ordered twice.
        stable: READY when every live worker has the previous version, so that it can answer at once.
    """
    return stable == READY and (state is None or (state.weight != FULL_SHARE and state.code != RETREAT))


def retreating(state: State, version: str, reason: Why) -> State:
    """The state of a new deployment of the previous version, because `version` serves and is in quarantine."""
    return _because(state, RETREAT, fact("serving-quarantined", version=version, reason=reason))


def advance(plan: Plan, state: State, seen: Observation, evidence: Evidence) -> Advance:
    """Look once. The same arguments give the same result, so a look that was not stored may be repeated."""
    if state.phase == FINISHED:
        return Advance(state)
    if not plan.steps:
        return _deploying(state, seen)
    before = _noticed(state, seen)
    verdict = judge(plan, before.scope(_stage(plan, before).evidence), evidence)
    peaks = {each.signal: max(each.log_e, before.peaks.get(each.signal, 0.0)) for each in verdict.findings}
    before = replace(before, peaks=peaks)
    move = _moved(Look(plan, before, seen, verdict, evidence.crashes))
    alerts = _alerts(plan, seen, move)
    told = tuple(each.code for each in alerts)
    fresh = tuple(each for each in alerts if each.code not in state.told)
    return Advance(replace(move.state, told=told), (*move.actions, *fresh), verdict)


def _deploying(state: State, seen: Observation) -> Advance:
    """A deployment measures nothing: it takes over as soon as it is ready, and the first failure ends it. A retreat keeps its
    reason."""
    outcome = PROMOTED
    if seen.canary == FAILED:
        outcome, state = NOT_STARTED, _because(state, seen.code, seen.reason)
    elif seen.canary != READY:
        return Advance(state)
    elif state.code != RETREAT:
        state = _because(state, PROMOTED, "")
    return Advance(replace(state, phase=FINISHED, ends_as=outcome), (Finish(outcome),))


@dataclass(frozen=True, slots=True)
class Look:
    """Input of a gate. `state` already has the time and the generation of this look.

    Attributes:
        crashes: processes that the canary crashed since the rollout began.
    """

    plan: Plan
    state: State
    seen: Observation
    verdict: Verdict
    crashes: int

    @property
    def stage(self) -> Stage:
        """The running step."""
        return self.plan.steps[self.state.step]

    def at(self, state: State) -> Look:
        """This look at another state."""
        return Look(self.plan, state, self.seen, self.verdict, self.crashes)


class Move(NamedTuple):
    """The state after a look, the resulting actions, and whether people should be alerted at once."""

    state: State
    actions: tuple[Action, ...] = ()
    loud: bool = False


def _moved(look: Look) -> Move:
    """Run the phase. A phase that begins at this look acts at this look, so that a rollback does not wait for the next one."""
    move = _PHASES[look.state.phase](look)
    while move.state.phase in (RETURNING, PROMOTING) and move.state.phase != look.state.phase:
        look = look.at(move.state)
        following = _PHASES[look.state.phase](look)
        move = Move(following.state, (*move.actions, *following.actions), move.loud or following.loud)
    return move


def _noticed(state: State, seen: Observation) -> State:
    """The state with the time that has passed and with a generation that another operation wrote: same split, its own segment.

    Only differences on one monotonic clock count, so neither a jump of the wall clock nor a restart of the controller matters.
    """
    last, now = state.moment, seen.moment
    passed = now.seconds - last.seconds if last is not None and last.boot == now.boot else 0.0
    passed = 0.0 if state.paused else max(0.0, passed)
    exposed = (
        state.phase == STEPPING
        and state.withdrawn is None
        and seen.fresh
        and seen.canary == READY
        and seen.applied >= max(state.generation, seen.generation)
    )
    state = replace(
        state,
        moment=now,
        total_s=state.total_s + passed,
        step_s=state.step_s + (passed if exposed else 0.0),
        retry_s=None if state.retry_s is None else max(0.0, state.retry_s - passed),
        stale=0 if seen.fresh else state.stale + 1,
        alerts=seen.alerts,
    )
    if seen.generation > state.generation:
        segment = Segment(seen.generation, state.weight, state.shadow)
        state = replace(state, generation=seen.generation, segments=(*state.segments, segment))
    return state


def _stage(plan: Plan, state: State) -> Stage:
    return plan.steps[min(state.step, len(plan.steps) - 1)]


def _preparing(look: Look) -> Move:
    plan, state, seen = look.plan, look.state, look.seen
    if look.crashes >= plan.crashes:
        return _ending(state, NOT_STARTED, "crash-limit", fact("crashed", times=look.crashes))
    if _overdue(look):
        return _ending(state, NOT_STARTED, "deadline", fact("not-loaded-in-time"))
    if seen.canary == FAILED:
        return _failed_load(state, seen)
    if seen.canary != READY or seen.stable != READY:
        return _hold(state, BEGINS, fact("canary-loading" if seen.canary != READY else "stable-loading"))
    if state.paused:
        return _hold(state, "paused", fact("paused-at-start"))
    return _enter(look, 0)


def _failed_load(state: State, seen: Observation) -> Move:
    """Retry with growing delays; give up after the last attempt."""
    if state.retry_s == 0.0:
        state = _because(state, BEGINS, fact("loading-again", attempts=state.attempts))
        return Move(replace(state, retry_s=None), (Retry(state.attempts + 1),))
    if state.retry_s is None:
        state = replace(state, attempts=state.attempts + 1, retry_s=RELOADS.delay(state.attempts))
    if state.attempts >= LOAD_ATTEMPTS:
        why = fact("not-loaded", attempts=state.attempts, reason=seen.reason or fact("no-reason"))
        return _ending(state, NOT_STARTED, "load-failed", why)
    return _hold(state, BEGINS, fact("loading-failed", attempts=state.attempts, retry_s=state.retry_s))


def _stepping(look: Look) -> Move:
    for gate in GATES:
        move = gate(look)
        if move is not None:
            return move
    return _next(look)


def _crashed(look: Look) -> Move | None:
    if look.crashes >= look.plan.crashes:
        return _ending(look.state, ROLLED_BACK, "crash-limit", fact("crashed", times=look.crashes))
    if look.seen.canary == FAILED:
        return _ending(look.state, ROLLED_BACK, "not-loadable", look.seen.reason or fact("quarantined"))
    return None


def _worse(look: Look) -> Move | None:
    verdict = look.verdict
    return _ending(look.state, ROLLED_BACK, verdict.code, verdict.why) if verdict.outcome == FAIL else None


def _deadline(look: Look) -> Move | None:
    """What the plan says for the deadline. If the canary's share was withdrawn and the stable fares better without it, that is
    the reason. Otherwise the rollout is inconclusive, which differs from a canary that was found worse."""
    if not _overdue(look):
        return None
    state = look.state
    outcome, code = INCONCLUSIVE, INCONCLUSIVE
    why: Why = fact("undecided", step=state.step + 1, missing=_missing(look))
    if state.withdrawn == "breaker-open" or (state.withdrawn is not None and look.verdict.withdraw):
        outcome, code = ROLLED_BACK, "deadline"
        withdrawn = state.why if state.code == state.withdrawn else state.withdrawn
        why = state.why if state.code == code else fact("undecided-withdrawn", why=withdrawn)
    if look.plan.at_deadline == plans.ROLLBACK:
        return _ending(state, outcome, code, why)
    return _hold(state, code, why)


def _missing(look: Look) -> tuple[Why, ...]:
    """What is missing between the present step and the end of the plan: each criterion that has not passed, every other reason to
    hold, and the next step."""
    plan, state = look.plan, look.state
    found = [each.why for each in look.verdict.findings if each.outcome != PASS]
    if not found and look.verdict.outcome != PASS:
        found = [look.verdict.why]
    moves = [gate(look) for gate in (_unseen, _unready, _uncounted, _alarmed, _too_soon)]
    found += [move.state.why for move in moves if move is not None]
    after = plan.steps[state.step + 1 :]
    if after:
        kind = "next-step-approval" if after[0].approve and not state.approved else "next-step"
        found.append(fact(kind, step=state.step + 2, steps=len(plan.steps)))
    elif not found:
        found.append(fact("persons-decision" if plan.after == plans.WAIT else "one-more-look"))
    return tuple(found)


def _withdraw(look: Look) -> Move | None:
    state, seen = look.state, look.seen
    if state.withdrawn is not None:
        return None
    if seen.breaker_open:
        code: str = "breaker-open"
        why: Why = fact("breaker-open")
    elif look.verdict.withdraw:
        found = next(each for each in look.verdict.findings if each.withdraw)
        code, why = found.code, found.why
    else:
        return None
    if seen.stable != READY:
        return _hold(state, "cannot-withdraw", fact("cannot-withdraw", why=why))
    state, actions = split(state, seen, 0, 0)
    return Move(_because(replace(state, withdrawn=code), code, why), actions, loud=True)


def _withdrawn(look: Look) -> Move | None:
    return None if look.state.withdrawn is None else Move(look.state, loud=True)


def _paused(look: Look) -> Move | None:
    return _hold(look.state, "paused", fact("paused")) if look.state.paused else None


def _unseen(look: Look) -> Move | None:
    if look.seen.fresh:
        return None
    lost = look.state.stale >= STALE_LOOKS
    return _hold(look.state, "telemetry-lost" if lost else "not-fresh", fact("telemetry-stale", looks=look.state.stale))


def _unready(look: Look) -> Move | None:
    state, seen = look.state, look.seen
    if seen.canary != READY or seen.stable != READY:
        return _hold(state, "not-ready", fact("canary-not-ready" if seen.canary != READY else "stable-not-ready"))
    if seen.applied < state.generation:
        refused = fact("split-refused", gateways=", ".join(seen.refusing)) if seen.refusing else fact("split-not-applied")
        return _hold(state, "split-not-applied", refused)
    return None


def _uncounted(look: Look) -> Move | None:
    found = look.seen.uncounted
    return _hold(look.state, "signal-not-measurable", fact("several", whys=found)) if found else None


def _alarmed(look: Look) -> Move | None:
    found = {alert.signal: alert for alert in look.seen.alerts}
    for watch in look.plan.watches:
        alert = found.get(watch.signal)
        if watch.on_alarm != plans.HOLD:
            continue
        if alert is not None and alert.raised and alert.samples == 0:
            return _hold(look.state, "signal-not-measurable", of_signal(watch.signal, alert.why))
        if alert is None or alert.samples == 0:
            why = fact("not-measured") if alert is None else alert.why or fact("not-measured")
            return _hold(look.state, "no-evidence", of_signal(watch.signal, why))
        if alert.raised:
            return _hold(look.state, "alarm", fact("alarm", signal=watch.signal, why=alert.why, samples=alert.samples))
    return None


def _too_soon(look: Look) -> Move | None:
    left_s = look.stage.hold_s - look.state.step_s
    return _hold(look.state, "minimum-time", fact("time-left", left_s=left_s)) if left_s > 0.0 else None


def _unproved(look: Look) -> Move | None:
    verdict = look.verdict
    return _hold(look.state, verdict.code, verdict.why) if verdict.outcome != PASS else None


GATES: tuple[Callable[[Look], Move | None], ...] = (
    _crashed,
    _worse,
    _withdraw,
    _deadline,
    _withdrawn,
    _paused,
    _unseen,
    _unready,
    _uncounted,
    _alarmed,
    _too_soon,
    _unproved,
)
"""The gates between a step and the next, in order; None lets the rollout pass."""


def _next(look: Look) -> Move:
    """End the step that has passed all gates."""
    step = look.state.step + 1
    if step < len(look.plan.steps):
        return _enter(look, step)
    if look.plan.after == plans.WAIT:
        return _hold(look.state, "waits-for-decision", fact("waits-for-decision"))
    if look.plan.after == plans.END:
        return _ending(look.state, COMPLETED, "completed", fact("completed", why=look.verdict.why))
    return Move(promoting(look.state, look.verdict.why))


def promoting(state: State, why: Why) -> State:
    """The state on its way to full traffic."""
    return replace(_because(state, "promoting", why), phase=PROMOTING, ends_as=PROMOTED)


def _enter(look: Look, step: int) -> Move:
    stage, state = look.plan.steps[step], look.state
    if stage.approve and not state.approved:
        return _hold(state, "waits-for-approval", fact("waits-for-approval", step=step + 1))
    state, actions = split(state, look.seen, stage.weight, stage.shadow)
    state = replace(state, phase=STEPPING, step=step, step_s=0.0, approved=False, step_from=state.generation)
    kind, share = ("step-copied", stage.shadow) if stage.shadow else ("step", stage.weight)
    return Move(
        _because(state, "minimum-time", fact(kind, step=step + 1, steps=len(look.plan.steps), share=share / 100)), actions
    )


def _promoting(look: Look) -> Move:
    """Move all traffic to the canary, and finish once every worker has applied that."""
    state, seen = look.state, look.seen
    back = _crashed(look) or _worse(look)
    if back is not None:
        return back
    if state.weight != FULL_SHARE or state.shadow:
        if seen.canary != READY:
            return _hold(state, "not-ready", fact("canary-not-ready"))
        state, actions = split(state, seen, FULL_SHARE, 0)
        return Move(state, actions)
    if seen.applied < state.generation:
        return Move(state)
    return _finished(state)


def _returning(look: Look) -> Move:
    """Move traffic back to the stable as soon as that is ready; meanwhile the canary keeps it."""
    state, seen = look.state, look.seen
    if state.weight or state.shadow:
        if state.weight and seen.stable != READY:
            return Move(state)
        state, actions = split(state, seen, 0, 0)
        return Move(state, actions)
    return _finished(state) if seen.applied >= state.generation else Move(state)


def _finished(state: State) -> Move:
    return Move(replace(state, phase=FINISHED), (Finish(state.ends_as or ROLLED_BACK),))


_PHASES: dict[str, Callable[[Look], Move]] = {
    PREPARING: _preparing,
    STEPPING: _stepping,
    PROMOTING: _promoting,
    RETURNING: _returning,
}


def split(state: State, seen: Observation, weight: int, shadow: int) -> tuple[State, tuple[Action, ...]]:
    """The state with these shares in a new generation and segment; unchanged if the shares are already in force."""
    if (state.weight, state.shadow) == (weight, shadow):
        return state, ()
    generation = seen.generation + 1
    segments = (*state.segments, Segment(generation, weight, shadow))
    after = replace(state, weight=weight, shadow=shadow, generation=generation, segments=segments)
    return after, (SetSplit(generation, weight, shadow),)


def _ending(state: State, outcome: str, code: str, why: Why) -> Move:
    return Move(ending(state, outcome, code, why), loud=outcome in (ROLLED_BACK, INCONCLUSIVE, NOT_STARTED))


def ending(state: State, outcome: str, code: str, why: Why) -> State:
    """The state on its way back to the stable; the rollout will end as `outcome`."""
    return replace(_because(state, code, why), phase=RETURNING, ends_as=outcome)


def _hold(state: State, code: str, why: Why) -> Move:
    return Move(_because(state, code, why), loud=code not in _QUIET)


def _because(state: State, code: str, why: Why) -> State:
    return replace(state, code=code, why=why)


def _overdue(look: Look) -> bool:
    return look.plan.deadline_s is not None and look.state.total_s >= look.plan.deadline_s


def _alerts(plan: Plan, seen: Observation, move: Move) -> tuple[Alert, ...]:
    """Alerts for people, each code once: the reason to hold or end, and watched signals that only alert."""
    found = {move.state.code: Alert(move.state.code, move.state.why)} if move.loud else {}
    if move.state.phase == RETURNING and move.state.weight and seen.stable != READY:
        found["cannot-return"] = Alert("cannot-return", fact("cannot-return"))
    only_alert = {watch.signal for watch in plan.watches if watch.on_alarm == plans.ALERT}
    for each in seen.alerts:
        if each.raised and each.signal in only_alert:
            found[f"alarm-{each.signal}"] = Alert(f"alarm-{each.signal}", of_signal(each.signal, each.why))
    return tuple(found.values())
