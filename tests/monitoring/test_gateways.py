"""Telemetry in the store: applied once, counted correctly, ignored when the gateway is silent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from roadworthy.contract.telemetry import READY, RequestCount, Telemetry, VersionState, WorkerReport
from roadworthy.monitoring import gateways
from roadworthy.store.engine import open_database
from roadworthy.store.tables import request_counts


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    """An open transaction on a fresh database."""
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    with database.begin() as connection:
        yield connection
    database.close()


def frame(sequence: int, total: int, boot: str = "b1") -> Telemetry:
    """A frame with the number of requests since the boot."""
    counts = (RequestCount("flights", 1, "d", "ok", total), RequestCount("flights", 1, "d", "missing-columns", 1))
    return Telemetry("gw-1", boot, sequence, 1, counts=counts)


def total(connection: Connection) -> int:
    """Successful requests, over all boots."""
    rows = connection.execute(select(request_counts.c["count"]).where(request_counts.c.outcome == "ok")).scalars()
    return sum(rows)


@settings(max_examples=20, deadline=None)
@given(order=st.lists(st.integers(1, 6), min_size=1, max_size=20))
def test_frames_count_once_in_whatever_order_they_arrive(order: list[int]) -> None:
    """Repeated and late frames change nothing: the total is that of the newest frame that ever arrived."""
    database = open_database("sqlite://")
    with database.begin() as connection:
        for sequence in order:
            gateways.apply(connection, frame(sequence, 10 * sequence), 1)
        assert total(connection) == 10 * max(order)
        assert gateways.list_all(connection)[0].sequence == max(order)
    database.close()


def test_a_restarted_gateway_counts_from_nothing_and_adds_up(connection: Connection) -> None:
    """Counts of a new boot are added to those of the previous boot."""
    assert gateways.apply(connection, frame(9, 100), 1)
    assert gateways.apply(connection, frame(1, 5, "b2"), 2)
    assert not gateways.apply(connection, frame(1, 5, "b2"), 3)
    assert total(connection) == 105


def test_a_gateway_that_fell_silent_is_not_waited_for(connection: Connection) -> None:
    """It counts as live for ten seconds."""
    worker = WorkerReport(0, 1, "w", None, 0, 0, (VersionState("d", READY),))
    gateways.apply(connection, Telemetry("gw-1", "b", 1, 1, workers=(worker,)), 1_000_000)
    found = gateways.list_all(connection)
    assert found[0].workers == (worker,)
    assert gateways.live(found, 11_000_000) == found
    assert gateways.live(found, 11_000_001) == []


@pytest.mark.parametrize(("epoch", "offered", "later"), [("e", 8, True), ("e", 7, False), ("x", 8, False), (None, 8, False)])
def test_only_a_higher_revision_of_the_same_life_means_an_older_copy(epoch: str | None, offered: int, later: bool) -> None:
    """A gateway of another store, or without a snapshot, says nothing about this store."""
    worker = WorkerReport(0, 1, "w", epoch, 0, offered)
    assert gateways.ahead((worker,), "e", 7) == (8 if later else None)
