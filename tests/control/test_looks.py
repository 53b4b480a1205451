"""Verbs and frames store facts; only a look of the controllers moves traffic."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.exc import IntegrityError

from roadworthy.access.principal import Principal
from roadworthy.audit import entries
from roadworthy.contract.api.endpoints import Deployment
from roadworthy.contract.api.rollouts import NewRollout
from roadworthy.contract.telemetry import FAILED, LOADING, READY, Telemetry, VersionState, WorkerReport
from roadworthy.control.context import ControlContext
from roadworthy.control.controllers import loop, rollout_controller
from roadworthy.control.controllers.loop import Controllers, look
from roadworthy.control.resources import endpoints, rollouts, telemetry
from roadworthy.control.wiring import build_context
from roadworthy.foundation.errors import Conflict
from roadworthy.foundation.references import VersionReference
from roadworthy.registry import versions
from roadworthy.registry.versions import Version
from roadworthy.rollout import endpoints as endpoint_rows
from roadworthy.rollout import rollouts as stored
from roadworthy.rollout.words import say
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field, Signature
from roadworthy.store import tables
from roadworthy.store.blobs import package_blob
from roadworthy.store.engine import begin_life, bump_revision
from tests.conftest import eventually
from tests.defaults import control_document

ME = Principal("me", "me", "admin", frozenset())
DIGESTS = tuple(f"sha256:{number:064x}" for number in (1, 2, 3))
Report = Callable[..., None]


class Ticks:
    """A clock that moves by one microsecond a reading: however slow the machine is, no gateway falls silent."""

    def __init__(self) -> None:
        self._ticks = itertools.count(time.time_ns() // 1_000)

    def monotonic(self) -> float:
        """In seconds."""
        return self.now_us() / 1e6

    def now_us(self) -> int:
        """The next microsecond."""
        return next(self._ticks)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[ControlContext]:
    """A control plane without its controllers, with three versions."""
    built = replace(build_context(control_document(tmp_path)), clock=Ticks())
    signature = Signature((Field("x", DType.FLOAT64),), (Field("y", DType.FLOAT64),)).to_document()
    with built.database.begin() as connection:
        for number, digest in enumerate(DIGESTS, 1):
            built.blobs.put(package_blob(digest), _file(tmp_path / str(number)))
            versions.register(connection, Version(VersionReference("line", 0), digest, 1, signature, (), None, 1, "me"))
    yield built
    built.database.close()


@pytest.fixture
def report(context: ControlContext) -> Report:
    """Sends a frame of a worker that has taken the newest snapshot, with all versions ready, or the states of `said`, or one
    that has not followed the store into its present epoch."""
    numbers = itertools.count(1)

    def send(
        said: tuple[VersionState, ...] = tuple(VersionState(digest, READY) for digest in DIGESTS), epoch: str | None = None
    ) -> None:
        snapshot = context.publisher.edition.snapshot
        worker = WorkerReport(0, 1, "w", epoch or snapshot.epoch, snapshot.revision, snapshot.revision, said)
        telemetry.take_frame(context, Telemetry("gw-1", "b", next(numbers), 1, (worker,)))

    send()
    return send


def _file(path: Path) -> Path:
    path.write_bytes(b"package")
    return path


def deploy(context: ControlContext, version: str, **more: Any) -> str:
    """Deploy; the state in the reply."""
    return endpoints.deploy(context, "line", Deployment(version=version, **more), ME).state


def serve(context: ControlContext, report: Report, *wanted: str) -> None:
    """Deploy versions one after the other; each serves."""
    for version in wanted:
        deploy(context, version)
        report()
        look(context)
        assert endpoints.get(context, "line").version == version


def verbs(context: ControlContext) -> list[tuple[str, str]]:
    """Verb and version of each entry of the audit trail about the endpoint."""
    with context.database.begin() as connection:
        found = entries.list_last(connection, 20, None, "line")
    return [(each["verb"], each["detail"].get("version")) for each in reversed(found)]


def test_neither_a_verb_nor_a_frame_moves_traffic(context: ControlContext, report: Report) -> None:
    """They wake the controllers, whose look moves it."""
    assert deploy(context, "line:1") == "loading"
    report()
    assert endpoints.get(context, "line").version is None
    assert context.wake.wait(0.0) == 3
    look(context)
    assert endpoints.get(context, "line").version == "line:1"


def test_a_rollback_is_in_force_with_its_reply(context: ControlContext, report: Report) -> None:
    """Where controllers run, its reply follows their look; a second rollback goes forward again."""
    controllers = Controllers(context)
    controllers.start()
    eventually(lambda: context.wake.followed() or deploy(context, "line:1"), "the controllers run")
    for version in ("line:1", "line:2"):
        deploy(context, version)
        report()
        eventually(lambda version=version: endpoints.get(context, "line").version == version, "it serves")
    assert [endpoints.rollback(context, "line", ME).version for _ in range(2)] == ["line:1", "line:2"]
    controllers.stop()


def test_a_control_plane_that_does_not_lead_looks_at_deployments_only(context: ControlContext, report: Report) -> None:
    """A deployment has no clock, so a rollback acts at once wherever it was asked for; a step's time is the leader's."""
    deploy(context, "line:1")
    report()
    context.database.lead.held = False
    look(context)
    assert endpoints.get(context, "line").version == "line:1"
    plan = {"strategy": "canary", "steps": [50, 100], "criteria": ["errors"]}
    rollouts.start(context, "line", NewRollout(version="line:2", plan=plan), ME)
    report()
    look(context)
    assert rollouts.get(context, "line", "current").phase == "preparing"
    context.database.lead.held = True
    look(context)
    assert rollouts.get(context, "line", "current").phase == "stepping"


def test_a_deployment_replaces_one_that_is_on_its_way(context: ControlContext, report: Report) -> None:
    """Only the last one takes over; rolling back has the previous version again, and lists of rollouts show none of them."""
    deploy(context, "line:1")
    assert deploy(context, "line:2") == "loading"
    report()
    look(context)
    assert endpoints.get(context, "line").version == "line:2"
    assert endpoints.get(context, "line").previous is None
    assert rollouts.in_progress(context, None).items == []
    assert rollouts.history(context, "line", 5, None).items == []


def test_a_slow_blob_store_does_not_hide_what_another_process_wrote(
    context: ControlContext, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleting record files has a thread of its own."""
    slow, ended = threading.Event(), threading.Event()

    def delete(_: ControlContext) -> None:
        slow.set()
        ended.wait()

    monkeypatch.setattr(loop, "_TRIM_S", 0.01)
    monkeypatch.setattr(loop, "trim_records", delete)
    controllers = Controllers(context)
    controllers.start()
    eventually(slow.is_set, "the blob store is slow")
    with context.database.begin() as connection:  # as another process does, which cannot refresh this one's snapshot
        revision = bump_revision(connection)
    eventually(lambda: context.publisher.edition.snapshot.revision == revision, "the change is published")
    ended.set()
    controllers.stop()


