"""Feedback: facts about predictions that arrive after the answer, stored row by row and counted as evidence of their rollout.

`control/resources/feedback.py` calls `take` with facts about predictions of a rollout. Exactly once by construction: a fact is a
row identified by its subject, only a new row counts, and row and count are written together. So a sender that is unsure whether
feedback arrived sends it again, in any order. A prediction that was ever called wrong stays wrong, again in any order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import bindparam, delete, func, insert, select, update

from roadworthy.contract.evidence import BadUnit, EventCount, MetricCount, RolloutCounts, VariantCount
from roadworthy.rollout.evidence.counts import evidence_from_document
from roadworthy.signals.later import CUSTOM
from roadworthy.store.connection import Connection
from roadworthy.store.tables import feedback, rollouts

FEEDBACK = "feedback"
"""The criterion on predictions that are called wrong, and the source of all counts made here."""
METRIC = "metric."
"""Prefix of a metric's signal."""


class Fact(NamedTuple):
    """One fact about a prediction.

    Attributes:
        signal: FEEDBACK, a custom counter's, or METRIC and a metric's name.
        subject: what counts once: the prediction, or for a metric in a sticky rollout the user.
        prediction: the prediction's id.
        generation, variant: that it was assigned in.
        unit: the user in a sticky rollout, a hash; 0 in others.
        bad: whether it is a bad event. value: a metric's, else None.
    """

    signal: str
    subject: str
    prediction: str
    generation: int
    variant: str
    unit: int
    bad: bool
    value: float | None = None


def take(connection: Connection, rollout_id: str, facts: Sequence[Fact], given_by: str, now_us: int) -> list[bool] | None:
    """Store and count new facts; for each fact whether it was new. None when the rollout takes no further feedback. The rollout's
    row is locked meanwhile, so only one sender of the same fact is first. A finished rollout counts on, without a verdict.

    Raises:
        NoResultFound: no such rollout.
    """
    query = select(rollouts.c.evidence, rollouts.c.feedback_closed_us).where(rollouts.c.id == rollout_id)
    row = connection.execute(query.with_for_update()).one()
    if row.feedback_closed_us is not None:
        return None
    known = _known(connection, rollout_id, facts)
    fresh: dict[tuple[str, str], dict[str, Any]] = {}
    worsened, counted, changed = [], _Counted(), []
    for fact in facts:
        key = fact.signal, fact.subject
        before = known.get(key)
        changed.append(before is None or (fact.bad and not before))
        if not changed[-1]:
            continue
        known[key] = fact.bad
        counted.add(fact, first=before is None)
        if before is None or key in fresh:
            fresh[key] = {**fact._asdict(), "bad": int(fact.bad)}
        else:
            worsened.append({"of_signal": fact.signal, "of_subject": fact.subject})
    _write(connection, rollout_id, list(fresh.values()), worsened, {"given_by": given_by, "given_at_us": now_us})
    if any(changed):
        evidence = evidence_from_document(msgspec.json.decode(row.evidence))
        after = msgspec.json.encode(evidence.added(FEEDBACK, counted.counts(rollout_id))).decode()
        connection.execute(update(rollouts).where(rollouts.c.id == rollout_id).values(evidence=after))
    return changed


def close_over_limit(connection: Connection, most_rows: int, now_us: int) -> list[tuple[str, int]]:
    """Delete the feedback of whole rollouts until at most `most_rows` rows are left: first of rollouts that ended longest ago,
    then of those that began first. They take no further feedback, since facts could arrive again. Returns their ids and row
    counts."""
    query = (
        select(rollouts.c.id, func.count().label("rows"))
        .join(feedback, (feedback.c.project == rollouts.c.project) & (feedback.c.rollout == rollouts.c.id))
        .group_by(rollouts.c.id, rollouts.c.ended_at_us, rollouts.c.started_at_us)
        .order_by(rollouts.c.ended_at_us.is_(None), rollouts.c.ended_at_us, rollouts.c.started_at_us, rollouts.c.id)
    )
    found = [(row.id, int(row.rows)) for row in connection.execute(query)]
    excess, closed = sum(rows for _, rows in found) - most_rows, []
    for rollout_id, rows in found:
        if excess <= 0:
            break
        connection.execute(update(rollouts).where(rollouts.c.id == rollout_id).values(feedback_closed_us=now_us))
        connection.execute(delete(feedback).where(feedback.c.rollout == rollout_id))
        closed.append((rollout_id, rows))
        excess -= rows
    return closed


class _Counted:
    """The evidence that new facts add."""

    def __init__(self) -> None:
        self._by_variant: dict[tuple[int, str, str], list[int]] = defaultdict(lambda: [0, 0])
        self._metrics: dict[tuple[int, str, str], list[float]] = defaultdict(list)
        self._units: set[BadUnit] = set()

    def add(self, fact: Fact, *, first: bool) -> None:
        """Count a fact; `first` when its subject is new."""
        key = fact.generation, fact.signal, fact.variant
        if fact.value is not None:
            self._metrics[fact.generation, fact.signal.removeprefix(METRIC), fact.variant].append(fact.value)
            return
        self._by_variant[key][0] += first
        self._by_variant[key][1] += fact.bad
        if fact.bad and fact.unit:
            self._units.add(BadUnit(*key, f"{fact.unit:016x}"))

    def counts(self, rollout_id: str) -> RolloutCounts:
        """The counts in the form that gateways report, with bad events separate: they may come after their samples. The samples
        of a custom counter are the requests, which gateways count."""
        variants = self._by_variant.items()
        return RolloutCounts(
            rollout_id,
            variants=tuple(VariantCount(*key, samples, 0) for key, (samples, _) in variants if not key[1].startswith(CUSTOM)),
            events=tuple(EventCount(*key, bad) for key, (_, bad) in variants if bad),
            metrics=tuple(MetricCount(*key, len(found), sum(found)) for key, found in self._metrics.items()),
            units=tuple(self._units),
        )


def _known(connection: Connection, rollout_id: str, facts: Iterable[Fact]) -> dict[tuple[str, str], bool]:
    """Known subjects of these facts, and whether they were bad."""
    subjects: dict[str, set[str]] = defaultdict(set)
    for fact in facts:
        subjects[fact.signal].add(fact.subject)
    found: dict[tuple[str, str], bool] = {}
    for signal, sought in subjects.items():
        query = select(feedback.c.subject, feedback.c.bad).where(
            feedback.c.rollout == rollout_id,
            feedback.c.signal == signal,
            feedback.c.subject.in_(sought),
        )
        found.update(((signal, row.subject), bool(row.bad)) for row in connection.execute(query))
    return found


def _write(
    connection: Connection,
    rollout_id: str,
    fresh: Sequence[Mapping[str, Any]],
    worsened: Sequence[Mapping[str, Any]],
    given: Mapping[str, Any],
) -> None:
    """Insert the new rows, and mark as wrong the ones that have become so."""
    if fresh:
        columns = set(feedback.c.keys())
        rows = [
            {**{name: value for name, value in row.items() if name in columns}, **given, "rollout": rollout_id} for row in fresh
        ]
        connection.execute(insert(feedback), rows)
    if worsened:
        same = (
            feedback.c.rollout == rollout_id,
            feedback.c.signal == bindparam("of_signal"),
            feedback.c.subject == bindparam("of_subject"),
        )
        connection.execute(update(feedback).where(*same).values(bad=1), list(worsened))
