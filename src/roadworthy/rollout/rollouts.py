"""Rollouts in the store: one row each, running or over, with plan, state, evidence and verdict as documents. A deployment is a
rollout without a stable, whose plan has no steps (docs/decisions/0025-one-rollout-machine.md).

Each write of a row names the previous write, so of two controllers that look at the same time one wins. The counts of gateways
are in a separate column that only telemetry writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from sqlalchemy import Row, Select, insert, literal_column, select, update

from roadworthy.contract.evidence import RolloutCounts
from roadworthy.foundation.errors import Conflict, NotFound
from roadworthy.foundation.ids import PredictionIds
from roadworthy.rollout.decide.state import NOT_STARTED, State, state_from_document
from roadworthy.rollout.decide.verdict import Verdict
from roadworthy.rollout.evidence.counts import Evidence, evidence_from_document
from roadworthy.rollout.plan.plan import Plan, plan_from_document
from roadworthy.store.connection import Connection
from roadworthy.store.rows import columns_of, read_row
from roadworthy.store.tables import rollouts

CONTROLLER = "controller"
"""Who started or decided what no person did."""
_ids = PredictionIds()
_json = msgspec.json.decode
_decode_verdict = msgspec.json.Decoder(Verdict).decode
_decode_revisions = msgspec.json.Decoder(tuple[tuple[int, int], ...]).decode
_ROLLOUTS = select(*(column for column in rollouts.c if column.name != "evidence"))
"""What every query of rollouts begins with, built once: building it costs more than running it."""
_DOCUMENTS = ("plan", "state", "verdict", "revisions")
_MEASURED = rollouts.c.stable != literal_column("''")
"""A rollout that is no deployment. Written out: partial indexes do not fit a parameter."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One rollout.

    Attributes:
        stable, canary: versions, written `flights:2`, with the digests of their packages; a deployment's stable is empty.
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
    def deployment(self) -> bool:
        """Whether it is a deployment: nothing is measured, and there is no version to compare with or return to."""
        return not self.stable

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


def new_id() -> str:
    """An id for a new rollout, greater than earlier ones."""
    return f"rollout-{_ids.next()}"


def create(connection: Connection, rollout: Rollout) -> None:
    """Insert a new rollout."""
    empty = msgspec.json.encode(Evidence()).decode()
    connection.execute(insert(rollouts).values(evidence=empty, **_values(rollout)))


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
    """The endpoint's running rollout or deployment, or None."""
    return _first(connection, _ROLLOUTS.where(rollouts.c.running_on == endpoint))


def find_measured(connection: Connection, endpoint: str) -> Rollout | None:
    """The endpoint's running rollout, or None if it has only a deployment or nothing."""
    return _first(connection, _ROLLOUTS.where(rollouts.c.running_on == endpoint, _MEASURED))


def find_waiting(connection: Connection, endpoint: str) -> Rollout | None:
    """The rollout or deployment that begins when the running one ends, or None."""
    return _first(connection, _ROLLOUTS.where(rollouts.c.waiting_on == endpoint))


def last_deployment(connection: Connection, endpoint: str, opened: Iterable[Rollout] | None = None) -> Rollout | None:
    """The endpoint's open deployment, or else the newest one that a person ordered, or None. `opened`: what `list_open` found."""
    for each in list_open(connection, endpoint) if opened is None else opened:
        if each.endpoint == endpoint and each.deployment:
            return each
    query = _ROLLOUTS.where(rollouts.c.endpoint == endpoint, ~_MEASURED, rollouts.c.started_by != CONTROLLER)
    return _first(connection, query.order_by(rollouts.c.id.desc()).limit(1))


def find_pending(
    connection: Connection, endpoint: str, generation: int, opened: Iterable[Rollout] | None = None
) -> Rollout | None:
    """The endpoint's deployment that has not ended, or that failed, if the endpoint has not changed since this generation."""
    last = last_deployment(connection, endpoint, opened)
    if last is None or last.ended_at_us is None:
        return last
    return last if last.state.ends_as == NOT_STARTED and last.state.generation == generation else None


def get(connection: Connection, endpoint: str, rollout_id: str) -> Rollout:
    """A rollout of the endpoint, running or over; no deployment.

    Raises:
        NotFound: "unknown-rollout".
    """
    query = _ROLLOUTS.where(rollouts.c.id == rollout_id, rollouts.c.endpoint == endpoint, _MEASURED)
    found = _first(connection, query)
    if found is None:
        raise NotFound(
            f"endpoint {endpoint} has no rollout {rollout_id}",
            code="unknown-rollout",
            hint="`roadworthy rollout history` lists the endpoint's rollouts",
        )
    return found


def list_open(connection: Connection, endpoint: str | None = None) -> list[Rollout]:
    """Every running or waiting rollout and deployment, of one endpoint or all, sorted by endpoint; the running one first."""
    query = _ROLLOUTS.where(rollouts.c.ended_at_us.is_(None))
    found = query if endpoint is None else query.where(rollouts.c.endpoint == endpoint)
    return sorted(map(_rollout, connection.execute(found)), key=lambda each: (each.endpoint, each.waiting))


def list_last(connection: Connection, endpoint: str | None, last: int, before: str | None) -> list[Rollout]:
    """The `last` newest rollouts, newest first, with ids smaller than `before`; of all endpoints when `endpoint` is None. None of
    them is a deployment."""
    query = _ROLLOUTS.where(_MEASURED).order_by(rollouts.c.id.desc()).limit(last)
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
    documents = {name: getattr(rollout, name) for name in _DOCUMENTS}
    return {
        **columns_of(rollout, "waiting", *_DOCUMENTS),
        **{name: None if value is None else msgspec.json.encode(value).decode() for name, value in documents.items()},
        "running_on": rollout.endpoint if rollout.running else None,
        "waiting_on": rollout.endpoint if rollout.waiting and rollout.ended_at_us is None else None,
    }


def _rollout(row: Row[Any]) -> Rollout:
    return read_row(
        Rollout,
        row,
        plan=plan_from_document(_json(row.plan)),
        state=state_from_document(_json(row.state)),
        revisions=_decode_revisions(row.revisions),
        verdict=None if row.verdict is None else _decode_verdict(row.verdict),
        waiting=row.waiting_on is not None,
    )