def test_a_deployment_decided_before_a_rollback_conflicts_with_it(context: ControlContext, report: Report) -> None:
    """Also while the rollback waits for workers. A deployment that is given up is in the audit trail."""
    serve(context, report, "line:1", "line:2")
    read = endpoints.get(context, "line").generation
    report((VersionState(DIGESTS[0], LOADING), VersionState(DIGESTS[1], READY)))
    assert endpoints.rollback(context, "line", ME).state == "loading"
    with pytest.raises(Conflict, match="changed by another request"):
        deploy(context, "line:3", if_generation=read)
    deploy(context, "line:3")
    assert verbs(context)[-3:] == [("rollback", "line:1"), ("deploy-cancelled", "line:1"), ("deploy", "line:3")]


def test_an_outdated_report_does_not_decide_about_a_new_fallback(context: ControlContext, report: Report) -> None:
    """A version that becomes a fallback with its deployment is as new to gateways as any other."""
    serve(context, report, "line:1")
    report((VersionState(DIGESTS[0], READY), VersionState(DIGESTS[1], FAILED, code="load-failed", reason="an old attempt")))
    assert deploy(context, "line:2", policy={"fallback": [{"kind": "version", "version": "line:2"}]}) == "loading"
    look(context)
    assert endpoints.get(context, "line").state == "loading"
    report()
    look(context)
    assert endpoints.get(context, "line").version == "line:2"


