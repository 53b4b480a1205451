"""Remembers the store's epoch in a file outside the database, so that a lost database is never taken for a new installation."""

from __future__ import annotations

from pathlib import Path

import structlog
from sqlalchemy import Connection, select

from roadworthy.foundation.errors import StoreError
from roadworthy.foundation.files import write_atomic
from roadworthy.store.tables import audit_entries

RESTORED = "restored"
"""The audit verb that ends a store's epoch and begins the next one; the subject is the ended epoch."""
_BEGIN_ANEW = (
    "put the last backup in place and run `roadworthy restore`; to start over without versions, endpoints and keys, use "
    "--begin-anew. Meanwhile gateways serve from their own disks"
)
_log = structlog.get_logger()


class EpochFile:
    """The epoch that was seen last.

    Args:
        path: the file; None remembers nothing.
        known: an epoch known from elsewhere, used while the file does not exist; or None.
        give_up: an epoch that the operator gives up; or None.
    """

    def __init__(self, path: Path | None, known: str | None = None, give_up: str | None = None) -> None:
        self._path = path
        self._known = known
        self._give_up = give_up

    def expected(self) -> str | None:
        """The epoch that the database must have, or have had; None accepts any."""
        epoch = self._read() or self._known
        return None if epoch == self._give_up else epoch

    def see(self, epoch: str) -> None:
        """Remember the store's present epoch. A failing write is only logged."""
        if self._path is None or epoch == self._read():
            return
        try:
            write_atomic(self._path, epoch.encode("ascii"), mode=0o600)
        except OSError as error:
            _log.warning("epoch-not-remembered", reason=str(error))

    def _read(self) -> str | None:
        try:
            return None if self._path is None else self._path.read_text(encoding="ascii").strip() or None
        except (OSError, UnicodeDecodeError):
            return None


def check(connection: Connection, epoch: str, expected: str | None) -> None:
    """Refuse another installation's database.

    Raises:
        StoreError: "database-replaced".
    """
    ended = select(audit_entries.c.id).where(audit_entries.c.verb == RESTORED, audit_entries.c.subject == expected)
    if expected in (None, epoch) or connection.execute(ended).first() is not None:
        return
    raise StoreError(
        "this is not the database that this home folder knows: it is another installation's, or older than the last restore",
        code="database-replaced",
        hint=_BEGIN_ANEW,
        facts={"expected": expected, "found": epoch},
    )


def missing() -> StoreError:
    """The error of an expected store that does not exist."""
    return StoreError("the database is missing or empty", code="database-missing", hint=_BEGIN_ANEW)
