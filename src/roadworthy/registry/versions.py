"""The registry of packages: a model's name, numbered versions, who pushed them and when. A version never changes.

Called by `control/resources`, which opens the transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update

from roadworthy.foundation.errors import NotFound
from roadworthy.foundation.references import VersionReference
from roadworthy.store.connection import Connection
from roadworthy.store.rows import columns_of, read_row
from roadworthy.store.tables import sequences, versions


@dataclass(frozen=True, slots=True)
class Version:
    """A numbered package. `allowed_by` is the key that allowed it to execute its own code, or None; `grants` is what that code
    may access in addition to its own files."""

    reference: VersionReference
    digest: str
    size_bytes: int
    signature: dict[str, Any]
    runtimes: tuple[str, ...]
    allowed_by: str | None
    pushed_at_us: int
    pushed_by: str
    grants: tuple[str, ...] = ()


def register(connection: Connection, version: Version) -> Version:
    """Give a pushed package the next number of its model; `version.reference.version` is ignored."""
    model = version.reference.name
    number = _next_number(connection, model)
    values = {"model": model, "version": number, **columns_of(version, "reference")}
    connection.execute(insert(versions).values(**values))
    return get(connection, VersionReference(model, number))


def _next_number(connection: Connection, model: str) -> int:
    last = connection.execute(select(sequences.c.last_version).where(sequences.c.model == model)).scalar()
    if last is None:
        connection.execute(insert(sequences).values(model=model, last_version=1))
        return 1
    connection.execute(update(sequences).where(sequences.c.model == model).values(last_version=last + 1))
    return int(last) + 1


def allow(connection: Connection, reference: VersionReference, who: str) -> None:
    """Record that `who` allowed the version to execute its own code."""
    connection.execute(update(versions).where(_is(reference)).values(allowed_by=who))


def get(connection: Connection, reference: VersionReference) -> Version:
    """The version.

    Raises:
        NotFound: "unknown-version".
    """
    row = connection.execute(select(versions).where(_is(reference))).first()
    if row is None:
        raise _unknown(reference)
    return _version(row)


def _unknown(reference: VersionReference) -> NotFound:
    return NotFound(
        f"no such version: {reference}",
        code="unknown-version",
        hint="`roadworthy version list` lists the models and versions",
    )


def digest_of(connection: Connection, version: str) -> str:
    """The digest of a version that is written like `flights:3`.

    Raises:
        NotFound: "unknown-version".
    """
    reference = VersionReference.parse(version)
    found = connection.execute(select(versions.c.digest).where(_is(reference))).scalar()
    if found is None:
        raise _unknown(reference)
    return str(found)


def find_digest(connection: Connection, digest: str, model: str | None = None) -> Version | None:
    """A version with that package, of the given model or of any."""
    query = select(versions).where(versions.c.digest == digest)
    if model is not None:
        query = query.where(versions.c.model == model)
    row = connection.execute(query.order_by(versions.c.version)).first()
    return None if row is None else _version(row)


def find_names(connection: Connection, digests: Iterable[str]) -> set[str]:
    """All versions with these packages, written like `flights:3`."""
    rows = connection.execute(select(versions.c.model, versions.c.version).where(versions.c.digest.in_(digests)))
    return {str(VersionReference(row.model, row.version)) for row in rows}


def is_held(connection: Connection, digest: str) -> bool:
    """Whether any project has a version with that package: all projects share its bytes."""
    return connection.everywhere.execute(select(versions.c.digest).where(versions.c.digest == digest)).first() is not None


def list_models(connection: Connection, after: str, limit: int) -> list[tuple[str, int, int]]:
    """(name, number of versions, latest number) by name, of names greater than `after`."""
    query = (
        select(versions.c.model, func.count(), func.max(versions.c.version))
        .where(versions.c.model > after)
        .group_by(versions.c.model)
        .order_by(versions.c.model)
        .limit(limit)
    )
    return [(row[0], row[1], row[2]) for row in connection.execute(query)]


def list_versions(connection: Connection, model: str, after: int, limit: int) -> list[Version]:
    """Versions of a model with numbers greater than `after`, ascending."""
    query = (
        select(versions).where(versions.c.model == model, versions.c.version > after).order_by(versions.c.version).limit(limit)
    )
    return [_version(row) for row in connection.execute(query)]


def remove(connection: Connection, reference: VersionReference) -> None:
    """Delete a version; its number is not used again."""
    connection.execute(delete(versions).where(_is(reference)))


def _is(reference: VersionReference) -> Any:
    return (versions.c.model == reference.name) & (versions.c.version == reference.version)


def _version(row: Row[Any]) -> Version:
    return read_row(Version, row, reference=VersionReference(row.model, row.version))