def test_a_rollback_cancels_what_waits_behind_a_rollout_that_goes_back(context: ControlContext, report: Report) -> None:
    """Otherwise the waiting version would take over right after the rollback."""
    serve(context, report, "line:1")
    report()
    plan = {"strategy": "canary", "steps": [50, 100], "criteria": ["errors"]}
    rollouts.start(context, "line", NewRollout(version="line:2", plan=plan), ME)
    report()
    look(context)
    deploy(context, "line:3", supersede=True)
    endpoints.rollback(context, "line", ME)
    for _ in range(4):
        look(context)
        report()
    assert rollouts.in_progress(context, None).items == []
    shown = endpoints.get(context, "line")
    assert (shown.version, shown.pending) == ("line:1", None)
    assert ("deploy-cancelled", "line:3") in verbs(context)


def kept_out(number: int) -> VersionState:
    """A version in quarantine."""
    return VersionState(DIGESTS[number - 1], FAILED, code="version-quarantined", reason="it crashes")


def retreats(context: ControlContext) -> list[stored.Rollout]:
    """Every deployment that the controllers ordered, in order."""
    with context.database.begin() as connection:
        query = select(*tables.rollouts.c).where(tables.rollouts.c.started_by == stored.CONTROLLER).order_by(tables.rollouts.c.id)
        return [stored._rollout(row) for row in connection.execute(query)]


def test_a_retreat_from_quarantine_is_a_deployment_with_a_reason(context: ControlContext, report: Report) -> None:
    """In the history of all others. What is on its way waits behind it, and goes on."""
    serve(context, report, "line:1", "line:2")
    deploy(context, "line:3")
    report((VersionState(DIGESTS[0], READY), kept_out(2), VersionState(DIGESTS[2], LOADING)))
    look(context)
    shown = endpoints.get(context, "line")
    assert (shown.version, shown.previous, shown.changed_by, shown.state) == ("line:1", None, "controller", "loading")
    assert shown.pending is not None
    assert shown.pending.version == "line:3"
    (retreat,) = retreats(context)
    assert (retreat.canary, retreat.state.ends_as, retreat.state.code) == ("line:1", "promoted", "serving-quarantined")
    assert say(retreat.state.why) == "line:2 is in quarantine: it crashes"
    assert (retreat.deployment, retreat.decided_by, retreat.ended_at_us is None) == (True, "controller", False)
    assert verbs(context)[-2:] == [("rollback", "line:1"), ("switch", "line:1")]
    report()
    look(context)
    assert endpoints.get(context, "line").version == "line:3"
    assert len(retreats(context)) == 1


def test_a_retreat_after_a_restore_waits_for_gateways(context: ControlContext, report: Report) -> None:
    """Reports of the time before count for no deployment, so the controllers order no retreat; all others go on."""
    serve(context, report, "line:1", "line:2")
    endpoints.deploy(context, "another", Deployment(version="line:1"), ME)
    before = context.publisher.edition.snapshot.epoch
    with context.database.begin() as connection:
        begin_life(connection)
    context.publisher.refresh()
    said = (VersionState(DIGESTS[0], READY), kept_out(2))
    for _ in range(3):
        report(said, before)
        look(context)
    assert (endpoints.get(context, "line").version, retreats(context)) == ("line:2", [])
    report(said)
    look(context)
    assert [endpoints.get(context, name).version for name in ("another", "line")] == ["line:1", "line:1"]
    assert len(retreats(context)) == 1


