"""G12: a control plane with an empty home folder on a database in use creates no admin key, and a start does not restore a
revoked key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from roadworthy.access.principal import Principal
from roadworthy.cli.commands.machine import settle_keys
from roadworthy.cli.home import Context, Home
from roadworthy.control.context import ControlContext
from roadworthy.control.resources import keys
from roadworthy.control.wiring import build_context
from roadworthy.foundation.keys import make_key
from tests.defaults import control_document
from tests.machine import FREE_PORTS, Machine


@dataclass
class Sharing(Machine):
    """A machine whose control plane uses a shared database."""

    database: Path = Path()

    @property
    def environment(self) -> dict[str, str]:
        """The environment, with the database."""
        return {
            **super().environment,
            "ROADWORTHY_CONTROL_DATABASE_URL": f"sqlite:///{self.database / 'roadworthy.db'}",
            "ROADWORTHY_CONTROL_BLOB_FOLDER": str(self.database / "blobs"),
        }


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[list[Sharing]]:
    """Two machines with one database; stopped at the end."""
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        folder.mkdir()
    found = [Sharing(folder, database=tmp_path / "shared") for folder in folders]
    yield found
    for machine in found:
        machine.run("stop")


def test_g12_a_fresh_home_on_a_database_in_use_gets_no_admin_key(machines: list[Sharing]) -> None:
    """Each start says how to get a key, and stores none. The database gets another key only on request."""
    first, second = machines
    admin_key = first.tell("up", "-d", *FREE_PORTS)["admin_key"]
    first.tell("stop")
    for _ in range(2):
        told = second.tell("up", "-d", *FREE_PORTS)
        assert "admin_key" not in told
        assert "roadworthy key create --role admin" in told["note"]
        assert "key" not in second.context()
        assert second.run("key", "list").returncode == 6
        second.tell("stop")
    recovered = second.tell("key", "recover")["id"]
    told = first.tell("up", "-d", *FREE_PORTS)
    assert "admin_key" not in told
    assert "note" not in told
    assert first.context()["key"] == admin_key
    admins = [key["id"] for key in first.tell("key", "list") if key["role"] == "admin"]
    assert len(admins) == 2
    assert admins[1] == recovered


def test_g12_an_older_key_that_the_database_does_not_know_stays(tmp_path: Path, control: Any) -> None:
    """It may belong to another database; the start reports that it is unknown here."""
    home, key = Home(tmp_path / "home"), make_key()[1]
    home.write_context(Context(control.url, control.url, key))
    home.keys(own_gateway=False)
    told = settle_keys(home, home.keys(own_gateway=False), control.url)
    assert "does not accept the admin key of this home folder" in str(told["note"])
    assert home.context() == Context(control.url, control.url, key)
    assert home.gateway_key() is not None


def offered(role: str, *, only_first: bool) -> dict[str, Any]:
    """A new key in the form of a start document."""
    key_id, text = make_key()
    return {"id": key_id, "key": text, "role": role, "only_first": only_first}


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlContext]:
    """A control plane without keys."""
    built = build_context(control_document(tmp_path))
    yield built
    built.database.close()


@pytest.mark.parametrize("role", ["admin", "gateway"])
def test_g12_only_the_first_key_of_a_role_is_taken(plane: ControlContext, role: str) -> None:
    """The key of a gateway that starts with its control plane is always accepted."""
    first, second, own = (offered(role, only_first=first) for first in (True, True, False))
    keys.ensure(plane, [first])
    keys.ensure(plane, [second, first])
    keys.ensure(plane, [own])
    assert {key.id for key in keys.list_all(plane, "").items} == {first["id"], own["id"]}


def test_g12_a_revoked_key_does_not_come_back_with_a_start(plane: ControlContext) -> None:
    """A home folder that still has it offers it in vain."""
    kept, revoked = offered("admin", only_first=True), offered("gateway", only_first=False)
    keys.ensure(plane, [kept, revoked])
    keys.revoke(plane, revoked["id"], Principal(kept["id"], kept["id"], "admin", frozenset()))
    keys.ensure(plane, [kept, revoked])
    assert [key.id for key in keys.list_all(plane, "").items] == [kept["id"]]
