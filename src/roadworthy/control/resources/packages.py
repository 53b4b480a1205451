"""Push, list and delete versions."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from roadworthy.access.principal import Principal
from roadworthy.contract.api import registry as api
from roadworthy.contract.api.operation import Page
from roadworthy.control.context import ControlContext
from roadworthy.control.resources.pages import PAGE
from roadworthy.control.resources.proof import prove_isolated
from roadworthy.control.resources.times import iso
from roadworthy.foundation.confine.grants import check_grants
from roadworthy.foundation.errors import Conflict, InvalidRequest, NotFound, PackageError, PackageRefused
from roadworthy.foundation.references import VersionReference, check_digest, check_name
from roadworthy.package.archive import open_package
from roadworthy.package.package import Package
from roadworthy.registry import versions
from roadworthy.registry.versions import Version
from roadworthy.rollout import endpoints, rollouts
from roadworthy.store.blobs import package_blob
from roadworthy.store.connection import Connection
from roadworthy.store.engine import bump_revision


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a person allows a package to do when pushing it.

    Attributes:
        code: the digest of the package that may execute its own code, or None.
        grants: what that code may access in addition to its own files.
    """

    code: str | None = None
    grants: tuple[str, ...] = ()


def push(context: ControlContext, file: Path, principal: Principal, allowed: Allowed) -> tuple[api.Version, bool]:
    """Prove the package in `file` and give it the next number; True when it is new. A package that is pushed again keeps its
    number.

    Raises:
        PackageError: the package is damaged, refused, not allowed, or not proved.
        InvalidRequest: "wrong-digest": another package was allowed; "grant-invalid".
        Conflict: "grants-differ": the package already is a version with other grants.
    """
    package = open_package(file)
    _check_allowed(package, allowed.code)
    _check_grants(context, package, allowed)
    with context.database.begin() as connection:
        known = versions.find_digest(connection, package.digest, package.name)
    _check_same(known, allowed)
    if known is None:
        how = context.settings.proving
        prove_isolated(file, how, allow_code=allowed.code is not None, grants=allowed.grants)
    elif not _is_whole(context, package.digest):
        context.blobs.delete(package_blob(package.digest))
    context.blobs.put(package_blob(package.digest), file)
    with context.lock:
        context.blobs.put(package_blob(package.digest), file)  # again, in case of a delete in between
        return _register(context, package, principal.who, allowed)


def _is_whole(context: ControlContext, digest: str) -> bool:
    """Whether the stored package exists and is undamaged; if not, the pushed one replaces it."""
    copy = context.blobs.incoming()
    try:
        with context.blobs.open(package_blob(digest)) as stored, copy.open("xb") as writing:
            shutil.copyfileobj(stored, writing, 1 << 20)
        return open_package(copy).digest == digest
    except (NotFound, PackageError):
        return False
    finally:
        copy.unlink(missing_ok=True)


def _check_allowed(package: Package, allow_code: str | None) -> None:
    if allow_code is not None and check_digest(allow_code) != package.digest:
        raise InvalidRequest(
            "the allowed digest is not the digest of this package",
            code="wrong-digest",
            hint=f"the digest of this package is {package.digest}",
            facts={"digest": package.digest},
        )
    if allow_code is None and package.carries_code:
        raise PackageRefused(
            f"the package {package.name} executes its own code",
            code="code-not-allowed",
            hint=f"if you trust its source, allow it by its digest: --allow-code {package.digest}",
            facts={"digest": package.digest},
        )


def _check_grants(context: ControlContext, package: Package, allowed: Allowed) -> None:
    if not allowed.grants:
        return
    if allowed.code is None or not package.carries_code:
        raise InvalidRequest(
            "grants need permission to run the package's code",
            code="grant-invalid",
            hint=f"push with --allow-code {package.digest}"
            if package.carries_code
            else "this package carries no code: push it without grants",
        )
    bounds = context.settings.proving.bounds
    check_grants(allowed.grants, bounds.grants, bounds.private)


def _check_same(known: Version | None, allowed: Allowed) -> None:
    """A version never changes, and neither do its grants."""
    if known is not None and known.grants != allowed.grants:
        same = " ".join(f"--grant {grant}" for grant in known.grants) or "without --grant"
        raise Conflict(
            f"this package already is {known.reference}, with grants {', '.join(known.grants) or '(none)'}",
            code="grants-differ",
            hint=f"push it {same} to keep that version; for other grants delete {known.reference} first",
            facts={"version": str(known.reference), "grants": list(known.grants)},
        )