@pytest.mark.parametrize("fault", [RuntimeError("a fault of ours"), IntegrityError("INSERT", (), Exception("UNIQUE"))])
def test_a_retreat_of_one_endpoint_that_fails_delays_no_other(
    context: ControlContext, report: Report, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """Each is a transaction of its own; what failed is tried at the next look."""
    serve(context, report, "line:1", "line:2")
    for version in ("line:1", "line:2"):
        endpoints.deploy(context, "another", Deployment(version=version), ME)
        report()
        look(context)
    ordered = rollout_controller.order

    def order(context: ControlContext, connection: Any, endpoint: Any, *more: Any) -> Any:
        if endpoint.name == "another":
            raise fault
        return ordered(context, connection, endpoint, *more)

    monkeypatch.setattr(rollout_controller, "order", order)
    report((VersionState(DIGESTS[0], READY), kept_out(2)))
    look(context)
    assert [endpoints.get(context, name).version for name in ("another", "line")] == ["line:2", "line:1"]
    monkeypatch.undo()
    look(context)
    assert endpoints.get(context, "another").version == "line:1"


def test_only_endpoints_that_serve_a_version_in_quarantine_and_may_go_back_cost_a_look(
    context: ControlContext, report: Report
) -> None:
    """However many there are: the write lock is held meanwhile."""
    serve(context, report, "line:1", "line:2")
    report((VersionState(DIGESTS[0], READY), VersionState(DIGESTS[1], READY), kept_out(3)))
    with context.database.begin() as connection:
        shown = endpoint_rows.get(connection, "line")
        for number in range(10):
            endpoint_rows.create(connection, replace(shown, name=f"healthy-{number}"))
            endpoint_rows.create(connection, replace(shown, name=f"first-{number}", current="line:3", previous=None))
    statements: list[str] = []
    event.listen(
        context.database._engine, "before_cursor_execute", lambda _connection, _cursor, text, *_: statements.append(text)
    )
    look(context)
    assert len(statements) < 10, statements


def test_a_failure_is_shown_after_a_retreat_from_quarantine(context: ControlContext, report: Report) -> None:
    """The controllers' own change of the endpoint does not hide why a deployment failed."""
    serve(context, report, "line:1", "line:2")
    deploy(context, "line:3")
    failed = VersionState(DIGESTS[2], FAILED, code="load-failed", reason="no memory")
    report((VersionState(DIGESTS[0], READY), VersionState(DIGESTS[1], READY), failed))
    look(context)
    report((VersionState(DIGESTS[0], READY), kept_out(2), failed))
    look(context)
    shown = endpoints.get(context, "line")
    assert (shown.version, shown.state) == ("line:1", "failed")
    assert shown.pending is not None
    assert shown.pending.reason == "no memory"


def test_rollouts_are_found_without_passing_over_deployments(context: ControlContext) -> None:
    """And the other way round, and open ones among all: each query has an index with its order and no other rows."""
    plans: list[str] = []

    def explain(connection: Any, _cursor: Any, statement: str, given: Any, *_: Any) -> None:
        if not statement.startswith("EXPLAIN"):
            plans.extend(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given))

    with context.database.begin() as connection:
        event.listen(connection.everywhere.engine, "before_cursor_execute", explain)
        stored.last_deployment(connection, "line")
        stored.list_last(connection, "line", 20, None)
        stored.list_last(connection, None, 20, None)
        stored.list_open(connection)
    assert [plan.partition("INDEX ")[2] for plan in plans[-4:]] == [
        "ix_rollouts_deployed_on (project=? AND endpoint=?)",
        "ix_rollouts_measured_on (project=? AND endpoint=?)",
        "ix_rollouts_measured (project=?)",
        "ix_rollouts_open (project=?)",
    ]
    assert all(plan.startswith("SEARCH") for plan in plans), plans
