"""Where a rollout stands: all that `machine.py` remembers between two looks, what it is shown and what it asks for.

The driver stores a `State` in the transaction that carries out the actions, so a controller that is killed anywhere resumes with
the same step, the same clock and the same counts: nothing about a rollout is remembered elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from roadworthy.contract.snapshot import WatchedOutput
from roadworthy.rollout.decide.verdict import Scope, Segment, Verdict

FORMAT = 1

PREPARING, STEPPING, RETURNING, PROMOTING, FINISHED = "PREPARING", "STEPPING", "RETURNING", "PROMOTING", "FINISHED"
"""Phases, each one-way: the canary is loaded, traffic moves step by step, it moves back or over, and it is over."""
PROMOTED, ROLLED_BACK, ABORTED, COMPLETED = "promoted", "rolled-back", "aborted", "completed"
SUPERSEDED, NOT_STARTED, INCONCLUSIVE = "superseded", "not-started", "inconclusive"
"""Outcomes. COMPLETED: the plan ended without promotion (shadow). NOT_STARTED: the canary could not be loaded. INCONCLUSIVE: the
deadline came before it was decided, so the traffic went back although nothing was found against the canary; also the code of a
rollout that is held for that."""

BEGINS, RESUMED = "preparing", "resumed"
"""Why a rollout is where it is before anything happened, and after a person resumed it."""

READY, LOADING, FAILED = "READY", "LOADING", "FAILED"


class Moment(msgspec.Struct, frozen=True):
    """A reading of the monotonic clock of one life of the controller; readings of different lives cannot be compared."""

    boot: str
    seconds: float


class SignalAlert(msgspec.Struct, frozen=True):
    """What a watched signal says now. `samples` are the canary's, 0 when nothing can be said; `other_samples` the stable's."""

    signal: str
    samples: int
    raised: bool
    text: str = ""
    other_samples: int = 0


class Observation(msgspec.Struct, frozen=True):
    """What the controller sees at one look.

    Attributes:
        moment: now.
        generation: of the endpoint, as stored.
        applied: the lowest generation of it that a live worker serves.
        canary, stable: READY when every live worker has the version loaded and proved, FAILED when one could not or keeps it out,
            else LOADING. reason: why FAILED.
        fresh: whether every live gateway's telemetry is recent.
        breaker_open: whether the breaker on the canary is open anywhere.
        alerts: of the plan's watched signals; one that is missing has no evidence, which holds where an alarm would.
    """

    moment: Moment
    generation: int
    applied: int
    canary: str = LOADING
    stable: str = READY
    reason: str = ""
    fresh: bool = True
    breaker_open: bool = False
    alerts: tuple[SignalAlert, ...] = ()


class State(msgspec.Struct, frozen=True):
    """Where a rollout stands.

    Attributes:
        phase, step: step counts from 0 and is the one that runs, or ran last.
        weight, shadow: the canary's parts as last asked for, of FULL_SHARE.
        generation: the endpoint's, as last asked for or seen.
        segments: every generation of the rollout, with its parts.
        step_from, limit_from: see `Scope`.
        moment: of the last look; None before the first.
        step_s: seconds of exposure in this step: shares applied, telemetry fresh, neither paused nor withdrawn.
        total_s: seconds since the start without pauses.
        paused: a person asked to stay here. approved: a person approved the next step.
        withdrawn: why the canary's share was taken from it; None when it was not.
        attempts: failed loads. retry_s: seconds until the next; None when none is due.
        stale: looks in a row without fresh telemetry; it is no part of the verdict.
        peaks: the largest ln E so far, by guard.
        slow_ms: the stable's 95th percentile when the rollout began: what "slow" means for both arms until it ends; None when
            it was not known.
        outputs, probabilities: what gateways count of answers until it ends; see `RolloutEntry`.
        alerts: what the watched signals said at the last look.
        ends_as: the outcome that RETURNING or PROMOTING leads to, and that FINISHED has.
        code, text: why it is where it is.
        told: codes of alerts that hold now, each told once.
    """

    rollout: str
    phase: str = PREPARING
    step: int = 0
    weight: int = 0
    shadow: int = 0
    generation: int = 0
    segments: tuple[Segment, ...] = ()
    step_from: int = 0
    limit_from: int = 0
    moment: Moment | None = None
    step_s: float = 0.0
    total_s: float = 0.0
    paused: bool = False
    approved: bool = False
    withdrawn: str | None = None
    attempts: int = 0
    retry_s: float | None = None
    stale: int = 0
    peaks: dict[str, float] = {}
    slow_ms: float | None = None
    outputs: tuple[WatchedOutput, ...] = ()
    probabilities: str | None = None
    alerts: tuple[SignalAlert, ...] = msgspec.field(default=(), name="alarms")
    ends_as: str | None = None
    code: str = BEGINS
    text: str = "the new version is being loaded"
    told: tuple[str, ...] = ()
    format: int = FORMAT

    def scope(self, needed: int) -> Scope:
        """Which generations a verdict counts now."""
        return Scope(self.segments, self.step_from, self.limit_from, needed)

    def to_document(self) -> dict[str, Any]:
        """Plain JSON values, for the store."""
        return dict(msgspec.to_builtins(self))


def state_from_document(document: Mapping[str, Any]) -> State:
    """The state that `to_document` described.

    Raises:
        ValueError: not such a document, or of a format that this release does not know.
    """
    if document.get("format") != FORMAT:
        raise ValueError(f"rollout format {json.dumps(document.get('format'))} is not known here")
    try:
        return msgspec.convert(document, State)
    except msgspec.ValidationError as error:
        raise ValueError(f"not a rollout's state: {error}") from error


class SetSplit(msgspec.Struct, frozen=True, tag="set-split"):
    """Give the endpoint this generation, one more than `Observation.generation`, with these parts for the canary.

    To be written only if the endpoint still has the generation that was observed; else nothing of this look is stored.
    """

    generation: int
    weight: int
    shadow: int


class Retry(msgspec.Struct, frozen=True, tag="retry"):
    """Give the canary another chance to load. Until a gateway speaks of this attempt, it is to be observed as LOADING."""

    attempt: int


class Finish(msgspec.Struct, frozen=True, tag="finish"):
    """It is over: on PROMOTED the canary becomes the endpoint's version, else the stable stays it. No worker serves the other any
    more, so it may be unloaded."""

    outcome: str


class Alert(msgspec.Struct, frozen=True, tag="alert"):
    """Tell people. `code` is stable, `text` a sentence."""

    code: str
    text: str


Action = SetSplit | Retry | Finish | Alert


class Advance(msgspec.Struct, frozen=True):
    """The outcome of one look or one command.

    Attributes:
        actions: to be carried out in the transaction that stores `state`; at most one SetSplit.
        verdict: what the evidence said; None where it was not asked.
        refused: why a command did nothing; None when it did something.
    """

    state: State
    actions: tuple[Action, ...] = ()
    verdict: Verdict | None = None
    refused: str | None = None
