"""Feedback in the store: stored once, counted once, in any order and however often it arrives."""

from __future__ import annotations

import itertools
import json
import random as randomly
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, update

from roadworthy.contract.evidence import CANARY, STABLE
from roadworthy.rollout import rollouts
from roadworthy.rollout.decide import machine
from roadworthy.rollout.evidence import feedback
from roadworthy.rollout.evidence.counts import Evidence, Tally
from roadworthy.rollout.evidence.feedback import FEEDBACK, METRIC, Fact
from roadworthy.rollout.plan.parse import check_plan
from roadworthy.rollout.rollouts import Rollout
from roadworthy.store import tables
from roadworthy.store.engine import Database, open_database

PLAN = check_plan({"strategy": "canary", "criteria": ["feedback", "custom.refund"]})
_numbers = itertools.count()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A store."""
    opened = open_database(f"sqlite:///{tmp_path_factory.mktemp('store') / 'a.db'}")
    yield opened
    opened.close()


def begin(database: Database, started_at_us: int = 1) -> Rollout:
    """A running rollout on its own endpoint."""
    number = next(_numbers)
    state = machine.begin(f"r{number}", 1)
    made = Rollout(f"r{number}", f"e{number}", "m:1", "d1", "m:2", "d2", PLAN, state, started_at_us, "me")
    with database.begin() as connection:
        rollouts.create(connection, made)
    return made


def test_a_row_of_the_first_plan_format_is_read(database: Database) -> None:
    """A rollout that an earlier release started goes on by the same criteria; the next write has the new form."""
    made = begin(database)
    old = {**made.plan.to_document(), "format": 1}
    old["guards"] = old.pop("criteria")
    with database.begin() as connection:
        row = tables.rollouts.c.id == made.id
        connection.execute(update(tables.rollouts).where(row).values(plan=json.dumps(old)))
        read = rollouts.get(connection, made.endpoint, made.id)
        assert read.plan == PLAN
        rollouts.change(connection, read)
        written = json.loads(connection.execute(select(tables.rollouts.c.plan).where(row)).scalar_one())
    assert [each["signal"] for each in written["criteria"]] == ["feedback", "custom.refund"]
    assert "guards" not in written


def take(database: Database, rollout: Rollout, *facts: Fact) -> list[bool] | None:
    """As one request does."""
    with database.begin() as connection:
        return feedback.take(connection, rollout.id, facts, "key-a", 5)


def counted(database: Database, rollout: Rollout) -> Evidence:
    """A criterion's counts."""
    with database.begin() as connection:
        return rollouts.evidence_of(connection, rollout.id)


def called(number: int, *, wrong: bool, variant: str = CANARY, unit: int = 0) -> Fact:
    """A judgement of a prediction."""
    return Fact(FEEDBACK, f"p{number}", f"p{number}", 3, variant, unit, wrong)


@st.composite
def told(draw: st.DrawFn) -> list[Fact]:
    """Facts about some predictions of some users: judgements, which may change, events and values."""
    facts = []
    for number in range(draw(st.integers(1, 8))):
        unit = draw(st.integers(1, 4))
        where = (f"p{number}", draw(st.integers(3, 4)), draw(st.sampled_from([STABLE, CANARY])), unit)
        facts += [Fact(FEEDBACK, f"p{number}", *where, wrong) for wrong in draw(st.lists(st.booleans(), max_size=3))]
        if draw(st.booleans()):
            facts.append(Fact("custom.refund", f"p{number}", *where, bad=True))
        if draw(st.booleans()):
            facts.append(Fact(f"{METRIC}revenue", f"p{number}", *where, bad=False, value=float(3 * number)))
    return facts


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(told(), st.randoms(use_true_random=False), st.integers(1, 5))
def test_order_repetition_and_grouping_change_nothing(
    database: Database, facts: list[Fact], random: randomly.Random, size: int
) -> None:
    """Sent in one request, or shuffled, twice and in pieces: the same evidence, row by row and sum by sum."""
    once, again = begin(database), begin(database)
    take(database, once, *facts)
    shuffled = facts * 2
    random.shuffle(shuffled)
    for start in range(0, len(shuffled), size):
        take(database, again, *shuffled[start : start + size])
    assert counted(database, again) == counted(database, once)
    assert rows(database, again) == rows(database, once)
    assert not any(take(database, again, *facts) or ())


