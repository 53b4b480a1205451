"""What every verb of the control plane works with. Built once by `wiring.py`."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from roadworthy.audit import events
from roadworthy.audit.entries import AuditEvent, append
from roadworthy.control.publish.event_stream import EventStream
from roadworthy.control.publish.snapshot_publisher import SnapshotPublisher
from roadworthy.control.resources.proof import Proving
from roadworthy.foundation.clock import Clock
from roadworthy.foundation.errors import Unavailable
from roadworthy.foundation.ids import random_id
from roadworthy.store.blobs import BlobStore
from roadworthy.store.engine import WAIT_S, Database
from roadworthy.webhooks.sending import Sender


@dataclass(frozen=True)
class ControlSettings:
    """Settings of the control plane.

    Attributes:
        allowed_hosts: names that a request's Host may have besides loopback's.
        max_package_bytes: largest pushed package.
        record_max_bytes: record files kept in all; the oldest go first.
        feedback_max_rows: rows of feedback kept in all; whole rollouts go, those that are long over first.
        proving: how pushed packages are proved.
        database_wait_s: how long a change waits for a database that somebody else holds, in seconds.
        webhook_networks: private networks that webhooks may call, as address/bits.
    """

    allowed_hosts: tuple[str, ...] = ()
    max_package_bytes: int = 4 << 30
    record_max_bytes: int = 5 << 30
    feedback_max_rows: int = 5_000_000
    proving: Proving = field(default_factory=Proving)
    database_wait_s: float = WAIT_S
    webhook_networks: tuple[str, ...] = ()


class WriteLock:
    """A lock that is not waited for without end: behind a database that somebody holds, those who wait would add up.

    Args:
        wait_s: how long it is waited for.
    """

    def __init__(self, wait_s: float = WAIT_S) -> None:
        self._lock = threading.Lock()
        self._wait_s = wait_s

    def __enter__(self) -> None:
        """Take it.

        Raises:
            Unavailable: "database-busy".
        """
        if not self._lock.acquire(timeout=self._wait_s):
            raise Unavailable(
                "the control plane is busy with other changes",
                code="database-busy",
                hint="try again",
                retry_after_s=1.0,
            )

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Once:
    """Remembers what was told, so that a gateway which repeats itself every second does not fill the audit trail. Bounded."""

    _MOST = 1_000

    def __init__(self) -> None:
        self._seen: set[Hashable] = set()

    def first(self, what: Hashable) -> bool:
        """Whether this is the first time; after many others it may be so again."""
        if what in self._seen:
            return False
        if len(self._seen) >= self._MOST:
            self._seen.clear()
        self._seen.add(what)
        return True


@dataclass(frozen=True)
class ControlContext:
    """The control plane's parts, handed to each verb."""

    database: Database
    blobs: BlobStore
    publisher: SnapshotPublisher
    stream: EventStream
    clock: Clock
    settings: ControlSettings
    sender: Sender
    lock: WriteLock = field(default_factory=WriteLock)
    """Held while a decision is made and written; the database sees to it that other processes wait, too."""
    reported: Once = field(default_factory=Once)
    boot: str = field(default_factory=lambda: random_id("control"))
    """This life of the control plane: its monotonic clock cannot be compared with another one's."""

    def audit(self, connection: Connection, actor: str, verb: str, subject: str, **detail: Any) -> None:
        """Append to the audit trail, in the verb's own transaction."""
        facts: Mapping[str, Any] = detail
        append(connection, self.clock.now_us(), AuditEvent(actor, verb, subject, facts))

    def announce(self, connection: Connection, actor: str, kind: str, subject: str, **detail: Any) -> None:
        """Tell whoever follows the events, once this transaction has succeeded."""
        self.stream.expect(events.announce(connection, self.clock.now_us(), AuditEvent(actor, kind, subject, detail)))
