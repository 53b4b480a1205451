"""PostgreSQL as this store uses it: one writer at a time, as with SQLite, even with several control planes; one of them leads.

The writers' lock gives every transaction a store that no other transaction changes meanwhile. So everything proved on SQLite
holds here too, and the order of two control planes' statements does not matter.
"""

from __future__ import annotations

import contextlib
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError

_WRITERS, _LEADER = 0x726F_6164_0001, 0x726F_6164_0002
"""Keys of advisory locks; PostgreSQL separates them by database."""
_ABANDONED_MS = 30_000
"""A transaction that is idle for this long is ended: a frozen process must not block the others forever."""
_TRY_AGAIN = ("08", "40", "53", "57")
"""Classes of SQLSTATE: connection lost, deadlock, out of resources, server shut down."""
_LOCK_NOT_AVAILABLE = "55P03"
_log = structlog.get_logger()


def prepare(engine: Engine, wait_s: float) -> None:
    """Let each transaction wait for earlier ones, at most `wait_s` seconds."""

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"SET lock_timeout = {round(wait_s * 1e3)}")
        cursor.execute(f"SET idle_in_transaction_session_timeout = {_ABANDONED_MS}")
        cursor.close()
        connection.commit()

    @event.listens_for(engine, "checkout")
    def checkout(connection: Any, _record: Any, _pooled: Any) -> None:
        # Detects a restarted server here, not by a failing operation. Like pool_pre_ping, but also handles the plain OSError that
        # this driver raises when it reads from a reset connection.
        try:
            cursor = connection.cursor()
            cursor.execute("SELECT 1")
            cursor.close()
            connection.rollback()
        except (engine.dialect.loaded_dbapi.Error, OSError) as error:
            raise DisconnectionError("the server has ended the connection") from error

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITERS})")


def may_pass(error: DBAPIError) -> bool:
    """Whether the same transaction may succeed later: the server or the lock was unavailable."""
    if error.connection_invalidated or type(error.orig).__name__ == "InterfaceError":
        return True
    fields = next((each for each in getattr(error.orig, "args", ()) if isinstance(each, dict)), {})
    state = str(fields.get("C", ""))
    return state == _LOCK_NOT_AVAILABLE or state[:2] in _TRY_AGAIN


class Lead:
    """Leadership: whether this process is the one of several control planes that drives rollouts and sends webhooks.

    A separate connection holds it, so another process can take it as soon as this one is gone. A process that has lost it without
    noticing does no harm, because all its writes are compare-and-set.

    Args:
        engine: None for a database that only one process uses, which then always leads.
    """

    def __init__(self, engine: Engine | None) -> None:
        self._engine = engine
        self._connection: Any = None
        self.held = engine is None
        self.renew()

    def renew(self) -> None:
        """Take the leadership if it is free, and check that it is still ours. For one thread at a time."""
        if self._engine is None:
            return
        before = self.held
        try:
            self.held = self._ask()
        except (SQLAlchemyError, self._engine.dialect.loaded_dbapi.Error, OSError) as error:
            _log.warning("the-lead-cannot-be-asked-for", reason=type(error).__name__)
            self._drop()
        if self.held != before:
            _log.info("leads" if self.held else "follows")

    def close(self) -> None:
        """Release the leadership."""
        self._drop()

    def _ask(self) -> bool:
        if self._connection is None:
            assert self._engine is not None  # noqa: S101  (renew has checked)
            pooled = self._engine.raw_connection()
            self._connection = pooled.dbapi_connection
            pooled.detach()  # it stays open, and the pool opens another one when needed
            self._connection.autocommit = True
        cursor = self._connection.cursor()
        cursor.execute("SELECT 1" if self.held else f"SELECT pg_try_advisory_lock({_LEADER})")
        (answer,) = cursor.fetchone()
        cursor.close()
        return bool(answer)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self.held = self._engine is None
        if connection is not None:
            with contextlib.suppress(Exception):  # the connection is probably broken
                connection.close()
