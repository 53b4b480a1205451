"""Waits until an endpoint has completed a deployment or a rollback."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from roadworthy.client.connection import error_from
from roadworthy.foundation.backoff import Backoff
from roadworthy.foundation.errors import Conflict, DeadlineExceeded

Document = Mapping[str, Any]
Progress = Callable[[Document], None]
"""Called with the endpoint's document after each read."""

_POLLS = Backoff(0.02, 0.5, factor=1.5)


def wait_until_serving(
    read: Callable[[], Document], asked: Document, timeout_s: float, progress: Progress | None = None
) -> Document:
    """The endpoint's document once every live worker serves the version of `asked`, which is the server's reply to the change.

    Raises:
        RoadworthyError: the version failed to load; class and code as the workers reported them.
        Conflict: code "deploy-superseded": another caller changed the endpoint in the meantime.
        DeadlineExceeded: code "deploy-timeout": the change is still in progress after `timeout_s`.
    """
    wanted = _wanted(asked)
    deadline = time.monotonic() + timeout_s
    pauses, document = _POLLS.delays(), asked
    revision: int | None = None
    while True:
        if progress is not None:
            progress(document)
        if _done(document, wanted):
            if revision is None:
                revision = document.get("revision", 0)
            if _everywhere(document, revision):
                return document
        if time.monotonic() >= deadline:
            raise _too_slow(document, wanted, timeout_s)
        time.sleep(min(next(pauses), max(0.0, deadline - time.monotonic())))
        document = read()


def _wanted(asked: Document) -> tuple[str | None, str | None]:
    target = asked.get("pending") or asked
    return target.get("version"), target.get("digest")


def _done(document: Document, wanted: tuple[str | None, str | None]) -> bool:
    pending = document.get("pending")
    if pending is None:
        if document.get("digest") != wanted[1]:
            raise _superseded(document, wanted)
        return document.get("state") == "serving"
    if pending.get("digest") != wanted[1]:
        raise _superseded(document, wanted)
    if pending.get("state") == "FAILED":
        raise error_from(
            {
                "code": pending.get("code") or "deploy-failed",
                "error": f"{wanted[0]} could not be loaded: {pending.get('reason') or 'no reason was given'}",
                "hint": "the previous version keeps serving; correct the package and push it again",
                "version": wanted[0],
                "digest": wanted[1],
            },
            409,
        )
    return False


def _everywhere(document: Document, revision: int) -> bool:
    """Whether every live worker has that revision or a later one. Without a worker there is nothing to wait for."""
    reached = document.get("reached_revision")
    return reached is None or reached >= revision


def _superseded(document: Document, wanted: tuple[str | None, str | None]) -> Conflict:
    return Conflict(
        f"another caller changed the endpoint before {wanted[0]} was serving",
        code="deploy-superseded",
        hint="`roadworthy status` shows the endpoint's version",
        facts={"changed_by": document.get("changed_by"), "version": document.get("version")},
    )


def _too_slow(document: Document, wanted: tuple[str | None, str | None], timeout_s: float) -> DeadlineExceeded:
    pending = document.get("pending") or {}
    return DeadlineExceeded(
        f"{wanted[0]} is not serving after {timeout_s:g} s; the endpoint keeps its version until it is",
        code="deploy-timeout",
        hint="`roadworthy status` shows its progress, and whether a gateway is connected",
        facts={"version": wanted[0], "state": pending.get("state") or document.get("state")},
    )
