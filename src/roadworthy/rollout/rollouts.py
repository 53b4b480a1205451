"""Rollouts in the store: one row each, running or over, with plan, state, evidence and verdict as documents.

Each write of a row names the previous write, so of two controllers that look at the same time one wins. The counts of gateways
are in a separate column that only telemetry writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from sqlalchemy import Row, Select, insert, select, update

from roadworthy.contract.evidence import RolloutCounts
from roadworthy.foundation.errors import Conflict, NotFound
from roadworthy.rollout.decide.state import State, state_from_document
from roadworthy.rollout.decide.verdict import Verdict
from roadworthy.rollout.evidence.counts import Evidence, evidence_from_document
from roadworthy.rollout.plan.plan import Plan, plan_from_document
from roadworthy.store.connection import Connection
from roadworthy.store.tables import rollouts

_json = msgspec.json.decode
_decode_verdict = msgspec.json.Decoder(Verdict).decode
_decode_revisions = msgspec.json.Decoder(tuple[tuple[int, int], ...]).decode
_COLUMNS = [column for column in rollouts.c if column.name != "evidence"]


@dataclass(frozen=True, slots=True)
class Rollout:
    """One rollout.

    Attributes:
        stable, canary: versions, written `flights:2`, with the digests of their packages.
        accepted_by, acceptance: who accepted that the canary does not fit the endpoint's signature, and why; else None.
        verdict: the last one, or the one that ended the rollout.
        revisions: (generation, store revision that wrote it), of the endpoint during the rollout.
        asked_revision: the store's when gateways were last asked to load the canary; reports on older revisions are outdated.
        waiting: whether it waits for the previous rollout to end.
        ended_at_us, decided_by: None while it runs; decided_by is a key's id or the controller.
        writes: number of writes of the row.
    """

    id: str
    endpoint: str
    stable: str
    stable_digest: str
    canary: str
    canary_digest: str
    plan: Plan
    state: State
    started_at_us: int
    started_by: str
    revisions: tuple[tuple[int, int], ...] = ()
    asked_revision: int = 0
    accepted_by: str | None = None
    acceptance: str | None = None
    verdict: Verdict | None = None
    waiting: bool = False
    ended_at_us: int | None = None
    decided_by: str | None = None
    writes: int = 0

    @property
    def running(self) -> bool:
        """Whether it has begun and has not ended."""
        return self.ended_at_us is None and not self.waiting

    @property
    def held(self) -> bool:
        """Whether gateways must hold the canary. Between two attempts to load it they drop it, so that the next is a new
        attempt."""
        return self.running and self.state.retry_s is None

    def noted(self, generation: int, revision: int) -> Rollout:
        """The rollout with the endpoint's generation, written at or before that revision, if it is new."""
        if self.revisions and self.revisions[-1][0] >= generation:
            return self
        return replace(self, revisions=(*self.revisions, (generation, revision)))


def create(connection: Connection, rollout: Rollout) -> None:
    """Insert a new rollout."""
    empty = msgspec.json.encode(Evidence()).decode()
    connection.execute(insert(rollouts).values(id=rollout.id, evidence=empty, **_values(rollout)))


def change(connection: Connection, rollout: Rollout) -> Rollout:
    """Write the rollout, unless another process has written it since it was read; return it with its new number of writes.

    Raises:
        Conflict: "rollout-conflict".
    """
    after = replace(rollout, writes=rollout.writes + 1)
    done = connection.execute(
        update(rollouts).where(rollouts.c.id == rollout.id, rollouts.c.writes == rollout.writes).values(**_values(after))
    )
    if done.rowcount != 1:
        raise Conflict(
            f"the rollout on {rollout.endpoint} was changed by another request meanwhile",
            code="rollout-conflict",
            hint="read the rollout again and repeat the command if you still want it",
        )
    return after


def merge(connection: Connection, source: str, counts: RolloutCounts) -> bool:
    """Add the counts of one gateway life to a running rollout; whether they added anything. Locks the row meanwhile.

    Raises:
        ValueError: impossible counts.
    """
    query = select(rollouts.c.evidence).where(rollouts.c.id == counts.rollout, rollouts.c.running_on.is_not(None))
    row = connection.execute(query.with_for_update()).first()
    if row is None:
        return False
    before = evidence_from_document(_json(row.evidence))
    # before gateway names were bound to keys, the same gateway life was named without its key
    after = before.renamed(source.partition("/")[2], source).merged(source, counts)
    if after == before:
        return False
    written = msgspec.json.encode(after).decode()
    connection.execute(update(rollouts).where(rollouts.c.id == counts.rollout).values(evidence=written))
    return True


