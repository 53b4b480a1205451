"""`client.rollouts`: start, follow and decide about rollouts.

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
    """What the present step has shown of a guard: the canary's samples of `needed`; what its rate is at most, which must be under
    `allowed`; or the evidence that it is no worse than tolerated, which must reach `log_e_bound`. None where it is not asked."""

    samples: int
    bad: int
    needed: int
    upper: float | None
    allowed: float | None
    log_e: float | None
    log_e_bound: float | None


class Finding(TypedDict):
    """What one guard says: PASS, FAIL or HOLD, with the counts and the evidence that it rests on."""

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
    """What the evidence says as a whole."""

    outcome: str
    code: str
    text: str
    findings: list[Finding]


class Watched(TypedDict):
    """What a watched signal says: "alarm", "quiet" or "no-evidence". `on_alarm` is "hold" or "alert"."""

    signal: str
    on_alarm: str
    outcome: str
    samples: int
    stable_samples: int
    text: str


class Variant(TypedDict):
    """One version of an A/B test: how many values of a metric it has, their mean, and where the true one lies."""

    arm: str
    values: int
    mean: float | None
    low: float
    high: float


class Metric(TypedDict):
    """A metric of an A/B test: both versions, where the canary's mean less the stable's lies, and what that allows to say. The
    intervals hold at every look, 95 %."""

    metric: str
    stable: Variant
    canary: Variant
    low: float
    high: float
    text: str


class Rollout(TypedDict):
    """A rollout. Shares in percent, times in seconds, steps from 1; `phase` is waiting, preparing, stepping, promoting, returning
    or finished; `outcome` None until it is finished; `code` and `text` tell why it is where it is."""

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


class Caution(TypedDict):
    """What does not stop a rollout and is good to know: a stable code and a sentence."""

    code: str
    text: str


class Started(Rollout):
    """A rollout as it begins, with what to expect of it."""

    warnings: list[Caution]


class Answer(Rollout):
    """A rollout after a command. `done` is False when there was nothing to do; `refused` says why."""

    done: bool
    refused: str | None


class StartOptions(TypedDict, total=False):
    """What a start may say besides endpoint, version and plan.

    Attributes:
        accept_signature_change: why callers are not harmed by another signature; audited with the key's id.
        supersede: end the rollout in progress and begin when its traffic has moved back, instead of a Conflict.
        if_generation: a Conflict when the endpoint has another generation.
    """

    accept_signature_change: str
    supersede: bool
    if_generation: int


class Rollouts:
    """Rollouts of one control plane. `rollout_id` is by default the one in progress, or the last."""

    def __init__(self, control: Connection) -> None:
        self._control = control

    def start(
        self, endpoint: str, version: str, plan: Mapping[str, Any] | None = None, **options: Unpack[StartOptions]
    ) -> Started:
        """Begin to move the endpoint's traffic to a version; returns at once. Read `warnings`: they do not stop it.

        Args:
            plan: as docs/rollouts.md explains; None for a canary with all defaults.

        Raises:
            Conflict: "rollout-running", or "rollout-refused" with all that is in its way in facts["problems"].
            InvalidRequest: "invalid-plan".
        """
        body = {"version": version, "plan": dict(plan or {"strategy": "canary"}), **options}
        return cast("Started", self._control.document(self._control.call("POST", _path(endpoint), json=body)))

    def get(self, endpoint: str, rollout_id: str = CURRENT) -> Rollout:
        """How it stands."""
        reply = self._control.call("GET", f"{_path(endpoint)}/{quote(rollout_id, safe='')}")
        return cast("Rollout", self._control.document(reply))

    def history(self, endpoint: str, last: int = 20) -> list[Rollout]:
        """The newest rollouts of an endpoint, newest first."""
        reply = self._control.call("GET", _path(endpoint), params={"last": str(last)})
        return cast("list[Rollout]", self._control.document(reply)["items"])

    def in_progress(self) -> list[Rollout]:
        """The rollouts that run or wait, of all endpoints."""
        reply = self._control.call("GET", "/api/v1/rollouts")
        return cast("list[Rollout]", self._control.document(reply)["items"])

    def pause(self, endpoint: str, rollout_id: str = CURRENT) -> Answer:
        """Stay at this step; a version that is found worse goes back all the same."""
        return self._tell(endpoint, rollout_id, "pause")

    def resume(self, endpoint: str, rollout_id: str = CURRENT) -> Answer:
        """Go on after a pause, or give back the share that was taken away."""
        return self._tell(endpoint, rollout_id, "resume")

    def approve(self, endpoint: str, rollout_id: str = CURRENT) -> Answer:
        """Let the next step begin, where the plan asks for a person."""
        return self._tell(endpoint, rollout_id, "approve")

    def promote(self, endpoint: str, rollout_id: str = CURRENT) -> Answer:
        """All traffic now, whatever time and evidence are missing."""
        return self._tell(endpoint, rollout_id, "promote")

    def abort(self, endpoint: str, rollout_id: str = CURRENT) -> Answer:
        """Back to the version before. With nothing in progress nothing is done, and `done` is False."""
        return self._tell(endpoint, rollout_id, "abort")

    def watch(self, endpoint: str, rollout_id: str = CURRENT) -> Iterator[Rollout]:
        """Its document whenever that changed, until it is finished; twice a second at most."""
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
        reply = self._control.call("POST", f"{_path(endpoint)}/{quote(rollout_id, safe='')}:{command}")
        return cast("Answer", self._control.document(reply))


def _path(endpoint: str) -> str:
    return f"/api/v1/endpoints/{quote(endpoint, safe='')}/rollouts"
