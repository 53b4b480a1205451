"""Rollouts of endpoints. Shares are in percent, times in seconds; steps count from 1."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from roadworthy.contract.api.operation import (
    READ,
    RELEASE,
    Count,
    Document,
    GivenCount,
    GivenDocument,
    GivenSwitch,
    Name,
    Operation,
    Page,
    Reference,
    RequestBody,
    Resource,
    Time,
)

COMMANDS = ("pause", "resume", "approve", "promote", "abort")
"""Commands that people give by name."""


class NewRollout(RequestBody, frozen=True, kw_only=True):
    """A rollout to start.

    Attributes:
        version: the version to roll out, such as flights:3.
        plan: the plan; docs/rollouts.md explains every key.
        accept_signature_change: why a different signature is acceptable; the audit trail keeps the reason and the id of the key.
        supersede: end a running rollout, and begin once its traffic has moved back; without it a running rollout is a 409.
        if_generation: refuse with 409 unless the endpoint has this generation.
    """

    version: Reference
    plan: GivenDocument = msgspec.field(default_factory=lambda: {"strategy": "canary"})
    accept_signature_change: str | None = None
    supersede: GivenSwitch = False
    if_generation: GivenCount | None = None


class StepEvidence(Resource, frozen=True, kw_only=True):
    """What the current step has shown for a criterion.

    Attributes:
        needed: samples that the step needs.
        upper: bound of the canary's rate, which must be below `allowed`; both None if not required.
        log_e: evidence that the canary is at most tolerably worse, which must reach `log_e_bound`; both None if not required.
    """

    samples: Count
    bad: Count
    needed: Count
    upper: float | None
    allowed: float | None
    log_e: float | None
    log_e_bound: float | None


class Finding(Resource, frozen=True, kw_only=True):
    """The finding of one criterion: PASS, FAIL or HOLD, with its counts and evidence."""

    signal: str
    outcome: str
    code: str
    samples: Count
    bad: Count
    stable_samples: Count
    stable_bad: Count
    log_e: float
    log_e_bound: float
    p: float
    step: StepEvidence | None
    text: str


class Verdict(Resource, frozen=True, kw_only=True):
    """The verdict over all criteria."""

    outcome: str
    code: str
    text: str
    findings: list[Finding]


class WatchedSignal(Resource, frozen=True, kw_only=True):
    """The outcome of a watched signal: "alarm", "quiet" or "no-evidence". `on_alarm` is "hold" or "alert"."""

    signal: str
    on_alarm: str
    outcome: str
    samples: Count
    stable_samples: Count
    text: str


class VariantReport(Resource, frozen=True, kw_only=True):
    """One version of an A/B test: the number of values of a metric, their mean, and the interval of the true mean."""

    variant: str
    values: Count
    mean: float | None
    low: float
    high: float


class MetricReport(Resource, frozen=True, kw_only=True):
    """A metric of an A/B test: both versions, the interval of their difference (canary minus stable), and the conclusion. The
    95 % intervals hold at every look."""

    metric: str
    stable: VariantReport
    canary: VariantReport
    low: float
    high: float
    text: str


class AcceptedSignature(Resource, frozen=True, kw_only=True):
    """Who accepted a different signature, and why."""

    by: str
    reason: str | None


class Rollout(Resource, frozen=True, kw_only=True):
    """A rollout.

    Attributes:
        stable: the version that served before. version: the version that is rolled out.
        phase: waiting, preparing, stepping, promoting, returning or finished.
        share: percentage of the traffic that the version gets. shadow: percentage that is mirrored to it.
        withdrawn: why its share was withdrawn.
        code, text: the reason for its state.
        left_out: excluded requests by reason and variant.
        outcome: None until it is finished.
    """

    id: str
    endpoint: Name
    strategy: str
    stable: Reference
    stable_digest: str
    version: Reference
    digest: str
    phase: str
    step: Count
    steps: Count
    share: float
    shadow: float
    paused: bool
    approved: bool
    withdrawn: str | None
    code: str
    text: str
    step_s: float
    step_left_s: float | None
    total_s: float
    deadline_left_s: float | None
    attempts: Count
    slow_ms: float | None
    generation: Count
    verdict: Verdict | None
    crashes: Count
    watched: list[WatchedSignal]
    left_out: dict[str, dict[str, Count]]
    metrics: list[MetricReport]
    outcome: str | None
    plan: Document
    signature_accepted: AcceptedSignature | None
    started_at: Time
    started_by: str
    ended_at: Time | None
    decided_by: str | None


class RolloutWarning(Resource, frozen=True, kw_only=True):
    """A warning that does not stop a rollout: a stable code and a sentence."""

    code: str
    text: str


class StartedRollout(Rollout, frozen=True, kw_only=True):
    """A rollout that has just started, with its warnings."""

    warnings: list[RolloutWarning]


class CommandedRollout(Rollout, frozen=True, kw_only=True):
    """A rollout after a command. `done` is false when there was nothing to do; `refused` says why."""

    done: bool
    refused: str | None


class NoRollout(Resource, frozen=True, kw_only=True):
    """The reply to an abort on an endpoint that never had a rollout: nothing was done."""

    endpoint: Name
    done: bool
    refused: str


_ROLLOUTS = "/api/v1/endpoints/{name}/rollouts"
_ROLLOUT = f"{_ROLLOUTS}/{{rollout_id}}"
START = Operation("start_rollout", "POST", _ROLLOUTS, "Start a rollout", RELEASE, StartedRollout, NewRollout, 201)
LIST = Operation("list_rollouts", "GET", _ROLLOUTS, "List rollouts of an endpoint", READ, Page[Rollout])
LIST_OPEN = Operation("list_open_rollouts", "GET", "/api/v1/rollouts", "List running rollouts", READ, Page[Rollout])
GET = Operation("get_rollout", "GET", _ROLLOUT, "Get a rollout", READ, Rollout)
COMMAND = Operation[CommandedRollout | NoRollout](
    "command_rollout",
    "POST",
    f"{_ROLLOUT}:{{command}}",
    "Give a command to a rollout",
    RELEASE,
    cast("Any", CommandedRollout | NoRollout),
)
