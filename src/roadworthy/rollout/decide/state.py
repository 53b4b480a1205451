"""The state of a rollout: everything that `machine.py` remembers between two looks, what it observes and what it asks for.

The controller stores a `State` in the transaction that carries out the actions, so a controller that is killed at any point
resumes with the same step, clock and counts. Nothing else remembers a rollout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from roadworthy.contract.snapshot import WatchedOutput
from roadworthy.rollout.decide.verdict import Scope, Segment, Verdict
from roadworthy.rollout.facts import Why, fact
from roadworthy.rollout.stored import read_stored

FORMAT = 1

PREPARING, STEPPING, RETURNING, PROMOTING, FINISHED = "PREPARING", "STEPPING", "RETURNING", "PROMOTING", "FINISHED"
"""Phases, each one-way: the canary is loaded; traffic moves step by step; it moves back, or over; the rollout is over."""
PROMOTED, ROLLED_BACK, ABORTED, COMPLETED = "promoted", "rolled-back", "aborted", "completed"
SUPERSEDED, NOT_STARTED, INCONCLUSIVE = "superseded", "not-started", "inconclusive"
"""Outcomes. COMPLETED: the plan ended without promotion (shadow). NOT_STARTED: the canary could not be loaded. INCONCLUSIVE: no
decision before the deadline, so the traffic went back although the canary was not found worse; also the code of a rollout that is
held for this reason."""

BEGINS, RESUMED, RETREAT = "preparing", "resumed", "serving-quarantined"
"""Codes of a rollout before anything has happened, after a person resumed it, and of a deployment of the previous version because
the serving one is in quarantine."""

READY, LOADING, FAILED = "READY", "LOADING", "FAILED"


class Moment(msgspec.Struct, frozen=True):
    """A reading of the monotonic clock in one life of the controller; readings of different lives cannot be compared."""

    boot: str
    seconds: float


class SignalAlert(msgspec.Struct, frozen=True):
    """The state of a watched signal, and why. `samples` are the canary's, 0 when nothing can be said; `other_samples` are the
    stable's. Raised without samples: the signal itself failed."""

    signal: str
    samples: int
    raised: bool
    why: Why = msgspec.field(default="", name="text")
    other_samples: int = 0


class Observation(msgspec.Struct, frozen=True):
    """What the controller observes at one look.

    Attributes:
        moment: now.
        generation: of the endpoint, as stored.
        applied: the lowest generation of the endpoint that a live worker serves.
        refusing: gateways that do not serve the endpoint's policy, such as those without one of its layers.
        canary, stable: READY when every live worker has loaded and proved the version, FAILED when one could not or has it in
            quarantine, else LOADING. code, reason: why it FAILED.
        fresh: whether every live gateway's telemetry is recent.
        breaker_open: whether the breaker on the canary is open on any machine.
        uncounted: signals of the plan that a live worker does not count, and why.
        alerts: state of the plan's watched signals; a missing one has no evidence, which holds where an alarm would.
    """

    moment: Moment
    generation: int
    applied: int
    canary: str = LOADING
    stable: str = READY
    code: str = ""
    reason: Why = ""
    fresh: bool = True
    breaker_open: bool = False
    refusing: tuple[str, ...] = ()
    uncounted: tuple[Why, ...] = ()
    alerts: tuple[SignalAlert, ...] = ()


class State(msgspec.Struct, frozen=True):
    """Where a rollout stands.

    Attributes:
        phase, step: the step that runs, or ran last, counted from 0.
        weight, shadow: the canary's shares as last asked for, of FULL_SHARE.
        generation: the endpoint's, as last asked for or observed.
        segments: every generation of the rollout, with its shares.
        step_from, limit_from: see `Scope`.
        moment: of the last look; None before the first.
        step_s: seconds of exposure in this step: shares applied, telemetry fresh, neither paused nor withdrawn.
        total_s: seconds since the start without pauses.
        paused: a person paused the rollout. approved: a person approved the next step.
        withdrawn: why the canary's share was withdrawn; None when it was not.
        attempts: failed attempts to load. retry_s: seconds until the next attempt; None when no attempt is due.
        stale: consecutive looks without fresh telemetry; not part of the verdict.
        peaks: the largest ln E so far, by criterion.
        slow_ms: the stable's 95th percentile when the rollout began: what "slow" means for both versions until it ends; None when
            it was unknown.
        outputs, probabilities: what gateways count of answers until the rollout ends; see `RolloutEntry`.
        alerts: state of the watched signals at the last look (stored as `alarms`).
        ends_as: the outcome that RETURNING or PROMOTING leads to, and that FINISHED has.
        code, why: the reason for the present state (`why` is stored as `text`).
        told: codes of the alerts in force, each sent once.
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
    why: Why = msgspec.field(default=fact("canary-loading"), name="text")
    told: tuple[str, ...] = ()
    format: int = FORMAT

    def scope(self, needed: int) -> Scope:
        """The generations that a verdict counts now."""
        return Scope(self.segments, self.step_from, self.limit_from, needed)


def state_from_document(document: Mapping[str, Any]) -> State:
    """The state in a document of the store.

    Raises:
        ValueError: not such a document, or a format that this release does not know.
    """
    return read_stored(document, State, FORMAT, "rollout", "a rollout's state")


class SetSplit(msgspec.Struct, frozen=True, tag="set-split"):
    """Write this generation of the endpoint, one more than `Observation.generation`, with these shares for the canary.

    Only valid if the endpoint still has the observed generation; otherwise nothing of this look is stored.
    """

    generation: int
    weight: int
    shadow: int


class Retry(msgspec.Struct, frozen=True, tag="retry"):
    """Let the canary be loaded again. Until a gateway reports on this attempt, the canary is observed as LOADING."""

    attempt: int


class Finish(msgspec.Struct, frozen=True, tag="finish"):
    """End the rollout. On PROMOTED the canary becomes the endpoint's version; otherwise the stable keeps it. No worker serves the
    other version any longer, so it may be unloaded."""

    outcome: str


class Alert(msgspec.Struct, frozen=True, tag="alert"):
    """Alert people. `code` is stable."""

    code: str
    why: Why


Action = SetSplit | Retry | Finish | Alert


class Advance(msgspec.Struct, frozen=True):
    """The outcome of one look or one command.

    Attributes:
        actions: to be carried out in the transaction that stores `state`; at most one SetSplit.
        verdict: of this look; None for a command.
        refused: why a command did nothing; None when it was applied.
    """

    state: State
    actions: tuple[Action, ...] = ()
    verdict: Verdict | None = None
    refused: str | None = None
