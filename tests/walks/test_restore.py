"""A machine with a restored database: gateways keep serving, an alert names the command to run, and the command is enough."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import roadworthy as rw
from tests.machine import FREE_PORTS, Machine
from tests.waiting import eventually

ROW = [[1.0, 2.0, 3.0]]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Stopped at the end."""
    found = Machine(tmp_path)
    yield found
    found.run("stop")


def version(machine: Machine) -> Any:
    """What answers."""
    context = machine.context()
    with rw.Client(context["gateway_url"], key=context["key"]) as client:
        return client.predict("line", ROW).version


def alerts(machine: Machine) -> Any:
    """Of the control plane."""
    context = machine.context()
    with rw.Client(context["gateway_url"], key=context["key"], control_url=context["control_url"]) as client:
        return client.status().alerts


def test_a_database_that_was_set_back(machine: Machine, make_package: Callable[..., Path]) -> None:
    """Restored by hand: the gateway keeps its endpoints until `roadworthy restore`. By `restore FILE`: it follows at once."""
    machine.tell("up", "-d", *FREE_PORTS)
    for factor in (2.0, 3.0):
        machine.tell("push", str(make_package(factor=factor)))
    machine.tell("deploy", "line:1", "--endpoint", "line")
    copy = machine.folder / "backup.db"
    machine.tell("backup", str(copy))
    machine.tell("deploy", "line:2", "--endpoint", "line")
    refused = machine.run("restore", str(copy))
    assert (refused.returncode, "code: already-running" in refused.stderr) == (4, True)
    machine.tell("stop")

    database = machine.home / "control" / "roadworthy.db"
    for companion in ("-wal", "-shm"):
        database.with_name(f"{database.name}{companion}").unlink(missing_ok=True)
    shutil.copyfile(copy, database)
    machine.tell("up", "-d", *FREE_PORTS)
    (alert,) = eventually(lambda: alerts(machine), "an alert")
    assert [each["code"] for each in machine.tell("status")["alerts"]] == [alert.code]
    assert (alert.code, alert.gateway) == ("store-behind", "local/local")
    assert "roadworthy restore" in machine.run("status").stdout
    assert version(machine) == "line:2"
    machine.tell("restore")
    eventually(lambda: version(machine) == "line:1", "the gateway follows the database")
    eventually(lambda: alerts(machine) == [], "nothing is left to tell")

    machine.tell("deploy", "line:2", "--endpoint", "line")
    machine.tell("stop")
    assert machine.tell("restore", str(copy))["aside"]
    machine.tell("up", "-d", *FREE_PORTS)
    eventually(lambda: version(machine) == "line:1", "the gateway follows the backup")
    assert machine.tell("status")["alerts"] == []
