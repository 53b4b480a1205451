"""The same schema and operations on PostgreSQL, on a real server that is started here."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event

from roadworthy.access.principal import Principal
from roadworthy.contract.api.endpoints import Predictions, Unreadable
from roadworthy.contract.api.rollouts import NewRollout
from roadworthy.contract.evidence import RolloutCounts, VariantCount
from roadworthy.contract.telemetry import READY, RecordFile, RequestCount, Telemetry, VersionState, WorkerReport
from roadworthy.control.context import ControlContext
from roadworthy.control.controllers.loop import look
from roadworthy.control.resources import keys, telemetry
from roadworthy.control.resources import rollouts as rollout_verbs
from roadworthy.control.wiring import build_context
from roadworthy.foundation.errors import Conflict, StoreError, Unavailable
from roadworthy.foundation.references import VersionReference
from roadworthy.registry import versions
from roadworthy.registry.versions import Version
from roadworthy.rollout import endpoints, rollouts
from roadworthy.rollout.decide import machine
from roadworthy.rollout.endpoints import Endpoint
from roadworthy.rollout.evidence import feedback
from roadworthy.rollout.evidence.counts import Tally
from roadworthy.rollout.evidence.feedback import Fact
from roadworthy.rollout.plan.parse import check_plan
from roadworthy.rollout.rollouts import Rollout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field, Signature
from roadworthy.store.engine import Database, bump_revision, open_database, read_revision
from roadworthy.store.tables import metadata
from tests import postgresql
from tests.conftest import eventually
from tests.defaults import control_document


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server."""
    with postgresql.running(tmp_path_factory) as started:
        yield started


@pytest.fixture
def url(server: Any, request: pytest.FixtureRequest) -> str:
    """A separate database for the test."""
    return postgresql.database(server, request.node.name)


def context(url: str, folder: Path) -> ControlContext:
    """A control plane on it."""
    bootstrap = [{"id": "key-first", "key": "rw_first", "role": "admin"}]
    return build_context(control_document(folder, database_url=url, bootstrap_keys=bootstrap))


def test_the_schema_and_the_verbs_on_postgresql(url: str, tmp_path: Path) -> None:
    """Migrations create exactly the tables that the code describes; keys, telemetry and queries work; a restart finds
    everything."""
    first = context(url, tmp_path)
    with first.database.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection.everywhere), metadata) == []
    frame = Telemetry(
        gateway="gw-1",
        boot="b",
        sequence=1,
        at_us=1,
        workers=(WorkerReport(0, 1, "w", None, 0, 0),),
        counts=(RequestCount("flights", 1, "d", "ok", 3),),
        record_files=(RecordFile("records/gw-1/a.parquet", "flights", 1, 1, 1, 1),),
    )
    assert telemetry.take_frame(first, frame) == 1
    assert telemetry.take_frame(first, frame) == 1
    asked = telemetry.last_predictions(first, "flights", 5, None)
    assert asked == Predictions(items=[], lost=0, unreadable=Unreadable(files=1, predictions=1))  # its blob never came
    assert telemetry.audit_trail(first, 5, None).items[0].verb == "key-create"
    first.database.close()
    second = context(url, tmp_path)
    assert second.publisher.edition.snapshot == first.publisher.edition.snapshot
    assert [key.id for key in keys.list_all(second, "").items] == ["key-first"]
    assert telemetry.status(second, "1").gateways[0].id == "gw-1"
    second.database.close()


