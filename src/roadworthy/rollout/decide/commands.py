"""The commands that people give to a rollout: pause, resume, approve, promote, abort, and supersede by a new rollout. Pure.

Each returns a new state or the reason for doing nothing. A refusal is not an error, and every resulting state is one that
`machine.py` can go on from. A finished rollout answers every command with "nothing is in progress".
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
from roadworthy.rollout.facts import Why, fact
from roadworthy.rollout.plan.plan import Plan

NOTHING = "nothing is in progress"


def command(plan: Plan, state: State, name: str, seen: Observation) -> Advance:
    """Apply a person's command.

    Args:
        name: one of COMMANDS.
        seen: the controller's observation; its time is not used.

    Raises:
        KeyError: no such command.
    """
    asked = COMMANDS[name]
    return Advance(state, refused=NOTHING) if state.phase == FINISHED else asked(plan, state, seen)


def _pause(_plan: Plan, state: State, _seen: Observation) -> Advance:
    if state.phase not in (PREPARING, STEPPING):
        return Advance(state, refused="the rollout is ending and cannot be paused")
    return Advance(replace(state, paused=True), refused="the rollout is already paused" if state.paused else None)


def _resume(plan: Plan, state: State, seen: Observation) -> Advance:
    """Go on. After a withdrawal the canary gets the step's share back, and limits count from zero."""
    if state.phase == STEPPING and state.withdrawn is not None:
        if seen.canary != READY:
            return Advance(state, refused="the new version is not ready to take traffic")
        stage = plan.steps[state.step]
        after, actions = split(state, seen, stage.weight, stage.shadow)
        after = replace(after, withdrawn=None, paused=False, limit_from=after.generation, code=RESUMED, why=fact("resumed"))
        return Advance(after, actions)
    if not state.paused:
        return Advance(state, refused="the rollout is not paused")
    return Advance(replace(state, paused=False))


def _approve(plan: Plan, state: State, _seen: Observation) -> Advance:
    following = 0 if state.phase == PREPARING else state.step + 1
    waits = following < len(plan.steps) and plan.steps[following].approve
    if state.phase not in (PREPARING, STEPPING) or not waits:
        return Advance(state, refused="the next step needs no approval")
    return Advance(replace(state, approved=True), refused="the next step is already approved" if state.approved else None)


def _promote(_plan: Plan, state: State, seen: Observation) -> Advance:
    """Move all traffic at once, whatever time or evidence is missing. A canary that is found worse still goes back."""
    if state.phase != STEPPING:
        return Advance(state, refused="only a rollout that is in one of its steps can be promoted")
    if seen.canary != READY:
        return Advance(state, refused="the new version is not ready on every worker")
    return Advance(replace(promoting(state, fact("promoted")), paused=False, withdrawn=None))


def _abort(_plan: Plan, state: State, _seen: Observation) -> Advance:
    return _end(state, ABORTED, fact("aborted"))


def _supersede(_plan: Plan, state: State, _seen: Observation) -> Advance:
    """Make way for another version. This canary keeps its traffic until that has moved back; only then is the rollout over."""
    return _end(state, SUPERSEDED, fact("superseded"))


def _end(state: State, outcome: str, why: Why) -> Advance:
    if state.phase == RETURNING:
        return Advance(state, refused="the rollout is already going back")
    return Advance(replace(ending(state, outcome, outcome, why), paused=False))


COMMANDS: dict[str, Callable[[Plan, State, Observation], Advance]] = {
    "pause": _pause,
    "resume": _resume,
    "approve": _approve,
    "promote": _promote,
    "abort": _abort,
    "supersede": _supersede,
}
"""Commands by name."""
