"""Waits until an endpoint has completed a deployment or a rollback."""

from __future__ import annotations

import time
from collections.abc import Callable

from roadworthy.client.calls import Call, Pause, ask
from roadworthy.client.connection import error_from
from roadworthy.contract.api import endpoints
from roadworthy.contract.api.endpoints import Endpoint, PendingChange
from roadworthy.foundation.backoff import Backoff
from roadworthy.foundation.errors import Conflict, DeadlineExceeded

Progress = Callable[[Endpoint], None]
"""Called with the endpoint after each read."""

_POLLS = Backoff(0.02, 0.5, factor=1.5)


def wait_until_serving(asked: Endpoint, timeout_s: float, progress: Progress | None = None) -> Call[Endpoint]:
    """The endpoint once every live worker serves the version of `asked`, which is the server's reply to the change.

    Raises:
        RoadworthyError: the version failed to load; class and code as the workers reported them.
        Conflict: code "deploy-superseded": another caller changed the endpoint in the meantime.
        DeadlineExceeded: code "deploy-timeout": the change is still in progress after `timeout_s`.
    """
    wanted = asked.pending or asked
    deadline = time.monotonic() + timeout_s
    pauses, endpoint = _POLLS.delays(), asked
    revision: int | None = None
    while True:
        if progress is not None:
            progress(endpoint)
        if _done(endpoint, wanted):
            revision = endpoint.revision if revision is None else revision
            reached = endpoint.reached_revision
            if reached is None or reached >= revision:  # without a worker there is nothing to wait for
                return endpoint
        if time.monotonic() >= deadline:
            raise _too_slow(endpoint, wanted, timeout_s)
        yield Pause(min(next(pauses), max(0.0, deadline - time.monotonic())))
        endpoint = yield from ask(endpoints.GET, {"name": asked.name})


def _done(endpoint: Endpoint, wanted: Endpoint | PendingChange) -> bool:
    pending = endpoint.pending
    if (pending or endpoint).digest != wanted.digest:
        raise _superseded(endpoint, wanted)
    if pending is None:
        return endpoint.state == "serving"
    if pending.state == "FAILED":
        raise error_from(
            {
                "code": pending.code or "deploy-failed",
                "error": f"{wanted.version} could not be loaded: {pending.reason or 'no reason was given'}",
                "hint": "the previous version keeps serving; correct the package and push it again",
                "version": wanted.version,
                "digest": wanted.digest,
            },
            409,
        )
    return False


def _superseded(endpoint: Endpoint, wanted: Endpoint | PendingChange) -> Conflict:
    return Conflict(
        f"another caller changed the endpoint before {wanted.version} was serving",
        code="deploy-superseded",
        hint="`roadworthy status` shows the endpoint's version",
        facts={"changed_by": endpoint.changed_by, "version": endpoint.version},
    )


def _too_slow(endpoint: Endpoint, wanted: Endpoint | PendingChange, timeout_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{wanted.version} is not serving after {timeout_s:g} s; the endpoint keeps its version until it is",
        code="deploy-timeout",
        hint="`roadworthy status` shows its progress, and whether a gateway is connected",
        facts={"version": wanted.version, "state": (endpoint.pending or endpoint).state},
    )