def _register(context: ControlContext, package: Package, actor: str, allowed: Allowed) -> tuple[api.Version, bool]:
    with context.database.begin() as connection:
        known = versions.find_digest(connection, package.digest, package.name)
        _check_same(known, allowed)
        if known is None:
            version = versions.register(connection, _new_version(context, package, actor, allowed))
            detail = {"grants": list(allowed.grants)} if allowed.grants else {}
            context.audit(connection, actor, "push", str(version.reference), digest=package.digest, **detail)
        elif allowed.code is not None and known.allowed_by is None:
            versions.allow(connection, known.reference, actor)
            bump_revision(connection)
            context.audit(connection, actor, "allow-code", str(known.reference), digest=package.digest)
            version = versions.get(connection, known.reference)
        else:
            version = known
        registered = _shown(version, [])
    context.publisher.refresh()
    return registered, known is None


def _new_version(context: ControlContext, package: Package, actor: str, allowed: Allowed) -> Version:
    return Version(
        reference=VersionReference(package.name, 1),
        digest=package.digest,
        size_bytes=package.path.stat().st_size,
        signature=package.signature.to_document(),
        runtimes=package.runtimes,
        allowed_by=None if allowed.code is None else actor,
        pushed_at_us=context.clock.now_us(),
        pushed_by=actor,
        grants=allowed.grants,
    )


def _shown(version: Version, serving: list[str]) -> api.Version:
    """A version as the API shows it; `serving` names the endpoints that hold it."""
    return api.Version(
        name=version.reference.name,
        version=version.reference.version,
        digest=version.digest,
        size_bytes=version.size_bytes,
        pushed_at=iso(version.pushed_at_us),
        pushed_by=version.pushed_by,
        runtimes=list(version.runtimes),
        allowed_by=version.allowed_by,
        grants=list(version.grants),
        signature=version.signature,
        serving=serving,
    )


def list_models(context: ControlContext, cursor: str) -> Page[api.Model]:
    """A page of models, sorted by name."""
    with context.database.begin() as connection:
        rows = versions.list_models(connection, cursor, PAGE + 1)
    items = [api.Model(name=name, versions=number, latest=latest) for name, number, latest in rows[:PAGE]]
    return Page(items=items, next=items[-1].name if len(rows) > PAGE else None)


def list_versions(context: ControlContext, model: str, cursor: int) -> Page[api.Version]:
    """A page of a model's versions, sorted by number."""
    check_name(model, "model name")
    with context.database.begin() as connection:
        found = versions.list_versions(connection, model, cursor, PAGE + 1)
        holders = _holders(connection)
    items = [_shown(v, holders.get(str(v.reference), [])) for v in found[:PAGE]]
    return Page(items=items, next=items[-1].version if len(found) > PAGE else None)


def get_version(context: ControlContext, reference: VersionReference) -> api.Version:
    """One version."""
    with context.database.begin() as connection:
        version = versions.get(connection, reference)
        holders = _holders(connection)
    return _shown(version, holders.get(str(reference), []))


def _holders(connection: Connection) -> dict[str, list[str]]:
    """Endpoints by version: those that serve it, may go back to it, or have a rollout with it."""
    holders = rollouts.held_by(rollouts.list_open(connection))
    for endpoint in endpoints.list_all(connection):
        for version in endpoint.versions:
            if endpoint.name not in holders.setdefault(version, []):
                holders[version].append(endpoint.name)
    return holders


def open_version(context: ControlContext, reference: VersionReference) -> BinaryIO:
    """The packed file of a version."""
    with context.database.begin() as connection:
        version = versions.get(connection, reference)
    return context.blobs.open(package_blob(version.digest))


def open_digest(context: ControlContext, digest: str) -> BinaryIO:
    """The packed file of the versions with that digest.

    Raises:
        NotFound: "unknown-version", "blob-missing".
    """
    with context.database.begin() as connection:
        if versions.find_digest(connection, check_digest(digest)) is None:
            raise NotFound("no version has this digest", code="unknown-version", hint="fetch the newest snapshot")
    return context.blobs.open(package_blob(digest))


def delete_version(context: ControlContext, reference: VersionReference, principal: Principal) -> None:
    """Delete a version, and its bytes unless another version has the same.

    Raises:
        Conflict: "version-serving": an endpoint holds it.
    """
    with context.lock:
        with context.database.begin() as connection:
            version = versions.get(connection, reference)
            holders = _holders(connection).get(str(reference), [])
            if holders:
                raise Conflict(
                    f"{reference} is held by endpoint {', '.join(holders)}",
                    code="version-serving",
                    hint="deploy another version there, or undeploy the endpoint, first",
                    facts={"endpoints": holders},
                )
            versions.remove(connection, reference)
            unused = not versions.is_held(connection, version.digest)
            context.audit(connection, principal.who, "delete", str(reference), digest=version.digest)
        if unused:
            context.blobs.delete(package_blob(version.digest))
