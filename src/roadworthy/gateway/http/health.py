"""Health routes. The probes report whether the process is alive and whether it can answer for every endpoint; they need no key.
/healthz has all details and needs one."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from roadworthy.codecs.protocol import pages_of, protocols
from roadworthy.gateway.http.messages import Handler, Receive, Reply, Request
from roadworthy.serving.endpoint import Endpoint
from roadworthy.serving.health.golden_probe import GoldenProbes, Health
from roadworthy.serving.health.readiness import ProcessHealth, Readiness
from roadworthy.serving.variant import Variant

PROBES = frozenset({b"/livez", b"/readyz", b"/v2/health/live", b"/v2/health/ready"})
"""Paths that are answered for any Host header: probes call the address of a machine or a container. `probe_paths` has more."""
_encode = msgspec.json.Encoder().encode


def probe_paths() -> frozenset[bytes]:
    """PROBES, and the pages of protocols that need no key either, such as MLflow's /ping."""
    return PROBES | {path for protocol in protocols().values() for path, page in pages_of(protocol).items() if page.open}


def probe_routes(readiness: Callable[[], Readiness]) -> dict[bytes, Mapping[str, Handler]]:
    """/livez and /readyz, and their equivalents in the Open Inference Protocol."""

    async def live(request: Request, receive: Receive) -> Reply:  # noqa: ARG001 - a handler
        return Reply(200, b'{"status":"alive"}')

    async def ready(request: Request, receive: Receive) -> Reply:  # noqa: ARG001 - a handler
        state = readiness()
        return Reply(200 if state.ready else 503, _encode(state.document()))

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


def health_document(readiness: Readiness, served: Collection[Endpoint], health: ProcessHealth | None) -> dict[str, Any]:
    """GET /healthz: the readiness of this process, its resources, and the state of each version behind these endpoints."""
    document: dict[str, Any] = {"ready": readiness.ready, "reason": readiness.reason, "warnings": readiness.warnings}
    if health is not None:
        reading = health.pressure.reading
        document["memory_used"] = None if reading.memory is None else round(reading.memory, 3)
        document["disk_free_bytes"] = reading.disk_free_bytes
        if health.shared is not None:
            document["shared_cache"] = {"address": health.shared.address, "connected": health.shared.connected}
    probes = None if health is None else health.probes
    document["endpoints"] = {
        endpoint.name: {
            "ready": endpoint.name not in readiness.unhealthy,
            "generation": endpoint.entry.generation,
            "versions": [_version(variant, probes) for variant in endpoint.split.variants],
        }
        for endpoint in sorted(served, key=lambda endpoint: endpoint.name)
    }
    return document


def _version(variant: Variant, probes: GoldenProbes | None) -> dict[str, Any]:
    version = variant.version
    found = None if probes is None else probes.health(version.digest)
    return {
        "version": f"{variant.model}:{variant.number}",
        "digest": version.digest,
        "runtime": version.runtime,
        "placement": version.placed.summary(),
        "waiting": version.batcher.waiting,
        "check": None if found is None else _check(found),
    }


def _check(found: Health) -> dict[str, Any]:
    """The result of a version's golden probes, without the reason of a failure, which may hold values of the model."""
    ago = None if found.checked is None else round(time.monotonic() - found.checked, 1)
    return {
        "health": found.fault or "ok",
        "last": found.result,
        "in_a_row": found.in_a_row,
        "latency_ms": round(found.seconds * 1e3, 3),
        "usual_ms": None if found.usual_s is None else round(found.usual_s * 1e3, 3),
        "seconds_ago": ago,
    }
