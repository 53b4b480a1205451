"""A rollout as the API shows it: shares in percent, times in seconds, steps from 1."""

from __future__ import annotations

from typing import Any

from roadworthy.contract.api.rollouts import AcceptedSignature, Verdict, WatchedSignal
from roadworthy.contract.snapshot import FULL_SHARE
from roadworthy.control.controllers.rollout_controller import findings
from roadworthy.control.resources.times import iso
from roadworthy.rollout import rollouts
from roadworthy.rollout.decide.state import FINISHED, STEPPING, SignalAlert
from roadworthy.rollout.evidence.counts import Evidence
from roadworthy.rollout.evidence.report import report
from roadworthy.rollout.facts import fact
from roadworthy.rollout.plan.plan import Watch
from roadworthy.rollout.rollouts import Rollout
from roadworthy.rollout.words import say
from roadworthy.store.connection import Connection

_PERCENT = FULL_SHARE / 100
WAITING = "waiting"


def members(connection: Connection, rollout: Rollout) -> dict[str, Any]:
    """The members of a rollout's document."""
    state, plan = rollout.state, rollout.plan
    evidence = rollouts.evidence_of(connection, rollout.id)
    stage = plan.steps[min(state.step, len(plan.steps) - 1)]
    over = rollout.ended_at_us is not None
    left_s = max(0.0, stage.hold_s - state.step_s) if state.phase == STEPPING and not over else None
    deadline_s = None if plan.deadline_s is None or over else max(0.0, plan.deadline_s - state.total_s)
    return {
        "id": rollout.id,
        "endpoint": rollout.endpoint,
        "strategy": plan.strategy,
        "stable": rollout.stable,
        "stable_digest": rollout.stable_digest,
        "version": rollout.canary,
        "digest": rollout.canary_digest,
        "phase": WAITING if rollout.waiting else (FINISHED if over else state.phase).lower(),
        "step": state.step + 1,
        "steps": len(plan.steps),
        "share": state.weight / _PERCENT,
        "shadow": state.shadow / _PERCENT,
        "paused": state.paused,
        "approved": state.approved,
        "withdrawn": state.withdrawn,
        "code": state.code,
        "text": say(state.why),
        "step_s": round(state.step_s, 3),
        "step_left_s": None if left_s is None else round(left_s, 3),
        "total_s": round(state.total_s, 3),
        "deadline_left_s": None if deadline_s is None else round(deadline_s, 3),
        "attempts": state.attempts,
        "slow_ms": state.slow_ms,
        "generation": state.generation,
        **_judged(rollout, evidence),
        "outcome": state.ends_as if over else None,
        "plan": plan.to_document(),
        "signature_accepted": None
        if rollout.accepted_by is None
        else AcceptedSignature(by=rollout.accepted_by, reason=rollout.acceptance),
        "started_at": iso(rollout.started_at_us),
        "started_by": rollout.started_by,
        "ended_at": None if rollout.ended_at_us is None else iso(rollout.ended_at_us),
        "decided_by": rollout.decided_by,
    }


def _judged(rollout: Rollout, evidence: Evidence) -> dict[str, Any]:
    """The verdict with its numbers, crashes, excluded requests, and the report of an A/B test."""
    verdict, segments = rollout.verdict, rollout.state.segments
    shown = None
    if verdict is not None:
        shown = Verdict(outcome=verdict.outcome, code=verdict.code, text=say(verdict.why), findings=findings(rollout))
    return {
        "verdict": shown,
        "crashes": evidence.crashes,
        "watched": [_watched(watch, rollout) for watch in rollout.plan.watches],
        "left_out": evidence.left_out(each.generation for each in segments),
        "metrics": report(rollout.plan, segments, evidence),
    }


def _watched(watch: Watch, rollout: Rollout) -> WatchedSignal:
    """The state of a watched signal at the last look; without samples it is unknown."""
    found = {alert.signal: alert for alert in rollout.state.alerts}
    alert = found.get(watch.signal, SignalAlert(watch.signal, 0, raised=False, why=fact("not-measured")))
    return WatchedSignal(
        signal=watch.signal,
        on_alarm=watch.on_alarm,
        outcome="alarm" if alert.raised else "quiet" if alert.samples else "no-evidence",
        samples=alert.samples,
        stable_samples=alert.other_samples,
        text=say(alert.why),
    )
