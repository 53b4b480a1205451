"""Requests with an idempotency key have their effect once: a repetition gets the first reply again.

The first request takes the key, in the database that all control planes share, before it is carried out; its reply is kept for a
day. The transaction that changes something also notes at the key that the request had its effect (`ControlContext.audit`). So a
request that changed nothing gives the key back, and any other keeps it, also after an error or a kill that follows the commit.

A key that a dead control plane holds is free again: at once for its successor, and after LEASE_US where several share the
database, because each renews its keys while it lives. A control plane that was frozen and lost a key in this way cannot commit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update

from roadworthy.access.principal import Principal
from roadworthy.contract.api.operation import Operation
from roadworthy.control.context import NOTED, ControlContext, is_key
from roadworthy.foundation.errors import Conflict, InvalidRequest
from roadworthy.foundation.keys import hash_key
from roadworthy.store.connection import Connection
from roadworthy.store.tables import kept_replies

MOST_KEY = 255
_KEY = re.compile(rf"[!-~]{{1,{MOST_KEY}}}", re.ASCII)
_KEPT_US = 24 * 3_600 * 1_000_000
MOST_KEPT = 10_000
"""Most keys of one caller; when it has so many, its oldest tenth is forgotten."""
LEASE_US = 30 * 1_000_000
"""How long a key stays with a control plane that does not renew it, if several share the database."""
_CALLER = 16
"""Digits at the beginning of an id that its caller's keys have in common."""


@dataclass(frozen=True, slots=True)
class KeptReply:
    """The first reply: its status and its body."""

    status: int
    body: str


def key_id(principal: Principal, operation: Operation[object], key: str) -> str:
    """The id under which a reply is kept: a caller's keys are its own, and count for one operation.

    Raises:
        InvalidRequest: "invalid-idempotency-key".
    """
    if not _KEY.fullmatch(key):
        raise InvalidRequest(
            f"the header Idempotency-Key must have 1 to {MOST_KEY} printable ASCII characters without spaces",
            code="invalid-idempotency-key",
            hint="send a new random text, such as a UUID, for each change that you want, and the same one when you repeat it",
        )
    return hash_key(principal.who)[:_CALLER] + hash_key(f"{principal.who}\n{operation.name}\n{key}")[_CALLER:]


def take(context: ControlContext, taken: str, request: str, *, repeatable: bool = False) -> KeptReply | None:
    """Take the key for a request, whose content has the digest `request`. The kept reply, if it was carried out before; None for
    one that is `repeatable`.

    Raises:
        Conflict: "idempotency-key-reused": by another request; "idempotency-key-in-use": the first request is still being
            carried out. "idempotency-key-spent": it was, and its reply was not kept.
    """
    with context.lock:
        with context.database.begin() as connection:
            found = _take(context, connection, taken, request, repeatable=repeatable)
        if found is None:  # only after the commit: a transaction that failed has taken nothing
            context.under_way.add(taken)
    return found


def _take(context: ControlContext, connection: Connection, taken: str, request: str, *, repeatable: bool) -> KeptReply | None:
    now_us = context.clock.now_us()
    _trim(connection, taken[:_CALLER], now_us)
    row = connection.execute(select(kept_replies).where(is_key(taken))).first()
    if row is None:
        held = {"id": taken, "request": request, "at_us": now_us, "holder": context.boot}
        connection.execute(insert(kept_replies).values(**held))
        return None
    if row.request != request:
        raise Conflict(
            "this idempotency key was used for another request",
            code="idempotency-key-reused",
            hint="use a new key for each change that you want, and repeat a request unchanged",
        )
    if repeatable:
        return None
    if row.status in (None, NOTED) and _is_held(context, row, now_us):
        raise Conflict(
            "the first request with this idempotency key is still being carried out",
            code="idempotency-key-in-use",
            hint="try again in a second",
            retry_after_s=1.0,
        )
    if row.status is not None:
        return _kept(row.status, row.reply)
    connection.execute(update(kept_replies).where(is_key(taken)).values(at_us=now_us, holder=context.boot))
    return None


def _is_held(context: ControlContext, row: Row[*tuple[Any, ...]], now_us: int) -> bool:
    """Whether a living process carries the request out."""
    if row.holder == context.boot:
        return row.id in context.under_way
    return context.database.shared and now_us - row.at_us < LEASE_US


def renew(context: ControlContext) -> None:
    """Tell other control planes that the requests of this one are still being carried out."""
    if context.database.shared and (own := tuple(context.under_way)):
        with context.database.begin() as connection:
            mine = kept_replies.c.id.in_(own) & kept_replies.c.status.is_(None) & (kept_replies.c.holder == context.boot)
            connection.execute(update(kept_replies).where(mine).values(at_us=context.clock.now_us()))


def _trim(connection: Connection, caller: str, now_us: int) -> None:
    """Delete what is too old, and the caller's oldest tenth if it has MOST_KEPT."""
    connection.execute(delete(kept_replies).where(kept_replies.c.at_us < now_us - _KEPT_US))
    own = kept_replies.c.id.between(caller, f"{caller}g")  # g is greater than each digit
    if connection.execute(select(func.count()).select_from(kept_replies).where(own)).scalar_one() < MOST_KEPT:
        return
    newest = select(kept_replies.c.at_us).where(own).order_by(kept_replies.c.at_us.desc())
    beyond = connection.execute(newest.offset(MOST_KEPT - 1 - MOST_KEPT // 10).limit(1)).scalar_one()
    connection.execute(delete(kept_replies).where(own, kept_replies.c.at_us <= beyond))


def _kept(status: int, body: str | None) -> KeptReply:
    if status == NOTED:
        raise Conflict(
            "the request was carried out before, but an error or a kill that followed left no reply",
            code="idempotency-key-spent",
            hint="look at what it changed; if you still want a change, ask for it with a new idempotency key",
        )
    if body is None:
        raise Conflict(
            "the request was carried out before, and its reply, which holds a secret, is shown only once",
            code="idempotency-key-spent",
            hint="find what it made in the list, delete it, and create another one with a new idempotency key",
        )
    return KeptReply(status, body)


def keep(context: ControlContext, taken: str, status: int, body: str | None) -> None:
    """Keep the reply to the request that took the key; `body` is None if it holds a secret."""
    with context.database.begin() as connection:
        connection.execute(update(kept_replies).where(is_key(taken)).values(status=status, reply=body))


def give_back(context: ControlContext, taken: str) -> None:
    """Give the key back after an error, unless the request had its effect before, or another process has the key."""
    with context.database.begin() as connection:
        mine = kept_replies.c.status.is_(None) & (kept_replies.c.holder == context.boot)
        connection.execute(delete(kept_replies).where(is_key(taken), mine))
