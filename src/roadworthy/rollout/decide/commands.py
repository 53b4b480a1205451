"""What people can ask of a rollout: pause, resume, approve, promote, abort, and a new rollout that takes its place. Pure.

Each answers with another state, or says why it does nothing; none is an error, and none brings a rollout where `machine.py` would
not go on from. A finished rollout answers all of them with "nothing is in progress".
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from roadworthy.rollout.decide.machine import ending, promoting, split
from roadworthy.rollout.decide.state import (
    ABORTED,
    FINISHED,
    PREPARING,
    READY,
    RESUMED,
    RETURNING,
    STEPPING,
    SUPERSEDED,
    Advance,
    Observation,
    State,
)
from roadworthy.rollout.plan.plan import Plan

NOTHING = "nothing is in progress"


def command(plan: Plan, state: State, name: str, seen: Observation) -> Advance:
    """Do what a person asks.

    Args:
        name: one of COMMANDS.
        seen: what the controller sees; its time is not used.

    Raises:
        KeyError: there is no such command.
    """
    asked = COMMANDS[name]
    return Advance(state, refused=NOTHING) if state.phase == FINISHED else asked(plan, state, seen)


def _pause(_plan: Plan, state: State, _seen: Observation) -> Advance:
    if state.phase not in (PREPARING, STEPPING):
        return Advance(state, refused="it is ending and cannot be paused")
    return Advance(replace(state, paused=True), refused="it is paused already" if state.paused else None)


def _resume(plan: Plan, state: State, seen: Observation) -> Advance:
    """Go on. After a withdrawal the step's share is given back, and limits count anew from there."""
    if state.phase == STEPPING and state.withdrawn is not None:
        if seen.canary != READY:
            return Advance(state, refused="the new version is not ready to take traffic")
        stage = plan.steps[state.step]
        after, actions = split(state, seen, stage.weight, stage.shadow)
        after = replace(
            after, withdrawn=None, paused=False, limit_from=after.generation, code=RESUMED, text="resumed by a person"
        )
        return Advance(after, actions)
    if not state.paused:
        return Advance(state, refused="it is not paused")
    return Advance(replace(state, paused=False))


def _approve(plan: Plan, state: State, _seen: Observation) -> Advance:
    following = 0 if state.phase == PREPARING else state.step + 1
    waits = following < len(plan.steps) and plan.steps[following].approve
    if state.phase not in (PREPARING, STEPPING) or not waits:
        return Advance(state, refused="the next step needs no approval")
    return Advance(replace(state, approved=True), refused="it is approved already" if state.approved else None)


def _promote(_plan: Plan, state: State, seen: Observation) -> Advance:
    """All traffic at once, whatever time and evidence are missing. What is found worse goes back all the same."""
    if state.phase != STEPPING:
        return Advance(state, refused="only a rollout whose steps run can be promoted")
    if seen.canary != READY:
        return Advance(state, refused="the new version is not ready everywhere")
    return Advance(replace(promoting(state, "promoted by a person"), paused=False, withdrawn=None))


def _abort(_plan: Plan, state: State, _seen: Observation) -> Advance:
    return _end(state, ABORTED, "aborted by a person")


def _supersede(_plan: Plan, state: State, _seen: Observation) -> Advance:
    """Another version is to be rolled out. This one keeps its traffic until that is moved back, and only then is over."""
    return _end(state, SUPERSEDED, "another version takes its place")


def _end(state: State, outcome: str, text: str) -> Advance:
    if state.phase == RETURNING:
        return Advance(state, refused="it is on its way back already")
    return Advance(replace(ending(state, outcome, outcome, text), paused=False))


COMMANDS: dict[str, Callable[[Plan, State, Observation], Advance]] = {
    "pause": _pause,
    "resume": _resume,
    "approve": _approve,
    "promote": _promote,
    "abort": _abort,
    "supersede": _supersede,
}
"""By name."""
