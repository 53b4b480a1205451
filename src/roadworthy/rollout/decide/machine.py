"""The one state machine of all strategies. Pure: a plan, a state and an observation in, a state and actions out.

The controller calls `advance` at every tick and `commands.py` answers what people ask for. Each tick of a running step goes
through `GATES` in order; the first that has something to say decides. Order is safety first: whatever else holds, a canary that
is found worse goes back.

    PREPARING -> STEPPING -> PROMOTING -> FINISHED
        |            |  ^        |           ^
        +------------+--|--------+-> RETURNING

Laws that tests hold: no share grows for a version that is not READY, and none is taken from one for another that is not READY;
at most one change of the split a look; time counts only while it passes on one monotonic clock; a FAIL is final; FINISHED stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from msgspec.structs import replace

from roadworthy.contract.snapshot import FULL_SHARE, WatchedOutput
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
from roadworthy.rollout.plan import plan as plans
from roadworthy.rollout.plan.plan import Plan, Stage

LOAD_ATTEMPTS = 3
BACKOFF_S = 5.0
"""Before the second attempt to load; doubled before each further one."""
STALE_LOOKS = 4
"""So many looks in a row without telemetry are told to people."""
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
"""Reasons to hold that need nobody's attention."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What both versions are measured by until the rollout ends; see the attributes of `State` with these names."""

    slow_ms: float | None = None
    outputs: tuple[WatchedOutput, ...] = ()
    probabilities: str | None = None


UNKNOWN = Baseline()


def baseline_of(state: State) -> Baseline:
    """What a rollout that has not begun was given."""
    return Baseline(state.slow_ms, state.outputs, state.probabilities)


def begin(rollout: str, generation: int, by: Baseline = UNKNOWN) -> State:
    """The state of a new rollout on an endpoint of this generation, whose traffic is the stable's."""
    return State(
        rollout,
        generation=generation,
        segments=(Segment(generation, 0),),
        step_from=generation,
        slow_ms=by.slow_ms,
        outputs=by.outputs,
        probabilities=by.probabilities,
    )


def advance(plan: Plan, state: State, seen: Observation, evidence: Evidence) -> Advance:
    """One look. The same arguments give the same answer, so a look that was not stored may be repeated."""
    if state.phase == FINISHED:
        return Advance(state)
    before = _noticed(state, seen)
    verdict = judge(plan, before.scope(_stage(plan, before).evidence), evidence)
    peaks = {each.signal: max(each.log_e, before.peaks.get(each.signal, 0.0)) for each in verdict.findings}
    before = replace(before, peaks=peaks)
    move = _moved(Look(plan, before, seen, verdict, evidence.crashes))
    alerts = _alerts(plan, seen, move)
    told = tuple(each.code for each in alerts)
    fresh = tuple(each for each in alerts if each.code not in state.told)
    return Advance(replace(move.state, told=told), (*move.actions, *fresh), verdict)


@dataclass(frozen=True, slots=True)
class Look:
    """What a gate decides by. `state` has the time and the generation of this look already.

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
        """The step that runs."""
        return self.plan.steps[self.state.step]

    def at(self, state: State) -> Look:
        """The same look at another state."""
        return Look(self.plan, state, self.seen, self.verdict, self.crashes)


class Move(NamedTuple):
    """The state after a look, what is asked for, and whether people should know of it at once."""

    state: State
    actions: tuple[Action, ...] = ()
    loud: bool = False


def _moved(look: Look) -> Move:
    """What the phase does; a phase that begins with this look acts in it, so that going back does not wait for the next."""
    move = _PHASES[look.state.phase](look)
    while move.state.phase in (RETURNING, PROMOTING) and move.state.phase != look.state.phase:
        look = look.at(move.state)
        following = _PHASES[look.state.phase](look)
        move = Move(following.state, (*move.actions, *following.actions), move.loud or following.loud)
    return move


def _noticed(state: State, seen: Observation) -> State:
    """The state with the time that passed and a generation that somebody else made: the same split, a segment of its own.

    Only differences on one monotonic clock count: neither a jump of the wall clock nor a restart of the controller moves
    anything.
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
        return _ending(state, NOT_STARTED, "crash-limit", f"it crashed its process {look.crashes} times")
    if _overdue(look):
        return _ending(state, NOT_STARTED, "deadline", "it was not ready before the deadline")
    if seen.canary == FAILED:
        return _failed_load(state, seen)
    if seen.canary != READY or seen.stable != READY:
        late = "the new version" if seen.canary != READY else "the version that serves now"
        return _hold(state, BEGINS, f"{late} is being loaded")
    if state.paused:
        return _hold(state, "paused", "paused before the first step")
    return _enter(look, 0)


