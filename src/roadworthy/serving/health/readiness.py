"""The readiness of a worker, which `reload.py` decides, and the process health that it depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from roadworthy.serving.cache.shared import SharedCache
from roadworthy.serving.health.golden_probe import GoldenProbes
from roadworthy.serving.health.pressure import Pressure


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the whole split of every endpoint is loaded, proved and answering in this process.

    Attributes:
        ready: the answer.
        reason: why not: "starting", "loading", "failed" (a missing version could not be loaded), "stopping", "memory-pressure",
            or "not-answering" and "wrong-answers" (results of golden probes).
        endpoints: how many are served. missing: names of those that are not.
        unhealthy: names of those with a version that fails its golden probes.
        warnings: shortages: "memory-high", "memory-pressure", "disk-low".
    """

    ready: bool
    reason: str | None = None
    endpoints: int = 0
    missing: tuple[str, ...] = ()
    unhealthy: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """JSON-ready; `unhealthy` and `warnings` appear only when they are not empty."""
        rare = {"unhealthy": self.unhealthy, "warnings": self.warnings}
        return {
            "ready": self.ready,
            "reason": self.reason,
            "endpoints": self.endpoints,
            "missing": self.missing,
            **{name: value for name, value in rare.items() if value},
        }


@dataclass(frozen=True, slots=True)
class ProcessHealth:
    """The health of this process: golden probes of its versions, its resources, and the shared cache where there is one."""

    probes: GoldenProbes
    pressure: Pressure
    shared: SharedCache | None = None