def rows(database: Database, rollout: Rollout) -> list[Sequence[object]]:
    """The stored rows."""
    columns = [column for column in tables.feedback.c if column.name not in ("rollout", "given_at_us", "given_by")]
    query = select(*columns).where(tables.feedback.c.rollout == rollout.id).order_by(*columns[:3])
    with database.begin() as connection:
        return [tuple(row) for row in connection.execute(query)]


def test_a_prediction_is_one_sample_and_stays_wrong(database: Database) -> None:
    """A prediction that was called wrong once stays wrong; being called right before or after changes nothing."""
    rollout = begin(database)
    assert take(database, rollout, called(1, wrong=False), called(2, wrong=True), called(1, wrong=False)) == [
        True,
        True,
        False,
    ]
    assert counted(database, rollout).tallies(FEEDBACK) == {3: Tally(canary_samples=2, canary_bad=1)}
    assert take(database, rollout, called(1, wrong=True), called(2, wrong=False)) == [True, False]
    assert counted(database, rollout).tallies(FEEDBACK) == {3: Tally(canary_samples=2, canary_bad=2)}


def test_events_join_the_samples_of_gateways(database: Database) -> None:
    """A custom counter's samples are the requests that gateways count; an event before its request is a sample of its own."""
    rollout = begin(database)
    take(database, rollout, Fact("custom.refund", "p1", "p1", 3, STABLE, 0, bad=True))
    assert counted(database, rollout).tallies("custom.refund") == {3: Tally(stable_samples=1, stable_bad=1)}


def test_users_count_as_gateways_count_them(database: Database) -> None:
    """By hash, in the earliest known generation, as a text of 16 digits."""
    rollout = begin(database)
    take(
        database,
        rollout,
        called(1, wrong=True, unit=10),
        called(2, wrong=True, unit=10),
        called(3, wrong=False, unit=11),
    )
    evidence = counted(database, rollout)
    assert evidence.units == {FEEDBACK: {"000000000000000a": (3, CANARY)}}
    assert evidence.tallies(FEEDBACK)[3] == Tally(canary_samples=3, canary_bad=2, canary_units=1)


def test_of_a_user_the_first_value_counts(database: Database) -> None:
    """Several values of one user count as one piece of evidence."""
    rollout = begin(database)
    values = [
        Fact(f"{METRIC}revenue", "user", f"p{number}", 3, CANARY, 7, bad=False, value=value)
        for number, value in enumerate((4.5, 100.0))
    ]
    assert take(database, rollout, *values) == [True, False]
    assert counted(database, rollout).metric("revenue", CANARY, [3]) == (1, 4.5)


def test_what_comes_after_the_end_is_counted(database: Database) -> None:
    """The verdict stands; an A/B test's report goes on."""
    rollout = begin(database)
    with database.begin() as connection:
        rollouts.change(connection, replace(rollout, ended_at_us=9))
    assert take(database, rollout, called(1, wrong=True)) == [True]
    assert counted(database, rollout).tallies(FEEDBACK)[3].canary_bad == 1


def test_without_room_whole_rollouts_go_and_take_no_more(tmp_path: Path) -> None:
    """Those that ended first, then those that began first. Counts stay, and nothing is counted again."""
    store = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    older, newer, early, late = (begin(store, started) for started in (1, 2, 3, 4))
    with store.begin() as connection:
        rollouts.change(connection, replace(newer, ended_at_us=20))
        rollouts.change(connection, replace(older, ended_at_us=10))
    for rollout in (older, newer, early, late):
        take(store, rollout, called(1, wrong=True), called(2, wrong=False))
    with store.begin() as connection:
        assert feedback.close_over_limit(connection, 8, 30) == []
        assert feedback.close_over_limit(connection, 5, 30) == [(older.id, 2), (newer.id, 2)]
        assert feedback.close_over_limit(connection, 3, 31) == [(early.id, 2)]
        assert connection.execute(select(func.count()).select_from(tables.feedback)).scalar() == 2
    assert take(store, early, called(1, wrong=True)) is None
    assert counted(store, early).tallies(FEEDBACK)[3].canary_bad == 1
    assert take(store, late, called(3, wrong=True)) == [True]
    store.close()