def _failed_load(state: State, seen: Observation) -> Move:
    """Wait a little longer after each failure, try again, give up after the last."""
    if state.retry_s == 0.0:
        state = _because(state, BEGINS, f"loading is tried again after {state.attempts} failures")
        return Move(replace(state, retry_s=None), (Retry(state.attempts + 1),))
    if state.retry_s is None:
        state = replace(state, attempts=state.attempts + 1, retry_s=BACKOFF_S * 2**state.attempts)
    if state.attempts >= LOAD_ATTEMPTS:
        text = f"it could not be loaded in {state.attempts} attempts: {seen.reason or 'no reason was told'}"
        return _ending(state, NOT_STARTED, "load-failed", text)
    return _hold(state, BEGINS, f"loading failed {state.attempts} times; again in {state.retry_s:.0f} s")


def _stepping(look: Look) -> Move:
    for gate in GATES:
        move = gate(look)
        if move is not None:
            return move
    return _next(look)


def _crashed(look: Look) -> Move | None:
    if look.crashes >= look.plan.crashes:
        return _ending(look.state, ROLLED_BACK, "crash-limit", f"it crashed its process {look.crashes} times")
    if look.seen.canary == FAILED:
        return _ending(look.state, ROLLED_BACK, "not-loadable", look.seen.reason or "it is kept out of service")
    return None


def _worse(look: Look) -> Move | None:
    verdict = look.verdict
    return _ending(look.state, ROLLED_BACK, verdict.code, verdict.text) if verdict.outcome == FAIL else None


def _deadline(look: Look) -> Move | None:
    """What the plan says for the deadline. Where the canary's share was taken from it before, and the stable fares better without
    it, that is why; otherwise the rollout is undecided, which is told apart from a canary that was found worse."""
    if not _overdue(look):
        return None
    state = look.state
    outcome, code, text = INCONCLUSIVE, INCONCLUSIVE, f"the deadline came before it was decided; {_missing(look)}"
    if state.withdrawn == "breaker-open" or (state.withdrawn is not None and look.verdict.withdraw):
        why = state.text if state.code == state.withdrawn else state.withdrawn
        outcome, code = ROLLED_BACK, "deadline"
        text = state.text if state.code == code else f"the deadline came before a person decided: {why}"
    if look.plan.at_deadline == plans.ROLLBACK:
        return _ending(state, outcome, code, text)
    return _hold(state, code, text)


def _missing(look: Look) -> str:
    """What stood between the present step and the end of the plan: each guard that had not passed, everything else that held, and
    what would have come after."""
    plan, state = look.plan, look.state
    found = [each.text for each in look.verdict.findings if each.outcome != PASS]
    if not found and look.verdict.outcome != PASS:
        found = [look.verdict.text]
    moves = [gate(look) for gate in (_unseen, _unready, _alarmed, _too_soon)]
    found += [move.state.text for move in moves if move is not None]
    after = plan.steps[state.step + 1 :]
    if after:
        approval = ", which waits for approval" if after[0].approve and not state.approved else ""
        found.append(f"step {state.step + 2} of {len(plan.steps)}{approval}")
    elif not found:
        found.append("a person's decision" if plan.after == plans.WAIT else "one more look")
    return f"missing in step {state.step + 1}: {'; '.join(found)}"


def _withdraw(look: Look) -> Move | None:
    state, seen = look.state, look.seen
    if state.withdrawn is not None:
        return None
    if seen.breaker_open:
        code, text = "breaker-open", "the breaker on the new version is open"
    elif look.verdict.withdraw:
        found = next(each for each in look.verdict.findings if each.withdraw)
        code, text = found.code, found.text
    else:
        return None
    if seen.stable != READY:
        return _hold(state, "cannot-withdraw", f"{text}, but the version before is not ready to take the traffic")
    state, actions = split(state, seen, 0, 0)
    return Move(_because(replace(state, withdrawn=code), code, text), actions, loud=True)


def _withdrawn(look: Look) -> Move | None:
    return None if look.state.withdrawn is None else Move(look.state, loud=True)


def _paused(look: Look) -> Move | None:
    return _hold(look.state, "paused", "paused by a person") if look.state.paused else None


def _unseen(look: Look) -> Move | None:
    if look.seen.fresh:
        return None
    lost = look.state.stale >= STALE_LOOKS
    text = f"no fresh telemetry for {look.state.stale} looks; the verdict stands on what was known before"
    return _hold(look.state, "telemetry-lost" if lost else "not-fresh", text)


def _unready(look: Look) -> Move | None:
    state, seen = look.state, look.seen
    if seen.canary != READY or seen.stable != READY:
        late = "the new version" if seen.canary != READY else "the version that served before"
        return _hold(state, "not-ready", f"{late} is not ready everywhere")
    if seen.applied < state.generation:
        return _hold(state, "split-not-applied", "not every worker has the split yet")
    return None


def _alarmed(look: Look) -> Move | None:
    alarms = {alarm.signal: alarm for alarm in look.seen.alerts}
    for watch in look.plan.watches:
        alarm = alarms.get(watch.signal)
        if watch.on_alarm != plans.HOLD:
            continue
        if alarm is None or alarm.samples == 0:
            why = "nothing was measured yet" if alarm is None else alarm.text or "nothing was measured yet"
            return _hold(look.state, "no-evidence", f"{watch.signal}: {why}")
        if alarm.raised:
            return _hold(look.state, "alarm", f"{watch.signal}: {alarm.text} ({alarm.samples:,} samples)")
    return None


