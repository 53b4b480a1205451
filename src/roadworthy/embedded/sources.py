"""What an embedded endpoint serves: a package as the only version, or an endpoint as this machine's gateway serves it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from roadworthy.contract.layers import read_layers
from roadworthy.contract.policy import Policy
from roadworthy.contract.snapshot import FULL_SHARE, EndpointEntry, PackageEntry, Snapshot, VariantEntry, decode_snapshot
from roadworthy.foundation.documents import Reader, invalid_request
from roadworthy.foundation.errors import InvalidRequest, NotFound, Unavailable
from roadworthy.package.audit import audit
from roadworthy.package.package import Package
from roadworthy.runtime.loading import package_folder

_CALLER = "the application"
"""Who allowed a package to execute code, in the entry of the snapshot."""


@dataclass(frozen=True, slots=True)
class Offer:
    """An endpoint with its packages, each with the folder that has it unpacked."""

    entry: EndpointEntry
    packages: Mapping[str, tuple[PackageEntry, Path]]


class Source(Protocol):
    """Where an endpoint comes from."""

    def read(self) -> Offer | None:
        """The endpoint as it should be served now; None if that has not changed since the last call.

        Raises:
            RoadworthyError: there is no such endpoint.
        """
        ...

    def again(self) -> None:
        """Have the next `read` give the endpoint in any case."""
        ...

    @property
    def gateway(self) -> Path | None:
        """The folder of the gateway whose endpoint it is; None for an endpoint of no gateway."""
        ...

    def follow(self, snapshot: Snapshot | None) -> None:
        """Serve the endpoint as its gateway does, by this snapshot from its agent; None: without what needs an agent."""
        ...


class PackageSource:
    """One package as the only version of an endpoint.

    Args:
        name: of the endpoint.
        package: unpacked. number: its version number in the registry; 1 without one.
        allow_code: digests of packages whose code may run.
        policy: of the endpoint.
    """

    def __init__(self, name: str, package: Package, number: int, allow_code: Collection[str], policy: Policy) -> None:
        """Check everything that needs no execution.

        Raises:
            PackageRefused: "code-not-allowed", or the package cannot run here.
            InvalidRequest: "invalid-policy": a fallback's rule is not in the package.
        """
        audit(package, allow_code, None)
        _check_rules(policy, package)
        allowed = _CALLER if package.digest in allow_code else None
        entry = PackageEntry(package.digest, package.name, number, 0, allowed)
        split = (VariantEntry(package.digest, FULL_SHARE),)
        endpoint = EndpointEntry(name, 1, split, package.signature.to_document(), policy)
        self._offer = Offer(endpoint, {package.digest: (entry, package.path)})
        self._wanted = True

    def read(self) -> Offer | None:
        """See `Source`."""
        wanted, self._wanted = self._wanted, False
        return self._offer if wanted else None

    def again(self) -> None:
        """See `Source`."""
        self._wanted = True

    @property
    def gateway(self) -> None:
        """See `Source`."""
        return None

    def follow(self, snapshot: Snapshot | None) -> None:
        """See `Source`. A package is in no snapshot."""


class HomeSource:
    """An endpoint of the gateway whose `folder` is on this machine, whether that gateway runs or not. After a time with an agent,
    records are made without one too: they wait for it, within a bound."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._folder = folder
        self._path = folder / "snapshot.json"
        self._seen: object = None
        self._followed: Snapshot | None = None
        self._records = False

    def read(self) -> Offer | None:
        """See `Source`.

        Raises:
            NotFound: "unknown-endpoint". Unavailable: "snapshot-unreadable".
        """
        try:
            seen, snapshot = self._newest()
        except FileNotFoundError:
            raise self._unknown(()) from None
        except (OSError, ValueError) as error:
            raise Unavailable(
                f"cannot read the snapshot of the gateway on this machine: {error}",
                code="snapshot-unreadable",
                hint=f"check {self._path}, or pass package=",
            ) from error
        if snapshot is None:
            return None
        entry = next((each for each in snapshot.endpoints if each.name == self._name), None)
        if entry is None:
            raise self._unknown([each.name for each in snapshot.endpoints])
        offer = self._offer(entry, snapshot)
        self._seen = seen if all(folder.is_dir() for _, folder in offer.packages.values()) else None
        return offer

    def again(self) -> None:
        """See `Source`."""
        self._seen = None

    @property
    def gateway(self) -> Path:
        """See `Source`."""
        return self._folder

    def follow(self, snapshot: Snapshot | None) -> None:
        """See `Source`."""
        if snapshot is not self._followed:
            self._followed, self._seen = snapshot, None
            self._records |= snapshot is not None

    def _newest(self) -> tuple[object, Snapshot | None]:
        """What identifies the snapshot to serve by, and that snapshot; None if it was read before.

        Raises:
            OSError, ValueError: the file cannot be read.
        """
        if self._followed is not None:
            return self._followed, None if self._seen is self._followed else self._followed
        found = self._path.stat()
        seen = found.st_mtime_ns, found.st_ino
        return seen, None if seen == self._seen else decode_snapshot(self._path.read_bytes())

    def _offer(self, entry: EndpointEntry, snapshot: Snapshot) -> Offer:
        if self._followed is None:
            policy = msgspec.structs.replace(entry.policy, record=entry.policy.record and self._records)
            entry = msgspec.structs.replace(stable_alone(entry), policy=policy)  # no agent would count what a canary does here
        needed = {each.digest for each in entry.split} | {step.digest for step in entry.policy.fallback}
        if entry.rollout is not None:
            needed.add(entry.rollout.canary)
        packages = {
            package.digest: (package, package_folder(self._folder, package.digest))
            for package in snapshot.packages
            if package.digest in needed
        }
        return Offer(entry, packages)

    def _unknown(self, known: Collection[str]) -> NotFound:
        names = f"it has {', '.join(sorted(known)[:20])}" if known else "it has none"
        return NotFound(
            f"no such endpoint in the home folder of this machine: {self._name!r:.100}; {names}",
            code="unknown-endpoint",
            hint="pass package= with a package, or set ROADWORTHY_HOME to the home folder of the gateway",
        )


