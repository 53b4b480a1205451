"""Everything a gateway needs to serve, as one immutable document. Written by the control plane, read by agents and workers."""

from __future__ import annotations

from typing import Any

import msgspec

from roadworthy.contract.policy import Policy

FORMAT = 1
FULL_SHARE = 10_000
"""Weights of a split are in hundredths of a percent and add up to this."""


class Leave(msgspec.Struct, frozen=True):
    """Leave to execute code with more than its own files: who gave it, and what was granted (`foundation/confine/grants.py`)."""

    allowed_by: str
    grants: tuple[str, ...]


def leave_members(allowed_by: str | None, grants: tuple[str, ...]) -> dict[str, Any]:
    """`allowed_by` and `granted` of an entry whose code somebody allowed, or nobody, with these grants."""
    granted = Leave(allowed_by, grants) if allowed_by is not None and grants else None
    return {"allowed_by": allowed_by if granted is None else None, "granted": granted}


class PackageEntry(msgspec.Struct, frozen=True):
    """A package that the gateway must hold, loaded and proved.

    Attributes:
        digest: `sha256:…` of its manifest.
        model, version: the registry's name for it.
        size_bytes: size of the packed file.
        allowed_by: who allowed it to execute code, when it carries code and was allowed without grants; None otherwise.
        rollouts: ids of the rollouts that try it, from before their first step on: its crashes are counted for them.
        granted: the same with grants. A release that knows none finds no leave, and so does whatever could not give them.
    """

    digest: str
    model: str
    version: int
    size_bytes: int
    allowed_by: str | None = None
    rollouts: tuple[str, ...] = ()
    granted: Leave | None = None

    @property
    def leave(self) -> str | None:
        """Who allowed it to execute code in a process that gets its grants."""
        return self.allowed_by if self.granted is None else self.granted.allowed_by

    @property
    def grants(self) -> tuple[str, ...]:
        """What it may have beside its own files."""
        return () if self.granted is None else self.granted.grants


class VariantEntry(msgspec.Struct, frozen=True):
    """One side of a split: a package and its weight, of FULL_SHARE."""

    digest: str
    weight: int


class WatchedOutput(msgspec.Struct, frozen=True):
    """An output whose values are counted in bins, the same for both versions.

    Attributes:
        name: of the field. place: which of a tensor's numbers; None for a plain one.
        edges: of a number's bins, ascending: below the first, between each two of them, from the last on.
        categories: of a label's: one bin each, then one for all others. None for a number.
    """

    name: str
    place: int | None = None
    edges: tuple[float, ...] = ()
    categories: tuple[str | int | bool, ...] | None = None

    @property
    def label(self) -> str:
        """How people call it."""
        return self.name if self.place is None else f"{self.name}[{self.place}]"


class RolloutEntry(msgspec.Struct, frozen=True):
    """A rollout as gateways draw and count by it. Both packages are held; what its split is, the endpoint's entry says.

    Attributes:
        id: also the salt of sticky draws.
        stable, canary: digests.
        shadow: the part of live requests that is copied to the canary, of FULL_SHARE; only where its weight is 0.
        sticky_field, sticky_header: what users are told apart by, in the input or the head; None for the other, or for both.
        slow_us: the stable's frozen 95th percentile of run time, microseconds in the version's run after warm-up; None: "slow"
            is not counted.
        signals: what to count: "errors", "invalid_outputs", "slow", "disagreement", "guard_hits", "custom.NAME".
        outputs: what drift is counted of; empty where it is not watched.
        probabilities: the output whose largest value in a row says how sure the answer is; None where that is not watched.
    """

    id: str
    stable: str
    canary: str
    shadow: int = 0
    sticky_field: str | None = None
    sticky_header: str | None = None
    slow_us: int | None = None
    signals: tuple[str, ...] = ()
    outputs: tuple[WatchedOutput, ...] = ()
    probabilities: str | None = None


class EndpointEntry(msgspec.Struct, frozen=True):
    """A public name. `generation` grows with every change of its split; `signature` is Signature.to_document()."""

    name: str
    generation: int
    split: tuple[VariantEntry, ...]
    signature: dict[str, Any]
    policy: Policy = Policy()
    rollout: RolloutEntry | None = None


class KeyEntry(msgspec.Struct, frozen=True):
    """A key that may call endpoints. Only its hash travels.

    Attributes:
        id: public id, shown in records as the caller.
        sha256: hex SHA-256 of the whole key text.
        role: "admin", "predictor" or "gateway"; only the first two may call endpoints.
        endpoints: names it may call, or None for all.
    """

    id: str
    sha256: str
    role: str
    endpoints: tuple[str, ...] | None = None


class Snapshot(msgspec.Struct, frozen=True):
    """Whole and immutable. Within an epoch (one life of the store) a lower revision is refused.

    `keys` None means that calls need no key (`serve --no-auth` on loopback); an empty tuple admits nobody.
    """

    epoch: str
    revision: int
    packages: tuple[PackageEntry, ...] = ()
    endpoints: tuple[EndpointEntry, ...] = ()
    keys: tuple[KeyEntry, ...] | None = ()
    format: int = FORMAT

    def etag(self) -> str:
        """What `If-None-Match` carries for this snapshot."""
        return f'"{self.epoch}:{self.revision}"'

    def supersedes(self, other: Snapshot | None) -> bool:
        """Whether a gateway that holds `other` may take this one: another epoch, or a higher revision."""
        return other is None or self.epoch != other.epoch or self.revision > other.revision

    def gives_up(self, other: Snapshot | None) -> bool:
        """Whether it comes from another life of the store than `other` and would leave none of its endpoints: as from a control
        plane whose database is gone."""
        return other is not None and self.epoch != other.epoch and bool(other.endpoints) and not self.endpoints


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Snapshot)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """JSON bytes."""
    return _encoder.encode(snapshot)


def decode_snapshot(data: bytes) -> Snapshot:
    """Read `encode_snapshot`'s bytes.

    Raises:
        ValueError: not a snapshot, or one of a format that this release does not know.
    """
    try:
        snapshot = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a snapshot: {error}") from error
    if snapshot.format != FORMAT:
        raise ValueError(f"snapshot format {snapshot.format} is not known here")
    return snapshot