def _too_soon(look: Look) -> Move | None:
    left_s = look.stage.hold_s - look.state.step_s
    return _hold(look.state, "minimum-time", f"{left_s:.0f} s of this step are left") if left_s > 0.0 else None


def _unproved(look: Look) -> Move | None:
    verdict = look.verdict
    return _hold(look.state, verdict.code, verdict.text) if verdict.outcome != PASS else None


GATES: tuple[Callable[[Look], Move | None], ...] = (
    _crashed,
    _worse,
    _withdraw,
    _deadline,
    _withdrawn,
    _paused,
    _unseen,
    _unready,
    _alarmed,
    _too_soon,
    _unproved,
)
"""What stands between a step and the next, in order; None lets pass."""


def _next(look: Look) -> Move:
    """The step is done."""
    step = look.state.step + 1
    if step < len(look.plan.steps):
        return _enter(look, step)
    if look.plan.after == plans.WAIT:
        return _hold(look.state, "waits-for-decision", "the plan has ended: promote or abort")
    if look.plan.after == plans.END:
        return _ending(look.state, COMPLETED, "completed", f"the plan has ended; {look.verdict.text}")
    return Move(promoting(look.state, look.verdict.text))


def promoting(state: State, text: str) -> State:
    """The state on its way to full traffic."""
    return replace(_because(state, "promoting", text), phase=PROMOTING, ends_as=PROMOTED)


def _enter(look: Look, step: int) -> Move:
    stage, state = look.plan.steps[step], look.state
    if stage.approve and not state.approved:
        return _hold(state, "waits-for-approval", f"step {step + 1} begins when a person approves it")
    state, actions = split(state, look.seen, stage.weight, stage.shadow)
    state = replace(state, phase=STEPPING, step=step, step_s=0.0, approved=False, step_from=state.generation)
    kind = f"{stage.shadow / 100:g} % copied" if stage.shadow else f"{stage.weight / 100:g} %"
    return Move(_because(state, "minimum-time", f"step {step + 1} of {len(look.plan.steps)}: {kind}"), actions)


def _promoting(look: Look) -> Move:
    """All traffic to the canary, and the end once every worker has it."""
    state, seen = look.state, look.seen
    back = _crashed(look) or _worse(look)
    if back is not None:
        return back
    if state.weight != FULL_SHARE or state.shadow:
        if seen.canary != READY:
            return _hold(state, "not-ready", "the new version is not ready everywhere")
        state, actions = split(state, seen, FULL_SHARE, 0)
        return Move(state, actions)
    if seen.applied < state.generation:
        return Move(state)
    return _finished(state)


def _returning(look: Look) -> Move:
    """Back to the stable, as soon as that is ready; until then traffic stays with the version that is."""
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
    """The state with these parts, in a generation and a segment of their own; nothing when they are so already."""
    if (state.weight, state.shadow) == (weight, shadow):
        return state, ()
    generation = seen.generation + 1
    segments = (*state.segments, Segment(generation, weight, shadow))
    after = replace(state, weight=weight, shadow=shadow, generation=generation, segments=segments)
    return after, (SetSplit(generation, weight, shadow),)


def _ending(state: State, outcome: str, code: str, text: str) -> Move:
    return Move(ending(state, outcome, code, text), loud=outcome in (ROLLED_BACK, INCONCLUSIVE, NOT_STARTED))


def ending(state: State, outcome: str, code: str, text: str) -> State:
    """The state on its way back to the stable; it ends there as `outcome`."""
    return replace(_because(state, code, text), phase=RETURNING, ends_as=outcome)


def _hold(state: State, code: str, text: str) -> Move:
    return Move(_because(state, code, text), loud=code not in _QUIET)


def _because(state: State, code: str, text: str) -> State:
    return replace(state, code=code, text=text)


def _overdue(look: Look) -> bool:
    return look.plan.deadline_s is not None and look.state.total_s >= look.plan.deadline_s


def _alerts(plan: Plan, seen: Observation, move: Move) -> tuple[Alert, ...]:
    """What people should know now, each code once: why it holds or ends, and alarms that are only told."""
    found = {move.state.code: Alert(move.state.code, move.state.text)} if move.loud else {}
    if move.state.phase == RETURNING and move.state.weight and seen.stable != READY:
        text = "the version before is not ready, so the new one keeps its traffic until it is"
        found["cannot-return"] = Alert("cannot-return", text)
    told = {watch.signal for watch in plan.watches if watch.on_alarm == plans.ALERT}
    for alarm in seen.alerts:
        if alarm.raised and alarm.signal in told:
            found[f"alarm-{alarm.signal}"] = Alert(f"alarm-{alarm.signal}", f"{alarm.signal}: {alarm.text}")
    return tuple(found.values())
