"""Probes: whether the process lives, and whether it can answer for every endpoint that it serves. They need no key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from roadworthy.gateway.http import Handler, Receive, Reply, Request

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the whole split of every endpoint is loaded and proved in this process.

    Attributes:
        ready: the answer.
        reason: for no, one of "starting", "loading", "failed" (a version that is missing could not be loaded), "stopping".
        endpoints: how many are served. missing: names of those that are not.
    """

    ready: bool
    reason: str | None = None
    endpoints: int = 0
    missing: tuple[str, ...] = ()


def probe_routes(readiness: Callable[[], Readiness]) -> dict[bytes, Mapping[str, Handler]]:
    """/livez and /readyz, and the same in the words of the Open Inference Protocol."""

    async def live(request: Request, receive: Receive) -> Reply:  # noqa: ARG001 - a handler
        return Reply(200, b'{"status":"alive"}')

    async def ready(request: Request, receive: Receive) -> Reply:  # noqa: ARG001 - a handler
        state = readiness()
        return Reply(200 if state.ready else 503, _encode(state))

    async def v2_live(request: Request, receive: Receive) -> Reply:  # noqa: ARG001 - a handler
        return Reply(200, b'{"live":true}')

    async def v2_ready(request: Request, receive: Receive) -> Reply:  # noqa: ARG001 - a handler
        state = readiness()
        return Reply(200 if state.ready else 503, _encode({"ready": state.ready, "live": True}))

    return {
        b"/livez": {"GET": live, "HEAD": live},
        b"/readyz": {"GET": ready, "HEAD": ready},
        b"/v2/health/live": {"GET": v2_live, "HEAD": v2_live},
        b"/v2/health/ready": {"GET": v2_ready, "HEAD": v2_ready},
    }
