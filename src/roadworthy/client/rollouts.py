"""`client.rollouts`: start, follow and control rollouts.

with rw.Client() as client:
    begun = client.rollouts.start("flights", "flights:3", {"strategy": "canary", "steps": [5, 25, 100]})
    for rollout in client.rollouts.watch("flights"):
        print(rollout["phase"], rollout["share"], rollout["text"])
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, TypedDict, Unpack, cast
from urllib.parse import quote

from roadworthy.client.connection import Connection

CURRENT = "current"
_PAUSE_S = 0.5


class Shown(TypedDict):
    """What the current step has shown for a criterion: the canary's `samples` of `needed`; the `upper` bound of its rate, which
    must be below `allowed`; or the evidence that it is at most tolerably worse, which must reach `log_e_bound`. None if not
    required."""

    samples: int
    bad: int
    needed: int
    upper: float | None
    allowed: float | None
    log_e: float | None
    log_e_bound: float | None


class Finding(TypedDict):
    """The finding of one criterion: PASS, FAIL or HOLD, with its counts and evidence."""

    signal: str
    outcome: str
    code: str
    samples: int
    bad: int
    stable_samples: int
    stable_bad: int
    log_e: float
    log_e_bound: float
    p: float
    step: Shown | None
    text: str


class Verdict(TypedDict):
    """The verdict over all criteria."""

    outcome: str
    code: str
    text: str
    findings: list[Finding]


class Watched(TypedDict):
    """The outcome of a watched signal: "alarm", "quiet" or "no-evidence". `on_alarm` is "hold" or "alert"."""

    signal: str
    on_alarm: str
    outcome: str
    samples: int
    stable_samples: int
    text: str


class Variant(TypedDict):
    """One version of an A/B test: the number of values of a metric, their mean, and the interval of the true mean."""

    variant: str
    values: int
    mean: float | None
    low: float
    high: float


class Metric(TypedDict):
    """A metric of an A/B test: both versions, the interval of their difference (canary minus stable), and the conclusion. The
    95 % intervals hold at every look."""

    metric: str
    stable: Variant
    canary: Variant
    low: float
    high: float
    text: str


class Rollout(TypedDict):
    """A rollout. Shares in percent, times in seconds, steps from 1; `phase` is waiting, preparing, stepping, promoting, returning
    or finished; `outcome` None until it is finished; `code` and `text` give the reason for its state."""

    id: str
    endpoint: str
    strategy: str
    stable: str
    version: str
    phase: str
    step: int
    steps: int
    share: float
    shadow: float
    paused: bool
    withdrawn: str | None
    code: str
    text: str
    step_left_s: float | None
    deadline_left_s: float | None
    verdict: Verdict | None
    watched: list[Watched]
    metrics: list[Metric]
    outcome: str | None
    plan: dict[str, Any]
    started_at: str
    started_by: str
    ended_at: str | None
    decided_by: str | None


class RolloutWarning(TypedDict):
    """A warning that does not stop a rollout: a stable code and a sentence."""

    code: str
    text: str


class Started(Rollout):
    """A rollout that has just started, with its warnings."""

    warnings: list[RolloutWarning]


class Answer(Rollout):
    """A rollout after a command. `done` is False when there was nothing to do; `refused` says why."""

    done: bool
    refused: str | None


class StartOptions(TypedDict, total=False):
    """Optional parts of a start.

    Attributes:
        accept_signature_change: the reason why a different signature does not harm callers; audited with the key's id.
        supersede: end a rollout in progress and begin once its traffic has moved back; without it, raise Conflict.
        if_generation: raise Conflict unless the endpoint has this generation.
    """

    accept_signature_change: str
    supersede: bool
    if_generation: int


class Rollouts:
    """Rollouts of one control plane. `rollout_id` defaults to the rollout in progress, or else the last one."""

    def __init__(self, control: Connection) -> None:
        self._control = control

    def start(
        self, endpoint: str, version: str, plan: Mapping[str, Any] | None = None, **options: Unpack[StartOptions]
    ) -> Started:
        """Start to move the endpoint's traffic to a version. Returns at once; `warnings` do not stop the rollout.

        Args:
            plan: see docs/rollouts.md; None for a canary with all defaults.

        Raises:
            Conflict: "rollout-running", or "rollout-refused" with every reason in facts["problems"].
            InvalidRequest: "invalid-plan".
        """
        body = {"version": version, "plan": dict(plan or {"strategy": "canary"}), **options}
        return cast("Started", self._control.ask("POST", _path(endpoint), json=body))

    def get(self, endpoint: str, rollout_id: str = CURRENT) -> Rollout:
        """The rollout's current document."""
        return cast("Rollout", self._control.ask("GET", f"{_path(endpoint)}/{quote(rollout_id, safe='')}"))

    def history(self, endpoint: str, last: int = 20) -> list[Rollout]:
        """The newest rollouts of an endpoint, newest first."""
        return cast("list[Rollout]", self._control.ask("GET", _path(endpoint), params={"last": str(last)})["items"])

    def in_progress(self) -> list[Rollout]:
        """The running and waiting rollouts of all endpoints."""
        return cast("list[Rollout]", self._control.ask("GET", "/api/v1/rollouts")["items"])

    def pause(self, endpoint: str, rollout_id: str = CURRENT) -> Answer:
        """Pause at this step. A version that is worse is still rolled back."""
        return self._tell(endpoint, rollout_id, "pause")

    def resume(self, endpoint: str, rollout_id: str = CURRENT) -> Answer:
        """Continue after a pause, or restore a share that was withdrawn."""
        return self._tell(endpoint, rollout_id, "resume")

    def approve(self, endpoint: str, rollout_id: str = CURRENT) -> Answer:
        """Approve the next step, where the plan requires approval."""
        return self._tell(endpoint, rollout_id, "approve")

    def promote(self, endpoint: str, rollout_id: str = CURRENT) -> Answer:
        """Move all traffic to the version now, without waiting for time or evidence."""
        return self._tell(endpoint, rollout_id, "promote")

    def abort(self, endpoint: str, rollout_id: str = CURRENT) -> Answer:
        """Return to the stable version. Without a rollout in progress this does nothing, and `done` is False."""
        return self._tell(endpoint, rollout_id, "abort")

    def watch(self, endpoint: str, rollout_id: str = CURRENT) -> Iterator[Rollout]:
        """Yield the document whenever it changes, until the rollout is finished; at most twice a second."""
        before: Mapping[str, Any] = {}
        while True:
            rollout = self.get(endpoint, rollout_id)
            rollout_id = rollout["id"]
            if rollout != before:
                yield rollout
            if rollout["phase"] == "finished":
                return
            before = rollout
            time.sleep(_PAUSE_S)

    def _tell(self, endpoint: str, rollout_id: str, command: str) -> Answer:
        return cast("Answer", self._control.ask("POST", f"{_path(endpoint)}/{quote(rollout_id, safe='')}:{command}"))


def _path(endpoint: str) -> str:
    return f"/api/v1/endpoints/{quote(endpoint, safe='')}/rollouts"
