"""PostgreSQL as this store uses it: one writer at a time, as SQLite has it, though several control planes may have it open; and
one of them leads.

The lock of writers makes every transaction see a store that nobody changes meanwhile. So what was proved on SQLite holds here:
no order of two control planes' statements has to be thought of.
"""

from __future__ import annotations

import contextlib
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError

_WRITERS, _LEADER = 0x726F_6164_0001, 0x726F_6164_0002
"""Keys of advisory locks; PostgreSQL keeps them apart by database."""
_ABANDONED_MS = 30_000
"""A transaction in which nobody does anything for so long is ended: whoever froze in it must not stop the others for ever."""
_TRY_AGAIN = ("08", "40", "53", "57")
"""Classes of SQLSTATE: connection lost, deadlock, out of resources, shut down by somebody."""
_LOCK_NOT_AVAILABLE = "55P03"
_log = structlog.get_logger()


def prepare(engine: Engine, wait_s: float) -> None:
    """Have each transaction wait for those before it, `wait_s` at most."""

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"SET lock_timeout = {round(wait_s * 1e3)}")
        cursor.execute(f"SET idle_in_transaction_session_timeout = {_ABANDONED_MS}")
        cursor.close()
        connection.commit()

    @event.listens_for(engine, "checkout")
    def checkout(connection: Any, _record: Any, _pooled: Any) -> None:
        # A server that was started again is found so, not by a failing verb. As pool_pre_ping does it, but for the plain OSError
        # that this driver raises when it reads from a connection that was reset.
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
    """Whether the same transaction may succeed later: the server or the lock was out of reach."""
    if error.connection_invalidated or type(error.orig).__name__ == "InterfaceError":
        return True
    told = next((each for each in getattr(error.orig, "args", ()) if isinstance(each, dict)), {})
    state = str(told.get("C", ""))
    return state == _LOCK_NOT_AVAILABLE or state[:2] in _TRY_AGAIN


class Lead:
    """Whether this process is the one control plane of several that drives rollouts and sends webhooks.

    Held by a connection of its own, so it passes to another one as soon as this process is gone. One that has lost it without
    knowing yet does no harm: what it writes is compare-and-set.

    Args:
        engine: None for a database that one process has for itself: that one leads always.
    """

    def __init__(self, engine: Engine | None) -> None:
        self._engine = engine
        self._connection: Any = None
        self.held = engine is None
        self.renew()

    def renew(self) -> None:
        """Take it if nobody has it, and see whether it is still ours. From one thread at a time."""
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
        """Give it up."""
        self._drop()

    def _ask(self) -> bool:
        if self._connection is None:
            assert self._engine is not None  # noqa: S101  (renew has looked)
            pooled = self._engine.raw_connection()
            self._connection = pooled.dbapi_connection
            pooled.detach()  # it stays open, and the pool makes another one when it needs one
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
            with contextlib.suppress(Exception):  # it is broken, most likely
                connection.close()
