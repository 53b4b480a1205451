"""`client.rollouts`: start, follow and control rollouts.

with rw.Client() as client:
    begun = client.rollouts.start("flights", "flights:3", {"strategy": "canary", "steps": [5, 25, 100]})
    for rollout in client.rollouts.watch("flights"):
        print(rollout.phase, rollout.share, rollout.text)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, Unpack

from roadworthy.client.calls import Asynchronous, Awaiting, Blocking, Call, Feed, Item, Pause, Synchronous, ask, call, every, feed
from roadworthy.contract.api import rollouts as api
from roadworthy.contract.api.rollouts import CommandedRollout, NoRollout, Rollout, StartedRollout

CURRENT = "current"
_PAUSE_S = 0.5


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


class RolloutCalls:
    """Rollouts of one control plane. `rollout_id` defaults to the rollout in progress, or else the last one."""

    @call
    def start(
        self,
        endpoint: str,
        version: str,
        plan: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[StartOptions],
    ) -> Call[StartedRollout]:
        """Start to move the endpoint's traffic to a version. Returns at once; `warnings` do not stop the rollout.

        Args:
            plan: see docs/rollouts.md; None for a canary with all defaults.
            idempotency_key: a text of yours; a repetition with it returns the first reply instead of starting again.

        Raises:
            Conflict: "rollout-running", or "rollout-refused" with every reason in facts["problems"].
            InvalidRequest: "invalid-plan".
        """
        new = api.NewRollout(version=version, plan=dict(plan or {"strategy": "canary"}), **options)
        return ask(api.START, {"name": endpoint}, body=new, idempotency_key=idempotency_key)

    @call
    def get(self, endpoint: str, rollout_id: str = CURRENT) -> Call[Rollout]:
        """The rollout as it is now."""
        return ask(api.GET, {"name": endpoint, "rollout_id": rollout_id})

    @call
    def history(self, endpoint: str, last: int = 20) -> Call[list[Rollout]]:
        """The newest rollouts of an endpoint, newest first."""
        page = yield from ask(api.LIST, {"name": endpoint}, params={"last": last})
        return page.items

    @call
    def in_progress(self) -> Call[list[Rollout]]:
        """The running and waiting rollouts of all endpoints."""
        return every(api.LIST_OPEN, first="")

    @call
    def pause(self, endpoint: str, rollout_id: str = CURRENT) -> Call[CommandedRollout | NoRollout]:
        """Pause at this step. A version that is worse is still rolled back."""
        return _tell(endpoint, rollout_id, "pause")

    @call
    def resume(self, endpoint: str, rollout_id: str = CURRENT) -> Call[CommandedRollout | NoRollout]:
        """Continue after a pause, or restore a share that was withdrawn."""
        return _tell(endpoint, rollout_id, "resume")

    @call
    def approve(self, endpoint: str, rollout_id: str = CURRENT) -> Call[CommandedRollout | NoRollout]:
        """Approve the next step, where the plan requires approval."""
        return _tell(endpoint, rollout_id, "approve")

    @call
    def promote(self, endpoint: str, rollout_id: str = CURRENT) -> Call[CommandedRollout | NoRollout]:
        """Move all traffic to the version now, without waiting for time or evidence."""
        return _tell(endpoint, rollout_id, "promote")

    @call
    def abort(self, endpoint: str, rollout_id: str = CURRENT) -> Call[CommandedRollout | NoRollout]:
        """Return to the stable version. Without a rollout in progress this does nothing, and `done` is False."""
        return _tell(endpoint, rollout_id, "abort")

    @feed
    def watch(self, endpoint: str, rollout_id: str = CURRENT) -> Feed[Rollout]:
        """Yield the rollout whenever it changes, until it is finished; at most twice a second."""
        before: Rollout | None = None
        while before is None or before.phase != "finished":
            if before is not None:
                yield Pause(_PAUSE_S)
            rollout = yield from ask(api.GET, {"name": endpoint, "rollout_id": rollout_id})
            rollout_id = rollout.id
            if rollout != before:
                yield Item(rollout)
            before = rollout


def _tell(endpoint: str, rollout_id: str, command: str) -> Call[CommandedRollout | NoRollout]:
    return ask(api.COMMAND, {"name": endpoint, "rollout_id": rollout_id, "command": command})


class Rollouts(Synchronous, RolloutCalls):
    """`client.rollouts`."""

    def __init__(self, transport: Blocking) -> None:
        self.transport = transport


class AsyncRollouts(Asynchronous, RolloutCalls):
    """`client.rollouts` of a client that awaits."""

    def __init__(self, transport: Awaiting) -> None:
        self.transport = transport