def test_rollouts_are_found_by_partial_indexes(url: str, tmp_path: Path) -> None:
    """As on SQLite: no list passes over deployments, and the look for open ones over none that ended."""
    both, plans = context(url, tmp_path), list[str]()

    def explain(connection: Any, _cursor: Any, statement: str, given: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            plans.append(" ".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", given)))

    with both.database.begin() as connection:
        connection.everywhere.exec_driver_sql("SET LOCAL enable_seqscan = off")
        event.listen(connection.everywhere.engine, "before_cursor_execute", explain)
        rollouts.last_deployment(connection, "line")
        rollouts.list_last(connection, "line", 20, None)
        rollouts.list_last(connection, None, 20, None)
        rollouts.list_open(connection)
    both.database.close()
    names = ("ix_rollouts_deployed_on", "ix_rollouts_measured_on", "ix_rollouts_measured", "ix_rollouts_open")
    assert all(f"{name} on rollouts" in plan for name, plan in zip(names, plans[-4:], strict=True)), plans


ME, YOU = (Principal(who, who, "admin", frozenset()) for who in ("me", "you"))


def test_a_rollout_on_postgresql(url: str, tmp_path: Path) -> None:
    """Begun, counted, found worse and rolled back, with its history and events; the database refuses a second one."""
    both = context(url, tmp_path)
    signature = Signature((Field("x", DType.FLOAT64),), (Field("y", DType.FLOAT64),)).to_document()
    with both.database.begin() as connection:
        for number in (1, 2):
            digest = f"sha256:{number:064x}"
            found = Version(VersionReference("line", 0), digest, 1, signature, (), None, 1, "me")
            versions.register(connection, found)
        endpoints.create(connection, Endpoint("line", 1, "line:1", None, {}, signature, 1, "me"))
    both.publisher.refresh()
    counts: tuple[RolloutCounts, ...] = ()
    sequence = itertools.count(1)

    def follow() -> None:
        snapshot = both.publisher.edition.snapshot
        states = tuple(VersionState(f"sha256:{number:064x}", READY) for number in (1, 2))
        worker = WorkerReport(0, 1, "w", snapshot.epoch, snapshot.revision, snapshot.revision, states)
        telemetry.take_frame(both, Telemetry("gw-1", "b", next(sequence), 1, (worker,), rollouts=counts))
        look(both)

    follow()
    wanted = NewRollout(version="line:2", plan={"strategy": "canary", "steps": [50, 100], "criteria": ["errors"]})
    begun = rollout_verbs.start(both, "line", wanted, ME)
    with pytest.raises(Conflict, match="is running on endpoint line"):
        rollout_verbs.start(both, "line", wanted, YOU)
    follow()
    now = rollout_verbs.get(both, "line", "current")
    assert (now.phase, now.share) == ("stepping", 50)
    counts = (RolloutCounts(begun.id, (VariantCount(now.generation, "errors", "canary", 20, 20),)),)
    follow()
    follow()
    (ended,) = rollout_verbs.history(both, "line", 5, None).items
    assert (ended.outcome, ended.verdict and ended.verdict.findings[0].bad) == ("rolled-back", 20)
    kinds = [event.kind for event in telemetry.events_after(both, 0, 10).items]
    assert kinds[0] == "rollout-started"
    assert kinds[-1] == "rollout-finished"
    both.database.close()


def test_feedback_on_postgresql(url: str) -> None:
    """Four senders of the same facts at once, in different orders: each row and each count once; then old feedback is deleted."""
    database = open_database(url)
    plan = check_plan({"strategy": "canary", "criteria": ["feedback"]})
    state = machine.begin("r1", 1)
    with database.begin() as connection:
        rollouts.create(connection, Rollout("r1", "line", "m:1", "d1", "m:2", "d2", plan, state, 1, "me"))
    facts = [Fact("feedback", f"p{n}", f"p{n}", 3, "canary", n + 1, n % 3 == 0) for n in range(60)]
    facts += [Fact("metric.revenue", f"u{n}", f"p{n}", 3, "canary", n + 1, bad=False, value=2.0) for n in range(30)]
    together = threading.Barrier(4)

    def send(number: int) -> int:
        together.wait()
        mine = facts[number * 20 :] + facts[: number * 20]
        taken = 0
        for start in range(0, len(mine), 9):
            with database.begin() as connection:
                taken += sum(feedback.take(connection, "r1", mine[start : start + 9], f"key-{number}", 5) or ())
        return taken

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(send, range(4))) == 90
    with database.begin() as connection:
        evidence = rollouts.evidence_of(connection, "r1")
        assert feedback.close_over_limit(connection, 90, 6) == []
        assert feedback.close_over_limit(connection, 89, 6) == [("r1", 90)]
        assert feedback.take(connection, "r1", facts, "key-a", 7) is None
    assert evidence.tallies("feedback")[3] == Tally(canary_samples=60, canary_bad=20, canary_units=20)
    assert evidence.metric("revenue", "canary", [3]) == (30, 60.0)
    database.close()


def test_d20_a_newer_schema_is_refused_on_postgresql(url: str) -> None:
    """D20: as on SQLite."""
    database = open_database(url)
    with database.begin() as connection:
        connection.everywhere.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with pytest.raises(StoreError) as caught:
        open_database(url)
    assert caught.value.code == "database-newer"


ended = pytest.mark.filterwarnings("ignore::ResourceWarning")
"""The driver leaves the socket of a connection that the server ended to the garbage collector."""


def test_writers_wait_for_each_other_and_not_for_ever(url: str) -> None:
    """As on SQLite there is one transaction at a time over all processes; a transaction that waits too long gets an error."""
    one, other = open_database(url), open_database(url, wait_s=0.2)
    with one.begin() as connection:
        before = bump_revision(connection)
        with pytest.raises(Unavailable) as caught, other.begin():
            raise AssertionError("no other transaction can run")
        assert caught.value.code == "database-busy"
    with other.begin() as connection:
        assert bump_revision(connection) == before + 1
    one.close()
    other.close()


def _leads(database: Database) -> bool:
    database.lead.renew()
    return database.lead.held


@ended
def test_one_leads_and_another_takes_over(url: str) -> None:
    """The first process leads; when its connection ends, as on its death, the next one that asks leads."""
    one, other = open_database(url), open_database(url)
    assert (one.lead.held, other.lead.held) == (True, False)
    one.lead.renew()
    other.lead.renew()
    assert (one.lead.held, other.lead.held) == (True, False)
    with other.begin() as connection:  # as an administrator who ends a session
        connection.everywhere.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_locks"
            " WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
    eventually(lambda: _leads(other), "the server has ended the session")
    assert not _leads(one)
    other.close()
    eventually(lambda: _leads(one), "the server has ended that session, too")
    one.close()
    gc.collect()


@ended
def test_a_server_that_was_gone_is_found_again(url: str) -> None:
    """Ended connections give "busy", or are replaced unnoticed; never an unforeseen error."""
    one, admin = open_database(url), open_database(url)
    with one.begin() as connection:
        epoch, _ = read_revision(connection)
    for _ in range(20):  # how the end of a connection is seen depends on the moment
        with admin.begin() as connection:
            connection.everywhere.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        with one.begin() as connection:
            assert read_revision(connection)[0] == epoch
    one.close()
    admin.close()
    gc.collect()