def evidence_of(connection: Connection, rollout_id: str) -> Evidence:
    """Everything counted for the rollout."""
    text = connection.execute(select(rollouts.c.evidence).where(rollouts.c.id == rollout_id)).scalar_one()
    return evidence_from_document(_json(text))


def find_running(connection: Connection, endpoint: str) -> Rollout | None:
    """The endpoint's running rollout, or None."""
    return _first(connection, select(*_COLUMNS).where(rollouts.c.running_on == endpoint))


def find_waiting(connection: Connection, endpoint: str) -> Rollout | None:
    """The rollout that begins when the running one ends, or None."""
    return _first(connection, select(*_COLUMNS).where(rollouts.c.waiting_on == endpoint))


def get(connection: Connection, endpoint: str, rollout_id: str) -> Rollout:
    """A rollout of the endpoint, running or over.

    Raises:
        NotFound: "unknown-rollout".
    """
    found = _first(connection, select(*_COLUMNS).where(rollouts.c.id == rollout_id, rollouts.c.endpoint == endpoint))
    if found is None:
        raise NotFound(
            f"endpoint {endpoint} has no rollout {rollout_id}",
            code="unknown-rollout",
            hint="`roadworthy rollout history` lists the endpoint's rollouts",
        )
    return found


def list_open(connection: Connection) -> list[Rollout]:
    """Every running or waiting rollout, sorted by endpoint; the running one first."""
    found = connection.execute(select(*_COLUMNS).where(rollouts.c.ended_at_us.is_(None)))
    return sorted(map(_rollout, found), key=lambda each: (each.endpoint, each.waiting))


def list_last(connection: Connection, endpoint: str | None, last: int, before: str | None) -> list[Rollout]:
    """The `last` newest rollouts, newest first, with ids smaller than `before`; of all endpoints when `endpoint` is None."""
    query = select(*_COLUMNS).order_by(rollouts.c.id.desc()).limit(last)
    if endpoint is not None:
        query = query.where(rollouts.c.endpoint == endpoint)
    if before:
        query = query.where(rollouts.c.id < before)
    return [_rollout(row) for row in connection.execute(query)]


def held_by(found: Iterable[Rollout]) -> dict[str, list[str]]:
    """Endpoints whose rollouts need a version, by version: these versions may not be deleted."""
    holders: dict[str, list[str]] = {}
    for rollout in found:
        for version in (rollout.stable, rollout.canary):
            holders.setdefault(version, []).append(rollout.endpoint)
    return holders


def _first(connection: Connection, query: Select[Any]) -> Rollout | None:
    row = connection.execute(query).first()
    return None if row is None else _rollout(row)


def _values(rollout: Rollout) -> dict[str, Any]:
    over = rollout.ended_at_us is not None
    return {
        "endpoint": rollout.endpoint,
        "running_on": rollout.endpoint if rollout.running else None,
        "waiting_on": rollout.endpoint if rollout.waiting and not over else None,
        "stable": rollout.stable,
        "stable_digest": rollout.stable_digest,
        "canary": rollout.canary,
        "canary_digest": rollout.canary_digest,
        "accepted_by": rollout.accepted_by,
        "acceptance": rollout.acceptance,
        "plan": msgspec.json.encode(rollout.plan).decode(),
        "state": msgspec.json.encode(rollout.state).decode(),
        "verdict": None if rollout.verdict is None else msgspec.json.encode(rollout.verdict).decode(),
        "revisions": msgspec.json.encode(rollout.revisions).decode(),
        "asked_revision": rollout.asked_revision,
        "writes": rollout.writes,
        "started_at_us": rollout.started_at_us,
        "started_by": rollout.started_by,
        "ended_at_us": rollout.ended_at_us,
        "decided_by": rollout.decided_by,
    }


def _rollout(row: Row[Any]) -> Rollout:
    return Rollout(
        id=row.id,
        endpoint=row.endpoint,
        stable=row.stable,
        stable_digest=row.stable_digest,
        canary=row.canary,
        canary_digest=row.canary_digest,
        plan=plan_from_document(_json(row.plan)),
        state=state_from_document(_json(row.state)),
        started_at_us=row.started_at_us,
        started_by=row.started_by,
        revisions=_decode_revisions(row.revisions),
        asked_revision=row.asked_revision,
        accepted_by=row.accepted_by,
        acceptance=row.acceptance,
        verdict=None if row.verdict is None else _decode_verdict(row.verdict),
        waiting=row.waiting_on is not None,
        ended_at_us=row.ended_at_us,
        decided_by=row.decided_by,
        writes=row.writes,
    )
