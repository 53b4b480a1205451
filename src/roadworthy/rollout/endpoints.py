"""Endpoints in the store: the version that serves and the previous one. A version on its way is a rollout (`rollouts.py`).

Every change increments the generation, in one statement that names the expected generation: of two concurrent changes, one wins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import delete, insert, select, update

from roadworthy.foundation.errors import Conflict, NotFound
from roadworthy.store.connection import Connection
from roadworthy.store.rows import columns_of, read_row
from roadworthy.store.tables import endpoints


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A public name. Versions are written `flights:3`; `signature` and `policy` are plain documents."""

    name: str
    generation: int
    current: str | None
    previous: str | None
    policy: dict[str, Any]
    signature: dict[str, Any]
    changed_at_us: int
    changed_by: str

    @property
    def versions(self) -> tuple[str, ...]:
        """Every version that gateways must hold for the endpoint, whatever is on its way."""
        steps = self.policy.get("fallback", ())
        fallbacks = [step.get("version") for step in steps if step.get("kind") == "version"]
        return tuple(dict.fromkeys(v for v in (self.current, self.previous, *fallbacks) if v is not None))

    def changed(self, now_us: int, actor: str, **what: Any) -> Endpoint:
        """The endpoint after a change by `actor`, in the next generation."""
        return replace(self, generation=self.generation + 1, changed_at_us=now_us, changed_by=actor, **what)

    def switched(self, version: str, *, retreat: bool = False) -> Endpoint:
        """The endpoint after the switch to `version`. After a retreat there is no previous version: no one may go back to it."""
        before = None if retreat else self.current if self.current != version else self.previous
        return replace(self, generation=self.generation + 1, current=version, previous=before)


def find(connection: Connection, name: str) -> Endpoint | None:
    """The endpoint, or None."""
    row = connection.execute(select(endpoints).where(endpoints.c.name == name)).first()
    return None if row is None else read_row(Endpoint, row)


def get(connection: Connection, name: str) -> Endpoint:
    """The endpoint.

    Raises:
        NotFound: "unknown-endpoint".
    """
    endpoint = find(connection, name)
    if endpoint is None:
        raise NotFound(
            f"no such endpoint: {name}", code="unknown-endpoint", hint="`roadworthy endpoint list` lists the endpoints"
        )
    return endpoint


def list_all(connection: Connection) -> list[Endpoint]:
    """Every endpoint, sorted by name."""
    return [read_row(Endpoint, row) for row in connection.execute(select(endpoints).order_by(endpoints.c.name))]


def create(connection: Connection, endpoint: Endpoint) -> None:
    """Insert a new endpoint."""
    connection.execute(insert(endpoints).values(**columns_of(endpoint)))


def change(connection: Connection, before: Endpoint, after: Endpoint) -> None:
    """Replace `before` by `after`, unless another process has changed the endpoint meanwhile.

    Raises:
        Conflict: "generation-conflict".
    """
    done = connection.execute(
        update(endpoints)
        .where(endpoints.c.name == before.name, endpoints.c.generation == before.generation)
        .values(**columns_of(after))
    )
    if done.rowcount != 1:
        raise generation_conflict(before.name)


def generation_conflict(name: str) -> Conflict:
    """The error of the second of two concurrent changes."""
    return Conflict(
        f"endpoint {name} was changed by another request meanwhile",
        code="generation-conflict",
        hint="read the endpoint again and repeat the change if you still want it",
    )


def remove(connection: Connection, name: str) -> None:
    """Delete the endpoint."""
    connection.execute(delete(endpoints).where(endpoints.c.name == name))
