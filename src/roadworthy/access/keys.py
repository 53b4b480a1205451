"""API keys in the store: only their hashes, looked up by hash and compared in constant time. `foundation/keys.py` makes the
texts.

A key has about 230 random bits, so a plain SHA-256 is enough and no slow hash is needed.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, insert, select

from roadworthy.contract.api.keys import ROLES
from roadworthy.foundation.errors import Conflict, InvalidRequest, NotFound
from roadworthy.foundation.keys import hash_key
from roadworthy.store.connection import Connection
from roadworthy.store.rows import columns_of, read_row
from roadworthy.store.tables import keys

ADMIN, PREDICTOR, GATEWAY = ROLES


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret.

    Attributes:
        endpoints: that it may call; None means all.
        name: unique; gateways that use the key report as `<name>/<instance>`. "" becomes the id.
    """

    id: str
    sha256: str
    role: str
    endpoints: tuple[str, ...] | None
    created_at_us: int
    created_by: str
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.id)


def add(connection: Connection, key: Key) -> None:
    """Insert a key.

    Raises:
        InvalidRequest: "unknown-role".
        Conflict: "key-name-taken".
    """
    if key.role not in ROLES:
        raise InvalidRequest(f"unknown role {key.role[:80]!r}", code="unknown-role", hint=f"roles are {', '.join(ROLES)}")
    if is_named(connection, key.name):
        raise Conflict("another key has this name", code="key-name-taken", hint="choose another name for the key")
    connection.execute(insert(keys).values(**columns_of(key)))


def is_named(connection: Connection, name: str) -> bool:
    """Whether a key has that name."""
    return connection.execute(select(keys.c.id).where(keys.c.name == name)).first() is not None


def find(connection: Connection, text: str) -> Key | None:
    """The key with that text, or None."""
    digest = hash_key(text)
    row = connection.execute(select(keys).where(keys.c.sha256 == digest)).first()
    return read_row(Key, row) if row is not None and hmac.compare_digest(row.sha256, digest) else None


def has_role(connection: Connection, role: str) -> bool:
    """Whether any key has that role."""
    return connection.execute(select(keys.c.id).where(keys.c.role == role).limit(1)).first() is not None


def list_all(connection: Connection) -> Sequence[Key]:
    """Every key, oldest first."""
    return [read_row(Key, row) for row in connection.execute(select(keys).order_by(keys.c.created_at_us, keys.c.id))]


def revoke(connection: Connection, key_id: str) -> Key:
    """Delete a key.

    Raises:
        NotFound: "unknown-key".
        Conflict: "last-admin-key": without it no one could manage the installation.
    """
    row = connection.execute(select(keys).where(keys.c.id == key_id)).first()
    if row is None:
        raise NotFound("no such key", code="unknown-key", hint="`roadworthy key list` lists the keys")
    admins = connection.execute(select(keys.c.id).where(keys.c.role == ADMIN).limit(2)).all()
    if row.role == ADMIN and len(admins) == 1:
        raise Conflict("this is the last admin key", code="last-admin-key", hint="create another admin key first")
    connection.execute(delete(keys).where(keys.c.id == key_id))
    return read_row(Key, row)
