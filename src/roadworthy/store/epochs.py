"""Which life of the store is expected here: a file apart from the database remembers its epoch, so that a database that is gone
is never taken for a new installation.
"""

from __future__ import annotations

from pathlib import Path

import structlog
from sqlalchemy import Connection, select

from roadworthy.foundation.errors import StoreError
from roadworthy.foundation.files import write_atomic
from roadworthy.store.tables import audit_entries

RESTORED = "restored"
"""The verb of the audit trail under which a store's epoch ended and its next one began; the subject is the one that ended."""
_BEGIN_ANEW = (
    "put the last backup in its place and run `roadworthy restore`; to begin anew instead, without versions, endpoints and "
    "keys, start with --begin-anew. Gateways go on serving from their own disks meanwhile"
)
_log = structlog.get_logger()


class EpochFile:
    """The epoch that was seen last.

    Args:
        path: the file; None remembers nothing.
        known: an epoch that somebody else knows, for where the file is not there; None: nobody does.
        give_up: an epoch that may be given up; None: none.
    """

    def __init__(self, path: Path | None, known: str | None = None, give_up: str | None = None) -> None:
        self._path = path
        self._known = known
        self._give_up = give_up

    def expected(self) -> str | None:
        """The epoch that the database must have, or have had; None when any is right."""
        epoch = self._read() or self._known
        return None if epoch == self._give_up else epoch

    def see(self, epoch: str) -> None:
        """Remember the epoch of the store as it is now. A disk that refuses is told in the log."""
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
    """Refuse the database of another installation.

    Raises:
        StoreError: "database-replaced".
    """
    ended = select(audit_entries.c.id).where(audit_entries.c.verb == RESTORED, audit_entries.c.subject == expected)
    if expected in (None, epoch) or connection.execute(ended).first() is not None:
        return
    raise StoreError(
        "the database is another one than this home folder knows: of another installation, or older than its last restore",
        code="database-replaced",
        hint=_BEGIN_ANEW,
        facts={"expected": expected, "found": epoch},
    )


def missing() -> StoreError:
    """The error of whoever expects a store and finds none."""
    return StoreError("the database is gone: there is none, or an empty one", code="database-missing", hint=_BEGIN_ANEW)