def stable_alone(entry: EndpointEntry) -> EndpointEntry:
    """The endpoint without its rollout, if it has one."""
    if entry.rollout is None:
        return entry
    return msgspec.structs.replace(entry, split=(VariantEntry(entry.rollout.stable, FULL_SHARE),), rollout=None)


def read_policy(asked: Mapping[str, Any] | None) -> Policy:
    """The policy that a caller gives, over the defaults. Nothing is recorded.

    Raises:
        InvalidRequest: "invalid-policy"; "unknown-layer".
    """
    reader, asked = Reader(), dict(asked or {})
    layers = asked.pop("layers", None) or {}
    given = {**reader.table(Policy, asked), "layers": read_layers(reader, layers)}
    for number, step in enumerate(given.get("fallback", ())):
        if step.get("version") is not None or step.get("digest") is not None:
            reader.fault(f"fallback[{number}].version", "only an endpoint of the home folder can fall back to another version")
    if reader.faults:
        hint = "docs/policies.md has every setting with its unit and bounds"
        raise invalid_request("the policy is not valid", reader.faults, code="invalid-policy", hint=hint)
    return msgspec.convert({**given, "layers": layers, "record": False}, Policy)


def _check_rules(policy: Policy, package: Package) -> None:
    missing = [step.rule for step in policy.fallback if step.rule is not None and step.rule not in package.rules]
    if missing:
        has = f"it has {', '.join(package.rules)}" if package.rules else "it has none"
        raise InvalidRequest(
            f"the policy names a rule that the package {package.name} does not have: {missing[0]!r:.100}; {has}",
            code="invalid-policy",
            hint="docs/policies.md has every setting with its unit and bounds",
        )


def hold(folder: Path, digest: str, unpacked: Path) -> None:
    """Let the core find an unpacked package below its own `folder`. The folder that was given last is found."""
    place, target = package_folder(folder, digest), unpacked.resolve()
    if not place.is_symlink() or place.readlink() != target:
        fresh = place.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target, target_is_directory=True)
        fresh.replace(place)


def drop_links(folder: Path, digests: Collection[str]) -> None:
    """Forget the unpacked packages that `hold` was given, except those with these digests."""
    kept = {package_folder(folder, digest) for digest in digests}
    for place in (folder / "packages").iterdir():
        if place.is_symlink() and place not in kept:
            place.unlink()
