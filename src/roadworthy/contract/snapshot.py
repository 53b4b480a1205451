"""Everything a gateway needs to serve, as one immutable document. The control plane writes it; agents and workers read it."""

from __future__ import annotations

from typing import Any

import msgspec

from roadworthy.contract.policy import Policy

FORMAT = 1
FULL_SHARE = 10_000
"""Weights of a split are in hundredths of a percent and add up to this."""


class Leave(msgspec.Struct, frozen=True):
    """Permission to execute code that accesses more than its own files: who gave it, and the grants
    (`foundation/confine/grants.py`)."""

    allowed_by: str
    grants: tuple[str, ...]


def leave_members(allowed_by: str | None, grants: tuple[str, ...]) -> dict[str, Any]:
    """The members `allowed_by` and `granted` of an entry, for code that `allowed_by`, or no one, allowed with these grants."""
    granted = Leave(allowed_by, grants) if allowed_by is not None and grants else None
    return {"allowed_by": allowed_by if granted is None else None, "granted": granted}


class PackageEntry(msgspec.Struct, frozen=True):
    """A package that the gateway must hold, loaded and proved.

    Attributes:
        digest: `sha256:…` of its manifest.
        model, version: its name in the registry.
        size_bytes: size of the packed file.
        allowed_by: the key that allowed it to execute code, if it carries code and has no grants; else None.
        rollouts: ids of the rollouts that try it, from before their first step on: its crashes count for them.
        granted: the permission if there are grants. A release without grants sees no permission, nor does anything else that
            cannot apply them.
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
        """The key that allowed the package to execute code, in a process with its grants."""
        return self.allowed_by if self.granted is None else self.granted.allowed_by

    @property
    def grants(self) -> tuple[str, ...]:
        """What the package's code may access in addition to its own files."""
        return () if self.granted is None else self.granted.grants


class VariantEntry(msgspec.Struct, frozen=True):
    """One variant of a split: a package and its weight, of FULL_SHARE."""

    digest: str
    weight: int


class WatchedOutput(msgspec.Struct, frozen=True):
    """An output whose values are counted in bins, the same for both versions.

    Attributes:
        name: of the field. place: index in a tensor; None for a plain field.
        edges: of a number's bins, ascending: below the first, between each two, and from the last on.
        categories: of a label: one bin each, then one for all others. None for a number.
    """

    name: str
    place: int | None = None
    edges: tuple[float, ...] = ()
    categories: tuple[str | int | bool, ...] | None = None

    @property
    def label(self) -> str:
        """The name that people see."""
        return self.name if self.place is None else f"{self.name}[{self.place}]"


class RolloutEntry(msgspec.Struct, frozen=True):
    """A rollout as gateways assign and count by it. Gateways hold both packages; the endpoint's entry has the split.

    Attributes:
        id: also the salt of sticky assignment.
        stable, canary: digests.
        shadow: the share of live requests that is copied to the canary, of FULL_SHARE; only where its weight is 0.
        sticky_field, sticky_header: the input field or header that identifies users; the other, or both, None.
        slow_us: the stable's 95th percentile of run time at the start, in microseconds of a run after warm-up; None: "slow" is
            not counted.
        signals: what to count, by name. Gateways pass over names that they do not know, and report those that they count.
        parameters: by signal, what the plan says of its own parameters.
        outputs: whose drift is counted; empty if drift is not watched.
        probabilities: the output whose largest value in a row is the answer's confidence; None if confidence is not watched.
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
    parameters: dict[str, dict[str, Any]] = {}


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

    `keys` None means that requests need no key (`serve --no-auth` on loopback); an empty tuple admits no one.
    """

    epoch: str
    revision: int
    packages: tuple[PackageEntry, ...] = ()
    endpoints: tuple[EndpointEntry, ...] = ()
    keys: tuple[KeyEntry, ...] | None = ()
    format: int = FORMAT

    def etag(self) -> str:
        """The value of `If-None-Match` for this snapshot."""
        return f'"{self.epoch}:{self.revision}"'

    def supersedes(self, other: Snapshot | None) -> bool:
        """Whether a gateway that holds `other` may accept this one: another epoch, or a higher revision."""
        return other is None or self.epoch != other.epoch or self.revision > other.revision

    def gives_up(self, other: Snapshot | None) -> bool:
        """Whether it comes from another epoch than `other` and would remove all its endpoints, as from a control plane whose
        database is gone."""
        return other is not None and self.epoch != other.epoch and bool(other.endpoints) and not self.endpoints


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Snapshot)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """JSON bytes."""
    return _encoder.encode(snapshot)


def decode_snapshot(data: bytes) -> Snapshot:
    """Read `encode_snapshot`'s bytes.

    Raises:
        ValueError: not a snapshot, or a format that this release does not know.
    """
    try:
        snapshot = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a snapshot: {error}") from error
    if snapshot.format != FORMAT:
        raise ValueError(f"unknown snapshot format {snapshot.format}; this release knows {FORMAT}")
    return snapshot
