"""Builds the snapshot that gateways serve from, out of the store. `snapshot_publisher.py` publishes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from roadworthy.access.keys import GATEWAY
from roadworthy.access.keys import list_all as list_keys
from roadworthy.contract.policy import Fallback, Policy
from roadworthy.contract.snapshot import (
    FULL_SHARE,
    EndpointEntry,
    KeyEntry,
    PackageEntry,
    RolloutEntry,
    Snapshot,
    VariantEntry,
    leave_members,
)
from roadworthy.foundation.references import VersionReference
from roadworthy.registry.versions import Version
from roadworthy.registry.versions import get as get_version
from roadworthy.rollout.decide.state import PREPARING
from roadworthy.rollout.endpoints import Endpoint
from roadworthy.rollout.endpoints import list_all as list_endpoints
from roadworthy.rollout.plan.plan import Criterion, Watch
from roadworthy.rollout.rollouts import Rollout, list_open
from roadworthy.signals.discovery import signal_named
from roadworthy.signals.signal import BinSignal
from roadworthy.store.connection import Connection
from roadworthy.store.engine import read_revision


def build_snapshot(connection: Connection) -> Snapshot:
    """The whole snapshot, as of this transaction. For an endpoint without a serving version it names the package but no split."""
    epoch, revision = read_revision(connection)
    packages: dict[str, PackageEntry] = {}
    entries = []
    running = {rollout.endpoint: rollout for rollout in list_open(connection) if rollout.running}
    for endpoint in list_endpoints(connection):
        rollout = running.get(endpoint.name)
        texts = dict.fromkeys((*endpoint.versions, *_of_rollout(rollout)))
        held = {text: get_version(connection, VersionReference.parse(text)) for text in texts}
        for version in held.values():
            tried_by = [each.id for each in running.values() if each.canary_digest == version.digest and not each.deployment]
            packages.setdefault(version.digest, _package(version, tuple(tried_by)))
        if endpoint.current is not None:
            entries.append(
                EndpointEntry(
                    name=endpoint.name,
                    generation=endpoint.generation,
                    split=_split(held[endpoint.current].digest, rollout),
                    signature=_signature(endpoint, held, rollout),
                    policy=_policy(endpoint, held),
                    rollout=_rollout(rollout),
                )
            )
    keys = tuple(KeyEntry(key.id, key.sha256, key.role, key.endpoints) for key in list_keys(connection) if key.role != GATEWAY)
    return Snapshot(epoch, revision, tuple(packages.values()), tuple(entries), keys)


def _of_rollout(rollout: Rollout | None) -> tuple[str, ...]:
    """Versions that gateways must hold for a rollout: the stable, and the canary except between two attempts to load it."""
    if rollout is None:
        return ()
    return tuple(filter(None, (rollout.stable, rollout.canary if rollout.held else "")))


def _split(current: str, rollout: Rollout | None) -> tuple[VariantEntry, ...]:
    if rollout is None or rollout.deployment:
        return (VariantEntry(current, FULL_SHARE),)
    weight = rollout.state.weight
    variants = (VariantEntry(rollout.stable_digest, FULL_SHARE - weight), VariantEntry(rollout.canary_digest, weight))
    return tuple(variant for variant in variants if variant.weight)


def _signature(endpoint: Endpoint, held: Mapping[str, Version], rollout: Rollout | None) -> dict[str, Any]:
    """The endpoint's signature; the canary's while it has all traffic after an accepted change of signature."""
    if rollout is not None and rollout.accepted_by is not None and rollout.state.weight == FULL_SHARE:
        return held[rollout.canary].signature
    return endpoint.signature


def _rollout(rollout: Rollout | None) -> RolloutEntry | None:
    """How gateways assign and count requests, from the first step on."""
    if rollout is None or rollout.state.phase == PREPARING:
        return None
    plan, state = rollout.plan, rollout.state
    sorting = [watch for watch in plan.watches if isinstance(signal_named(watch.signal), BinSignal)]
    counted: list[Criterion | Watch] = [*plan.criteria, *sorting]
    return RolloutEntry(
        id=rollout.id,
        stable=rollout.stable_digest,
        canary=rollout.canary_digest,
        shadow=state.shadow,
        sticky_field=None if plan.sticky is None else plan.sticky.field,
        sticky_header=None if plan.sticky is None else plan.sticky.header,
        slow_us=None if state.slow_ms is None else round(state.slow_ms * 1e3),
        signals=tuple(each.signal for each in counted),
        parameters={each.signal: each.parameters for each in counted if each.parameters},
        outputs=state.outputs,
        probabilities=state.probabilities,
    )


def _policy(endpoint: Endpoint, held: Mapping[str, Version]) -> Policy:
    """The endpoint's policy, with the digests of its fallback versions."""
    policy = msgspec.convert(endpoint.policy, Policy)
    if not any(step.kind == "version" for step in policy.fallback):
        return policy
    steps = tuple(_resolved(step, endpoint, held) if step.kind == "version" else step for step in policy.fallback)
    return msgspec.structs.replace(policy, fallback=steps)


def _resolved(step: Fallback, endpoint: Endpoint, held: Mapping[str, Version]) -> Fallback:
    version = held.get(step.version or endpoint.previous or "")
    return msgspec.structs.replace(step, digest=None if version is None else version.digest)


def _package(version: Version, tried_by: tuple[str, ...]) -> PackageEntry:
    return PackageEntry(
        digest=version.digest,
        model=version.reference.name,
        version=version.reference.version,
        size_bytes=version.size_bytes,
        rollouts=tried_by,
        **leave_members(version.allowed_by, version.grants),
    )
