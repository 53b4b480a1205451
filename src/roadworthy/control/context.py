"""The parts that every operation of the control plane works with. `wiring.py` builds them once."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import ColumnElement, update

from roadworthy.access.principal import Principal
from roadworthy.audit import events
from roadworthy.audit.entries import AuditEvent, append
from roadworthy.control.controllers.wake import Wake
from roadworthy.control.publish.event_stream import EventStream
from roadworthy.control.publish.snapshot_publisher import SnapshotPublisher
from roadworthy.control.resources.proof import Proving
from roadworthy.foundation.clock import Clock
from roadworthy.foundation.errors import Conflict, Unavailable
from roadworthy.foundation.ids import random_id
from roadworthy.store.blobs import BlobStore
from roadworthy.store.connection import Connection
from roadworthy.store.engine import WAIT_S, Database, list_projects
from roadworthy.store.tables import kept_replies
from roadworthy.webhooks.sending import Sender

NOTED = 0
"""The status of an idempotency key whose request has had its effect, until its reply is kept."""
asked_with: ContextVar[str | None] = ContextVar("asked_with", default=None)
"""The id of the idempotency key of the request that is being carried out, if it has one."""


@dataclass(frozen=True)
class ControlSettings:
    """Settings of the control plane.

    Attributes:
        max_package_bytes: size of the largest package that may be pushed.
        feedback_max_rows: rows of feedback kept of a project; whole rollouts are deleted, those that ended longest ago first.
        allowed_hosts: names that a request's Host header may carry, in addition to the loopback names.
        record_max_bytes: total size of record files kept of a project; the oldest are deleted first.
        proving: how pushed packages are proved.
        database_wait_s: how long a change waits for a locked database, in seconds.
        webhook_networks: private networks that webhooks may call, as address/bits.
    """

    max_package_bytes: int
    feedback_max_rows: int
    allowed_hosts: tuple[str, ...] = ()
    record_max_bytes: int = 5 << 30
    proving: Proving = field(default_factory=Proving)
    database_wait_s: float = WAIT_S
    webhook_networks: tuple[str, ...] = ()


class WriteLock:
    """A lock with a bounded wait: while another process holds the database, waiting requests must not pile up.

    Args:
        wait_s: longest wait, in seconds.
    """

    def __init__(self, wait_s: float = WAIT_S) -> None:
        self._lock = threading.Lock()
        self._wait_s = wait_s

    def __enter__(self) -> None:
        """Acquire the lock.

        Raises:
            Unavailable: "database-busy".
        """
        if not self._lock.acquire(timeout=self._wait_s):
            raise Unavailable(
                "the control plane is busy with other changes",
                code="database-busy",
                hint="try again in a second",
                retry_after_s=1.0,
            )

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Once:
    """Remembers what was reported, so that a gateway that repeats itself every second does not fill the audit trail. Bounded."""

    _MOST = 1_000

    def __init__(self) -> None:
        self._seen: set[Hashable] = set()

    def first(self, what: Hashable) -> bool:
        """Whether this is the first report; the memory is cleared when full, so a report may count as first again."""
        if what in self._seen:
            return False
        if len(self._seen) >= self._MOST:
            self._seen.clear()
        self._seen.add(what)
        return True


def is_key(taken: str) -> ColumnElement[bool]:
    """Whether a row is that of the idempotency key with this id."""
    return kept_replies.c.id == taken


@dataclass(frozen=True)
class ControlContext:
    """The parts of the control plane, passed to each operation. Database, snapshots, events and reports are those of one project;
    all projects share the other parts."""

    database: Database
    blobs: BlobStore
    publisher: SnapshotPublisher
    stream: EventStream
    clock: Clock
    settings: ControlSettings
    sender: Sender
    lock: WriteLock = field(default_factory=WriteLock)
    """Held while a decision is made and written. Other processes wait in the database."""
    wake: Wake = field(default_factory=Wake)
    reported: Once = field(default_factory=Once)
    boot: str = field(default_factory=lambda: random_id("control"))
    """Names this life of the control plane: monotonic clocks of different lives cannot be compared."""

    under_way: set[str] = field(default_factory=set)
    """Ids of the idempotency keys of requests that are being carried out."""
    projects: dict[str, ControlContext] = field(default_factory=dict)
    """The contexts of all known projects by name, this one's too; shared by them. `readable` leaves out broken ones."""

    def __post_init__(self) -> None:
        self.projects[self.database.project] = self

    def principal(self, key_text: str) -> Principal | None:
        """The principal whose key has this text, of any project; None for an unknown key."""
        for context in tuple(self.projects.values()):  # the controllers may add one meanwhile
            if (key := context.publisher.key(key_text)) is not None:
                return Principal.of(key, context.database.project)
        return None

    def find_projects(self) -> list[ControlContext]:
        """The contexts of all projects in the store that can be read, after making those that are new. Requests of the others
        are refused, and the log has why.

        Raises:
            Unavailable: the codes of `Database.begin`.
        """
        with self.database.begin() as connection:
            names = list_projects(connection)
        for name in names:
            if name not in self.projects:
                own = self.database.of(name)
                parts: dict[str, Any] = {
                    "publisher": self.publisher.of(own),
                    "stream": EventStream(own),
                    "reported": Once(),
                    "under_way": set(),
                }
                replace(self, database=own, **parts)
            elif not self.projects[name].publisher.readable:
                self.projects[name].publisher.refresh()
        return self.readable()

    def readable(self) -> list[ControlContext]:
        """The contexts of all known projects that can be read."""
        return [each for each in tuple(self.projects.values()) if each.publisher.readable]

    @contextmanager
    def changing(self) -> Iterator[Connection]:
        """A transaction that changes what gateways serve: no other decision is made meanwhile, and a new snapshot follows it.

        Raises:
            Unavailable: "database-busy", and the codes of `Database.begin`.
        """
        with self.lock:
            with self.database.begin() as connection:
                yield connection
            self.publisher.refresh()

    def audit(self, connection: Connection, actor: str, verb: str, subject: str, **detail: Any) -> None:
        """Append to the audit trail, in the operation's own transaction. Since every change is audited, this also notes at the
        request's idempotency key that the request had its effect.

        Raises:
            Conflict: "idempotency-key-in-use": another process has the key now.
        """
        facts: Mapping[str, Any] = detail
        append(connection, self.clock.now_us(), AuditEvent(actor, verb, subject, facts))
        if (taken := asked_with.get()) is not None:
            mine = is_key(taken) & (kept_replies.c.holder == self.boot)
            if not connection.execute(update(kept_replies).where(mine).values(status=NOTED)).rowcount:
                raise Conflict(
                    "another control plane carries out this request, because this one did not respond for a while",
                    code="idempotency-key-in-use",
                    hint="try again in a second",
                    retry_after_s=1.0,
                )

    def announce(self, connection: Connection, actor: str, kind: str, subject: str, **detail: Any) -> None:
        """Publish an event to all followers as soon as this transaction has succeeded."""
        self.stream.expect(events.announce(connection, self.clock.now_us(), AuditEvent(actor, kind, subject, detail)))
