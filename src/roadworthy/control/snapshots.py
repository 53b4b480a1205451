"""Builds the snapshot that gateways serve from, out of what stands in the store. Called by `bulletin.py`."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from sqlalchemy import Connection

from roadworthy.access.keys import GATEWAY
from roadworthy.access.keys import list_all as list_keys
from roadworthy.contract.policy import Fallback, Policy
from roadworthy.contract.snapshot import FULL_SHARE, Arm, EndpointEntry, KeyEntry, PackageEntry, Snapshot
from roadworthy.foundation.references import VersionReference
from roadworthy.registry.versions import Version
from roadworthy.registry.versions import get as get_version
from roadworthy.rollout.endpoints import Endpoint
from roadworthy.rollout.endpoints import list_all as list_endpoints
from roadworthy.store.engine import read_revision


def build_snapshot(connection: Connection) -> Snapshot:
    """The whole of it, as of this transaction. An endpoint without a version that answers holds its package, but no split."""
    epoch, revision = read_revision(connection)
    packages: dict[str, PackageEntry] = {}
    entries = []
    for endpoint in list_endpoints(connection):
        held = {text: get_version(connection, VersionReference.parse(text)) for text in endpoint.versions}
        for version in held.values():
            packages.setdefault(version.digest, _package(version))
        if endpoint.current is not None:
            entries.append(
                EndpointEntry(
                    name=endpoint.name,
                    generation=endpoint.generation,
                    split=(Arm(held[endpoint.current].digest, FULL_SHARE),),
                    signature=endpoint.signature,
                    policy=_policy(endpoint, held),
                )
            )
    keys = tuple(
        KeyEntry(key.id, key.sha256, key.role, key.endpoints) for key in list_keys(connection) if key.role != GATEWAY
    )
    return Snapshot(epoch, revision, tuple(packages.values()), tuple(entries), keys)


def _policy(endpoint: Endpoint, held: Mapping[str, Version]) -> Policy:
    """The endpoint's, with the digests of the versions that its fallbacks name."""
    policy = msgspec.convert(endpoint.policy, Policy)
    if not any(step.kind == "version" for step in policy.fallback):
        return policy
    steps = tuple(_resolved(step, endpoint, held) if step.kind == "version" else step for step in policy.fallback)
    return msgspec.structs.replace(policy, fallback=steps)


def _resolved(step: Fallback, endpoint: Endpoint, held: Mapping[str, Version]) -> Fallback:
    version = held.get(step.version or endpoint.previous or "")
    return msgspec.structs.replace(step, digest=None if version is None else version.digest)


def _package(version: Version) -> PackageEntry:
    return PackageEntry(
        digest=version.digest,
        model=version.reference.name,
        version=version.reference.version,
        size_bytes=version.size_bytes,
        allowed_by=version.allowed_by,
    )
