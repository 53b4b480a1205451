"""Puts snapshots into service: takes an offered snapshot, has its packages loaded, and binds each endpoint once it can answer.

Snapshots come from the agent's link and, at the start, from the disk; the manager calls `refresh` when a version's state changes.
Keys and the list of endpoints apply at once. An endpoint's new split, policy and signature apply together, once every version of
the split is READY here; before that the previous ones stay in service.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from roadworthy.contract.layers import plugin_layers
from roadworthy.contract.runners import plugin_runners
from roadworthy.contract.snapshot import EndpointEntry, PackageEntry, Snapshot
from roadworthy.contract.telemetry import CONNECTED, FAILED, UNREACHABLE, VersionState, WorkerReport
from roadworthy.runtime.layers.rules import Rules
from roadworthy.runtime.manager import Manager, Version
from roadworthy.runtime.placement import policies_of
from roadworthy.serving.admission import Admission, Keys
from roadworthy.serving.cache.shared import SharedCache
from roadworthy.serving.endpoint import Endpoint, Unbindable, bind
from roadworthy.serving.health.golden_probe import FAILURES
from roadworthy.serving.health.readiness import ProcessHealth, Readiness
from roadworthy.serving.metrics import Gauge, WorkerMetrics
from roadworthy.signals.discovery import counted_here


@dataclass(frozen=True, slots=True)
class Identity:
    """Which worker this is, for reports."""

    slot: int
    pid: int
    boot: str


class Edge(Protocol):
    """Where requests come in."""

    def serve(self, keys: Keys, served: Mapping[str, Endpoint], waiting: Mapping[str, Admission]) -> None:
        """From now on answer for the `served` endpoints, and with "not ready" for those `waiting` for their versions."""
        ...

    def head(self, label: str, version: Version) -> bytes:
        """The headers that name a version in each of its answers; `label` is "model:3". Called once for each binding."""
        ...


class ServingState:
    """What this worker serves, and what it should serve. Event loop only. Call `attach` before the first snapshot.

    Attributes:
        stopping: set at the beginning of an orderly stop; the readiness probe then says no.
        health: of this process; None until the worker has set it.
    """

    def __init__(self, identity: Identity, metrics: WorkerMetrics, changed: Callable[[], None]) -> None:
        self._identity = identity
        self._metrics = metrics
        self._changed = changed
        self._offered: Snapshot | None = None
        self._served: Snapshot | None = None
        self._revision = 0
        self._keys = Keys(())
        self._admissions: dict[str, Admission] = {}
        self._endpoints: dict[str, Endpoint] = {}
        self._reasons: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._queues: dict[str, tuple[Gauge, int]] = {}
        self._elsewhere: Mapping[str, WorkerMetrics] = {}
        self._moved: set[str] = set()
        self.stopping = False
        self.health: ProcessHealth | None = None
        self._rules: Rules | None = None
        self._shared: SharedCache | None = None

    def attach(self, manager: Manager, edge: Edge, rules: Rules | None = None, shared: SharedCache | None = None) -> None:
        """Set what cannot be made before this object: the manager, the edge, the packages' rules, and the shared cache."""
        self._manager = manager
        self._edge = edge
        self._rules = rules
        self._shared = shared

    def count_in(self, elsewhere: Mapping[str, WorkerMetrics]) -> None:
        """From the next `refresh` on, count the requests of these endpoints there, and those of all others in this worker's
        metrics. Requests in progress are counted where they began."""
        before, self._elsewhere = self._elsewhere, elsewhere
        moved = {name for name in before.keys() | elsewhere.keys() if before.get(name) is not elsewhere.get(name)}
        self._moved |= moved
        for name in moved:
            self._queues.pop(name, None)

    @property
    def settled(self) -> bool:
        """Whether this process has loaded everything that it needs to replace another worker."""
        return not self.stopping and (self._offered is None or not self._missing(self._offered))

    @property
    def loading(self) -> bool:
        """Whether a missing endpoint may still be loaded."""
        offered = self._offered
        return offered is not None and bool(self._missing(offered) - self._hopeless(offered))

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:
        """The endpoints in service, by name."""
        return self._endpoints

    def offer(self, snapshot: Snapshot) -> bool:
        """Take a snapshot; False for one older than the last.

        The same snapshot again means that a missing package may have arrived: failed loads are retried.
        """
        known = self._offered
        again = known is not None and snapshot.etag() == known.etag()
        if not again and not snapshot.supersedes(known):
            return False
        if known is None or snapshot.keys != known.keys:
            self._keys = Keys(snapshot.keys)
        self._offered = snapshot
        self._admissions = {entry.name: self._configured(entry, self._admissions.get(entry.name)) for entry in snapshot.endpoints}
        self._want(retry=again)
        self.refresh()
        return True

    def refresh(self) -> None:
        """Put into service what has become ready. Call it at every change of a version's state."""
        snapshot = self._offered
        if snapshot is None:
            return
        packages = {package.digest: package for package in snapshot.packages}
        before = self._pinned()
        self._reasons, self._refused = {}, {}
        self._endpoints = {
            entry.name: endpoint for entry in snapshot.endpoints if (endpoint := self._bound(entry, packages)) is not None
        }
        if not self._reasons:
            self._served = snapshot
        if self._reasons.keys() == self._refused.keys():  # an endpoint that is refused must not hold up the others
            self._revision = snapshot.revision
        waiting = {name: admission for name, admission in self._admissions.items() if name not in self._endpoints}
        self._edge.serve(self._keys, self._endpoints, waiting)
        rollouts = [entry.rollout.id for entry in snapshot.endpoints if entry.rollout is not None]
        for metrics in {self._metrics, *self._elsewhere.values()}:
            metrics.evidence.keep(rollouts)
        if self._pinned() != before:
            self._want()
        if self._rules is not None:
            self._rules.keep({part for endpoint in self._endpoints.values() for part in endpoint.rules})
        self._changed()

    def readiness(self) -> Readiness:
        """Whether every endpoint of the served snapshot answers here, for the probes."""
        if self.stopping:
            return Readiness(ready=False, reason="stopping")
        if self._offered is None:
            return Readiness(ready=False, reason="starting")
        missing = self._missing(self._offered)
        unhealthy = self._unhealthy()
        hopeless = missing & self._hopeless(self._offered)
        no_memory = self.health is not None and self.health.pressure.refuse is not None
        reasons = [
            *(["failed" if hopeless else "loading"] if missing else []),
            *(["memory-pressure"] if no_memory else []),
            *sorted(set(unhealthy.values())),
        ]
        return Readiness(
            ready=not reasons,
            reason=reasons[0] if reasons else None,
            endpoints=len(self._endpoints),
            missing=tuple(sorted(missing)),
            unhealthy=tuple(sorted(unhealthy)),
            warnings=() if self.health is None else self.health.pressure.warnings,
        )

    def _missing(self, offered: Snapshot) -> set[str]:
        wanted = {entry.name for entry in (self._served or offered).endpoints}
        return wanted & set(self._admissions) - set(self._endpoints)

    def _unhealthy(self) -> dict[str, str]:
        """The endpoints with an unhealthy version in their split, with the result of its golden probe."""
        faults = {} if self.health is None else self.health.probes.faults()
        return {
            name: fault
            for name, endpoint in self._endpoints.items()
            for variant in endpoint.split.variants
            if (fault := faults.get(variant.version.digest)) in FAILURES
        }

    def report(self) -> WorkerReport:
        """This worker's progress, for the agent."""
        shared = self._shared
        return WorkerReport(
            slot=self._identity.slot,
            pid=self._identity.pid,
            boot=self._identity.boot,
            epoch=None if self._offered is None else self._offered.epoch,
            revision=self._revision,
            offered=0 if self._offered is None else self._offered.revision,
            versions=tuple(map(self._with_health, self._manager.states())),
            shared_cache=None if shared is None else CONNECTED if shared.connected else UNREACHABLE,
            signals=counted_here(),
            layers=tuple(plugin_layers()),
            refused=tuple(sorted(self._refused)),
            runners=tuple(plugin_runners()),
        )

    def _with_health(self, state: VersionState) -> VersionState:
        fault = None if self.health is None else self.health.probes.faults().get(state.digest)
        return state if fault is None else msgspec.structs.replace(state, health=fault)

    def gauge_queues(self) -> None:
        """Update the queue gauges. Called about once a second, so that requests need not do it."""
        for name, endpoint in self._endpoints.items():
            gauge, before = self._queues.get(name) or (self._elsewhere.get(name, self._metrics).queue(name), 0)
            now = sum(variant.version.batcher.waiting for variant in endpoint.split.variants)
            gauge.add(now - before)
            self._queues[name] = (gauge, now)

    def reasons(self) -> Mapping[str, str]:
        """Why endpoints are not served as the newest snapshot says, by name."""
        return dict(self._reasons)

    def refused(self) -> dict[str, str]:
        """Those of `reasons` that no change of a version's state will remove."""
        return dict(self._refused)

    def _configured(self, entry: EndpointEntry, admission: Admission | None) -> Admission:
        admission = admission or Admission(entry.name)
        admission.configure(self._keys, entry.policy.max_in_flight)
        return admission

    def _bound(self, entry: EndpointEntry, packages: Mapping[str, PackageEntry]) -> Endpoint | None:
        """The endpoint as the snapshot describes it, else as it was, else None."""
        previous = self._endpoints.get(entry.name)
        if previous is not None and entry.name not in self._moved and previous.uses(entry, self._manager.version):
            return previous
        try:
            endpoint = self._bind(entry, packages)
        except Unbindable as error:
            self._reasons[entry.name] = str(error)
            if error.hopeless:
                self._refused[entry.name] = str(error)
            if previous is None:
                return self._without_shadow(entry, packages)
            if entry.name not in self._moved:
                return previous
            endpoint = self._moved_alone(previous, packages)
        if endpoint is not previous:
            self._moved.discard(entry.name)
        return endpoint

    def _moved_alone(self, previous: Endpoint, packages: Mapping[str, PackageEntry]) -> Endpoint:
        """The endpoint as it was, counted where it should be now."""
        try:
            return self._bind(previous.entry, packages)
        except Unbindable:
            return previous

    def _bind(self, entry: EndpointEntry, packages: Mapping[str, PackageEntry]) -> Endpoint:
        return bind(
            entry,
            packages,
            self._manager.version,
            self._admissions[entry.name],
            self._elsewhere.get(entry.name, self._metrics),
            rules=self._rules,
            shared=self._shared,
            head=self._edge.head,
        )

    def _without_shadow(self, entry: EndpointEntry, packages: Mapping[str, PackageEntry]) -> Endpoint | None:
        """For a worker that starts: a shadowed version that cannot be loaded must not keep the endpoint from being served."""
        if entry.rollout is None or not entry.rollout.shadow or entry.rollout.canary not in self._failed():
            return None
        try:
            return self._bind(msgspec.structs.replace(entry, rollout=None), packages)
        except Unbindable:
            return None

    def _failed(self) -> set[str]:
        return {each.digest for each in self._manager.states() if each.state == FAILED}

    def _hopeless(self, offered: Snapshot) -> set[str]:
        """Names of endpoints with a version in their split that failed to load here or is kept out, or without a layer that their
        policy asks for."""
        failed = self._failed()
        named = {entry.name for entry in offered.endpoints if any(variant.digest in failed for variant in entry.split)}
        return named.union(self._refused)

    def _pinned(self) -> frozenset[str]:
        return frozenset(version.digest for endpoint in self._endpoints.values() for version in endpoint.versions)

    def _want(self, *, retry: bool = False) -> None:
        """Have the packages loaded: those in splits first, then those that are only kept warm."""
        if self._offered is None:
            return
        entries = self._offered.endpoints
        in_splits = {variant.digest for entry in entries for variant in entry.split}
        in_splits |= {entry.rollout.canary for entry in entries if entry.rollout is not None}
        if retry and self._rules is not None:
            self._rules.try_again()
        ordered = sorted(self._offered.packages, key=lambda package: package.digest not in in_splits)
        self._manager.want(ordered, self._pinned(), policies=policies_of(self._offered), retry=retry)
