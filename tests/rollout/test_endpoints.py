"""Endpoints in the store."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from roadworthy.foundation.errors import Conflict, NotFound
from roadworthy.rollout import endpoints, rollouts
from roadworthy.rollout.decide.machine import begin
from roadworthy.rollout.decide.state import NOT_STARTED
from roadworthy.rollout.endpoints import Endpoint
from roadworthy.rollout.evidence.counts import Evidence
from roadworthy.rollout.plan.parse import check_plan
from roadworthy.rollout.plan.plan import DEPLOYMENT
from roadworthy.rollout.rollouts import Rollout
from roadworthy.rollout.words import say
from roadworthy.store.connection import Connection
from roadworthy.store.engine import open_database, run_migrations

START = Endpoint("flights", 1, "flights:1", None, {"max_rows": 3}, {"inputs": []}, 7, "me")


def test_written_and_read_back(tmp_path: Path) -> None:
    """Every attribute survives the store."""
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    with database.begin() as connection:
        endpoints.create(connection, START)
        assert endpoints.get(connection, "flights") == START
        assert endpoints.list_all(connection) == [START]
        endpoints.remove(connection, "flights")
        with pytest.raises(NotFound):
            endpoints.get(connection, "flights")
    database.close()


def test_of_two_changes_one_wins(tmp_path: Path) -> None:
    """A change names the generation that it saw; the second change is refused."""
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    with database.begin() as connection:
        endpoints.create(connection, START)
        endpoints.change(connection, START, START.switched("flights:2"))
        with pytest.raises(Conflict) as caught:
            endpoints.change(connection, START, START.switched("flights:3"))
        assert caught.value.code == "generation-conflict"
        assert endpoints.get(connection, "flights").current == "flights:2"
    database.close()


def test_a_switch_keeps_the_version_before_warm() -> None:
    """Current and previous are held."""
    after = START.switched("flights:2")
    assert (after.current, after.previous, after.generation) == ("flights:2", "flights:1", 2)
    assert after.versions == ("flights:2", "flights:1")
    assert START.versions == ("flights:1",)


PENDING = {
    "flights": ("LOADING", "ready on 0 of 1 workers", None),
    "failed": ("FAILED", "answers differ", "proof-failed"),
    "behind": ("LOADING", "not loaded yet", None),
    "plain": None,
}


def test_versions_on_their_way_in_an_older_store_become_deployments(tmp_path: Path) -> None:
    """Open, failed, and behind a running rollout; endpoints keep everything else."""
    bare = sa.create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    with bare.begin() as connection:
        run_migrations(connection, "0007")
        connection.exec_driver_sql("INSERT INTO stores VALUES ('default', 'epoch-1', 7, 0)")
        for number in (1, 2):
            row = ("default", "m", number, f"digest-{number}", 1, "{}", "[]", None, 1, "me", "[]")
            connection.exec_driver_sql("INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        for name, pending in PENDING.items():
            state, reason, code = pending or (None, None, None)
            version, since = (None, None) if pending is None else ("m:2", 5_000)
            row = ("default", name, 4, "m:1", None, version, state, reason, code, since, "{}", "{}", 9, "key-1")
            connection.exec_driver_sql("INSERT INTO endpoints VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        plan = check_plan({"strategy": "canary"})
        running = Rollout("rollout-1", "behind", "m:1", "digest-1", "m:2", "digest-2", plan, begin("r", 4), 1, "me")
        rollouts.create(Connection(connection, "default"), running)
    bare.dispose()
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    with database.begin() as connection:
        assert [each.current for each in endpoints.list_all(connection)] == ["m:1"] * 4
        found = {name: rollouts.last_deployment(connection, name) for name in PENDING}
        assert found["plain"] is None
        opened, failed, behind = found["flights"], found["failed"], found["behind"]
        assert opened is not None
        assert failed is not None
        assert behind is not None
        assert (opened.running, opened.canary_digest, opened.asked_revision, opened.started_by) == (True, "digest-2", 7, "key-1")
        assert (opened.deployment, opened.plan, opened.started_at_us) == (True, DEPLOYMENT, 5_000)
        assert (behind.waiting, rollouts.find_running(connection, "behind")) == (True, running)
        assert (failed.ended_at_us, failed.state.code, say(failed.state.why)) == (9, "proof-failed", "answers differ")
        assert (failed.state.ends_as, failed.state.generation) == (NOT_STARTED, 4)
        assert rollouts.evidence_of(connection, opened.id) == Evidence()
    database.close()
