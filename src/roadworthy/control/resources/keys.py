"""Create, list and revoke keys; and add the bootstrap keys of the first start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from roadworthy.access import keys
from roadworthy.access.principal import Principal
from roadworthy.audit import entries
from roadworthy.contract.api.keys import ApiKey, CreatedKey, NewKey
from roadworthy.contract.api.operation import Page
from roadworthy.control.context import ControlContext
from roadworthy.control.resources.pages import page_of
from roadworthy.control.resources.times import iso
from roadworthy.foundation.errors import InvalidRequest
from roadworthy.foundation.keys import hash_key, make_key
from roadworthy.foundation.references import check_name
from roadworthy.store.connection import Connection
from roadworthy.store.engine import bump_revision

BOOTSTRAP = "bootstrap"
_REVOKE = "key-revoke"
_LIKE_AN_ID = "key-"
_log = structlog.get_logger()


def create(context: ControlContext, new: NewKey, principal: Principal) -> CreatedKey:
    """Create a key; its text is shown here and never again.

    Raises:
        InvalidRequest: "unknown-role", "invalid-name".
        Conflict: "key-name-taken".
    """
    if new.name is not None and check_name(new.name, "key name").startswith(_LIKE_AN_ID):
        raise InvalidRequest(
            f"the name of a key cannot begin with {_LIKE_AN_ID}, because ids of keys do",
            code="invalid-name",
            hint="choose a name that says where the key is used",
        )
    scope = None if new.endpoints is None else tuple(check_name(name, "endpoint name") for name in new.endpoints)
    key_id, text = make_key()
    key = keys.Key(key_id, hash_key(text), new.role, scope, context.clock.now_us(), principal.who, new.name or "")
    with context.database.begin() as connection:
        keys.add(connection, key)
        bump_revision(connection)
        context.audit(connection, principal.who, "key-create", key_id, role=key.role, name=key.name)
    context.publisher.refresh()
    return CreatedKey(key=text, **_members(key))


def list_all(context: ControlContext, cursor: str) -> Page[ApiKey]:
    """A page of keys, oldest first, without their texts."""
    with context.database.begin() as connection:
        found = keys.list_all(connection)
    return page_of(found, lambda key: f"{key.created_at_us:020}-{key.id}", cursor, lambda key: ApiKey(**_members(key)))


def revoke(context: ControlContext, key_id: str, principal: Principal) -> None:
    """Revoke a key; gateways apply it with their next snapshot.

    Raises:
        NotFound: "unknown-key".
        Conflict: "last-admin-key".
    """
    with context.database.begin() as connection:
        keys.revoke(connection, key_id)
        bump_revision(connection)
        context.audit(connection, principal.who, _REVOKE, key_id)
    context.publisher.refresh()


def ensure(context: ControlContext, offered: Sequence[Mapping[str, Any]]) -> None:
    """Add each bootstrap key {id, key, role, name, only_first}, unless it exists, was revoked, or is wanted only as the first of
    its role and that role already has a key. A name that another key has is not given again."""
    for item in offered:
        with context.database.begin() as connection:
            if not _is_wanted(connection, item):
                continue
            wanted = item.get("name") or ""
            name = "" if keys.is_named(connection, wanted) else wanted
            digest, now_us = hash_key(item["key"]), context.clock.now_us()
            key = keys.Key(item["id"], digest, item["role"], None, now_us, BOOTSTRAP, name)
            keys.add(connection, key)
            bump_revision(connection)
            context.audit(connection, BOOTSTRAP, "key-create", key.id, role=key.role, name=key.name)
    context.publisher.refresh()


def _is_wanted(connection: Connection, item: Mapping[str, Any]) -> bool:
    if keys.find(connection, item["key"]) is not None:
        return False
    if entries.has(connection, _REVOKE, item["id"]):
        _log.warning("a revoked bootstrap key was offered again; it stays revoked", key=item["id"], role=item["role"])
        return False
    if item.get("only_first") and keys.has_role(connection, item["role"]):
        _log.info("the role already has a key, so no bootstrap key was added", role=item["role"])
        return False
    return True


def _members(key: keys.Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "endpoints": None if key.endpoints is None else list(key.endpoints),
        "created_at": iso(key.created_at_us),
        "created_by": key.created_by,
    }
