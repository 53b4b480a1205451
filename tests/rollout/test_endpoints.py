"""Endpoints in the store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from roadworthy.foundation.errors import Conflict, NotFound
from roadworthy.rollout import endpoints
from roadworthy.rollout.endpoints import FAILED, LOADING, Endpoint, Pending
from roadworthy.store.engine import open_database

START = Endpoint("flights", 1, "flights:1", None, Pending("flights:2", LOADING, 5), {"max_rows": 3}, {"inputs": []}, 7, "me")


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
    """Current and previous are held; a failed pending version is not."""
    after = START.switched("flights:2")
    assert (after.current, after.previous, after.generation) == ("flights:2", "flights:1", 2)
    assert after.versions == ("flights:2", "flights:1")
    assert START.versions == ("flights:1", "flights:2")
    failed = replace(START, pending=Pending("flights:2", FAILED, 5))
    assert failed.versions == ("flights:1",)
