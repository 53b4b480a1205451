"""The control plane refuses to start rather than start partially, and one line of its log says what to do."""

from __future__ import annotations

import json
import signal
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from roadworthy.foundation.child import EXIT_REFUSED
from roadworthy.foundation.sockets import listen
from tests.defaults import control_document
from tests.waiting import DEADLINE_S, NO_TLS
from tests.warm import WarmProcess, nursery
from tests.warm_up import MODULES

Refusal = dict[str, Any]


@dataclass
class Started:
    """A control plane that got its start document, and its log."""

    process: WarmProcess
    log: IO[bytes]

    def end(self) -> tuple[int, str]:
        """Its exit status and log, once it has ended."""
        status = self.process.wait(DEADLINE_S)
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.log.seek(0)
        said = self.log.read().decode()
        self.log.close()
        return status, said


def start(folder: Path, *, port: int = 0, fd: int | None = None) -> Started:
    """Start a control plane, which ends when its standard input is closed."""
    document = {
        **control_document(folder),
        "host": "127.0.0.1",
        "port": port,
        "fd": fd,
        "bootstrap_keys": [],
        "log_level": "warning",
    }
    log = tempfile.TemporaryFile()  # noqa: SIM115  `end` closes it
    process = nursery(*MODULES).start(["-m", "roadworthy.control"], descriptors=[] if fd is None else [fd], stderr=log.fileno())
    assert process.stdin is not None
    process.stdin.write(json.dumps(document).encode() + b"\n")
    process.stdin.flush()
    return Started(process, log)


def refusal(folder: Path, *, port: int = 0) -> Refusal:
    """Start, and return the last line of the log of a process that refused."""
    status, said = start(folder, port=port).end()
    assert status == EXIT_REFUSED
    assert "Traceback" not in said
    return dict(json.loads(said.splitlines()[-1]))


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """The folder of a control plane that ran, answered and was stopped."""
    run(tmp_path)
    return tmp_path


def run(folder: Path, how: signal.Signals = signal.SIGTERM) -> int:
    """Start, wait for an answer, send the signal, and return the exit status."""
    started = running(folder)
    started.process.send_signal(how)
    return started.end()[0]


def running(folder: Path) -> Started:
    """A control plane that has answered."""
    with listen("127.0.0.1", 0) as listener:
        started = start(folder, fd=listener.fileno())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        # The socket is already listening: the request waits in the backlog until the process accepts it.
        assert httpx.get(f"{url}/readyz", timeout=DEADLINE_S, verify=NO_TLS).status_code == 200
    return started


def test_d6_a_taken_port_of_the_control_plane(tmp_path: Path) -> None:
    """D6: the message names the port, and neither a database nor a blob folder was created."""
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        said = refusal(tmp_path / "new", port=port)
    assert said["code"] == "port-taken"
    assert f"port {port} on 127.0.0.1 is taken" in said["message"]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(tmp_path: Path, how: signal.Signals) -> None:
    """Exit status 0, and all data is in the database file itself."""
    assert run(tmp_path, how) == 0
    assert not (tmp_path / "roadworthy.db-wal").exists()


@pytest.mark.parametrize("size", [0, 100, 5_000])
def test_d11_a_truncated_database_refuses_to_start(used: Path, size: int) -> None:
    """D11: at any length, zero included; the file is not changed, and the hint says what to do."""
    file = used / "roadworthy.db"
    cut = file.read_bytes()[:size]
    file.write_bytes(cut)
    said = refusal(used)
    assert said["code"] == "database-damaged"
    assert "backup" in said["hint"]
    assert file.read_bytes() == cut


def test_d11_a_backup_in_its_place_starts_again(used: Path) -> None:
    """D11: following the hint restores everything."""
    file = used / "roadworthy.db"
    backup = file.read_bytes()
    file.write_bytes(b"\0" * len(backup))
    assert refusal(used)["code"] == "database-damaged"
    file.write_bytes(backup)
    assert run(used) == 0


def test_d11_a_backup_taken_while_it_runs_is_whole(tmp_path: Path) -> None:
    """D11: as in docs/backup.md, a copy made by SQLite needs no stop, and suffices for a start."""
    backup, restored = tmp_path / "backup.db", tmp_path / "restored"
    run(tmp_path)
    started = running(tmp_path)
    connection = sqlite3.connect(tmp_path / "roadworthy.db")
    connection.execute("VACUUM INTO ?", (str(backup),))
    epoch = connection.execute("SELECT epoch FROM stores").fetchone()
    connection.close()
    started.process.kill()
    started.end()
    restored.mkdir()
    backup.rename(restored / "roadworthy.db")
    assert run(restored) == 0
    connection = sqlite3.connect(restored / "roadworthy.db")
    assert connection.execute("SELECT epoch FROM stores").fetchone() == epoch
    connection.close()


def test_d11_a_missing_write_ahead_log_is_survived(tmp_path: Path) -> None:
    """D11: after kill -9 and the loss of the log, it starts with the state of the last checkpoint."""
    run(tmp_path)
    run(tmp_path, signal.SIGKILL)
    for companion in tmp_path.glob("roadworthy.db-*"):
        companion.unlink()
    assert run(tmp_path) == 0


def test_d20_a_newer_schema_refuses_to_start(used: Path) -> None:
    """D20: an older release reports that the database is newer, and does not change it."""
    connection = sqlite3.connect(used / "roadworthy.db")
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    before = "\n".join(connection.iterdump())
    said = refusal(used)
    assert said["code"] == "database-newer"
    assert "later release" in said["hint"]
    assert "\n".join(connection.iterdump()) == before
    connection.close()
