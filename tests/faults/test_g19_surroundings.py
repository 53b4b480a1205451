"""G19: only its own user can access Roadworthy's files, under any umask; and it works for a user unknown to the system."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import roadworthy as rw
from roadworthy.store.blobs import FolderBlobs
from roadworthy.store.engine import open_database
from tests.machine import FREE_PORTS, Machine
from tests.waiting import eventually

STRANGER = ("unshare", "--user", "--map-user=54321", "--map-group=54321", "env", "--unset=HOME")
"""Runs a command under a user id without a name or home folder."""


def open_to_others(folder: Path) -> list[str]:
    """Paths below a folder that other users may read, write or enter."""
    found = [folder, *folder.rglob("*")]
    return [
        f"{stat.S_IMODE(path.lstat().st_mode):o} {path}"
        for path in found
        if not path.is_symlink() and path.lstat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    ]


def work(machine: Machine, package: Path) -> None:
    """Start, push, deploy, predict, find the record, stop."""
    machine.tell("up", "-d", *FREE_PORTS)
    try:
        machine.tell("push", str(package))
        machine.tell("deploy", "line:1", "--endpoint", "line")
        context = machine.context()
        with rw.Client(context["gateway_url"], key=context["key"], control_url=context["control_url"]) as client:
            answer = client.predict("line", [[1.0, 2.0, 3.0]])
            eventually(lambda: client.logs("line", prediction_id=answer.id).items, "the record arrives")
        assert machine.tell("logs", "line", "--id", answer.id)["items"]
        assert open_to_others(machine.home) == []
    finally:
        machine.run("stop")


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_g19_nothing_in_the_home_folder_is_open_to_others(tmp_path: Path, make_package: Callable[..., Path], umask: int) -> None:
    """Database, journal, blobs, logs, sockets, snapshot, packages, records, pid files: while it runs and after it stopped."""
    machine = Machine(tmp_path, umask=umask)
    work(machine, make_package())
    assert open_to_others(machine.home) == []


@pytest.fixture
def open_umask() -> Iterator[None]:
    """A process with umask 0."""
    before = os.umask(0o000)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_g19_what_an_earlier_release_left_open_is_closed(tmp_path: Path) -> None:
    """A database that other users could read, with its companion files, and a blob folder that they could write to."""
    file, blobs = tmp_path / "store" / "roadworthy.db", tmp_path / "blobs"
    file.parent.mkdir(mode=0o700)
    blobs.mkdir(mode=0o777)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
    database = open_database(f"sqlite:///{file}")
    store = FolderBlobs(blobs)
    source = store.incoming()
    source.write_bytes(b"x")
    store.put("records/local/a.parquet", source)
    source.unlink()
    assert sorted(path.name for path in file.parent.iterdir()) == [f"roadworthy.db{end}" for end in ("", "-shm", "-wal")]
    assert open_to_others(file.parent) == []
    assert not blobs.stat().st_mode & stat.S_IRWXO
    assert open_to_others(blobs / "records") == []
    database.close()


def test_g19_a_user_without_a_home_folder_is_told_what_to_set(tmp_path: Path, make_package: Callable[..., Path]) -> None:
    """Commands that need no home folder work; the others end with one clear error."""
    machine = Machine(tmp_path, under=(*STRANGER, "--unset=ROADWORTHY_HOME"))
    assert machine.run("inspect", str(make_package())).returncode == 0
    for words in (["up", *FREE_PORTS], ["up", "-d", *FREE_PORTS], ["stop"], ["serve", str(make_package())]):
        result = machine.run(*words)
        assert result.returncode == 2, result.stderr
        assert "code: home-unknown" in result.stderr
        assert "ROADWORTHY_HOME" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_g19_a_user_whom_the_system_does_not_know_can_do_all(tmp_path: Path, make_package: Callable[..., Path]) -> None:
    """A random user id without HOME, as in containers, with ROADWORTHY_HOME set."""
    work(Machine(tmp_path, under=STRANGER), make_package())
