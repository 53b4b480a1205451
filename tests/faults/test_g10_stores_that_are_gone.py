"""G10: the control plane's database is missing, damaged or another one; `up` continues to serve and does not start afresh."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.machine import FREE_PORTS, Machine
from tests.waiting import DEADLINE_S, NO_TLS, eventually


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory, make_package: Callable[..., Path]) -> Path:
    """The home folder of a stopped machine with a deployed endpoint."""
    machine = Machine(tmp_path_factory.mktemp("machine"))
    machine.tell("up", "-d", *FREE_PORTS)
    try:
        machine.tell("push", str(make_package()))
        machine.tell("deploy", "line:1", "--endpoint", "line")
        assert asked(machine) == 200
    finally:
        machine.run("stop")
    return machine.home


@pytest.fixture
def machine(tmp_path: Path, used: Path) -> Iterator[Machine]:
    """A machine with a copy of that folder; stopped at the end."""
    machine = Machine(tmp_path)
    shutil.copytree(used, machine.home, ignore=shutil.ignore_patterns("*.sock"))
    yield machine
    assert machine.run("stop").returncode == 0


def asked(machine: Machine) -> int:
    """The status of a prediction."""
    context = machine.context()
    return httpx.post(
        f"{context['gateway_url']}/v1/models/line:predict",
        json={"instances": [[1.0, 2.0, 3.0]]},
        headers={"Authorization": f"Bearer {context['key']}"},
        timeout=DEADLINE_S,
        verify=NO_TLS,
    ).status_code


def database(machine: Machine) -> Path:
    """The file."""
    return machine.home / "control" / "roadworthy.db"


def test_g10_up_serves_without_the_database_and_heals(machine: Machine) -> None:
    """It reports the problem, creates no new database, and answers from its disk; when the file is back, the control plane starts
    by itself."""
    file, aside = database(machine), machine.folder / "aside.db"
    file.rename(aside)
    started = machine.run("up", "-d", *FREE_PORTS)
    assert started.returncode == 0, started.stderr + machine.log()
    assert "control refused to start" in started.stderr
    assert "database-missing" in started.stderr
    assert "--begin-anew" in started.stderr
    assert asked(machine) == 200
    assert not file.exists()
    aside.rename(file)
    ready = f"{machine.context()['control_url']}/readyz"
    eventually(lambda: httpx.get(ready, timeout=DEADLINE_S, verify=NO_TLS).status_code == 200, "the control plane is back")
    assert machine.run("status").returncode == 0
    assert machine.tell("endpoint", "list")[0]["version"] == "line:1"
    assert asked(machine) == 200


def test_g10_up_serves_without_the_control_planes_whole_folder(machine: Machine) -> None:
    """No new database is created even if the control plane's own notes are missing, too: the gateway knows the old one."""
    control, aside = machine.home / "control", machine.folder / "aside"
    control.rename(aside)
    (machine.home / "control.epoch").unlink()
    started = machine.run("up", "-d", *FREE_PORTS)
    assert started.returncode == 0, started.stderr + machine.log()
    assert "database-missing" in started.stderr
    assert asked(machine) == 200


def test_g10_up_serves_with_a_damaged_database(machine: Machine) -> None:
    """The damaged database is not changed."""
    file = database(machine)
    damaged = bytes(file.stat().st_size)
    file.write_bytes(damaged)
    started = machine.run("up", "-d", *FREE_PORTS)
    assert started.returncode == 0, started.stderr + machine.log()
    assert "database-damaged" in started.stderr
    assert asked(machine) == 200
    assert file.read_bytes() == damaged


def test_g10_a_new_database_is_begun_where_somebody_says_so(machine: Machine) -> None:
    """With the flag, the gateway follows the new database, and the endpoints are gone; the next start needs no flag. If nothing
    is served, a damaged database stops the start completely."""
    database(machine).unlink()
    started = machine.run("up", "-d", *FREE_PORTS, "--begin-anew")
    assert started.returncode == 0, started.stderr + machine.log()
    eventually(lambda: asked(machine) == 404, "the endpoint is gone")
    assert machine.tell("endpoint", "list") == []
    machine.run("stop")
    started = machine.run("up", "-d", *FREE_PORTS)
    assert started.returncode == 0, started.stderr + machine.log()
    assert "refused" not in started.stderr
    assert machine.run("status").returncode == 0
    machine.run("stop")
    file = database(machine)
    file.write_bytes(bytes(file.stat().st_size))
    started = machine.run("up", "-d", *FREE_PORTS)
    assert started.returncode != 0
    assert "database-damaged" in started.stderr
