"""Real PostgreSQL servers: by pgserver, or the system's where pgserver has no wheel (Python 3.13)."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import DEADLINE_S

_ATTEMPTS = 4


class SystemServer:
    """A server of the system's PostgreSQL in a new folder, listening on a Unix socket there. As root it runs as another user."""

    def __init__(self) -> None:
        """Start one.

        Raises:
            FileNotFoundError: PostgreSQL is not installed.
        """
        self._binaries = _binaries()
        self._user: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
        self.pgdata = Path(tempfile.mkdtemp(prefix="pg-"))
        if self._user:
            shutil.chown(self.pgdata, **self._user)
        self._run("initdb", "--pgdata", str(self.pgdata), "--username", "postgres", "--auth", "trust", "--no-sync")
        options = f"-k {self.pgdata} -c listen_addresses= -c fsync=off"
        log = str(self.pgdata / "log")
        wait = ["--wait", "--timeout", str(int(DEADLINE_S))]
        self._run("pg_ctl", "start", *wait, "--pgdata", str(self.pgdata), "--log", log, "--options", options)

    def psql(self, command: str) -> str:
        """Run one SQL command as the superuser; its output."""
        return self._run("psql", "--host", str(self.pgdata), "--username", "postgres", "--command", command)

    def cleanup(self) -> None:
        """Stop the server and delete its folder."""
        self._run("pg_ctl", "stop", "--wait", "--mode", "fast", "--pgdata", str(self.pgdata))
        shutil.rmtree(self.pgdata)

    def _run(self, program: str, *arguments: str) -> str:
        # To a file and not to a pipe: the server inherits it, and a pipe would stay open as long as the server runs.
        with tempfile.TemporaryFile("w+") as output:
            command = [str(self._binaries / program), *arguments]
            status = subprocess.run(
                command, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False, **self._user
            )
            output.seek(0)
            said = output.read()
        assert status.returncode == 0, f"{' '.join(command)}: {said}"
        return said


def _binaries() -> Path:
    """The folder of the newest PostgreSQL that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    named = shutil.which("initdb")
    if not found and named is None:
        raise FileNotFoundError("this Python has no pgserver, and PostgreSQL is not installed: run `make tools`")
    return found[-1].parent if found else Path(str(named)).resolve().parent


@contextmanager
def running(folders: pytest.TempPathFactory) -> Iterator[Any]:
    """A server. Its folder has a short path: it listens on a Unix socket there."""
    started = SystemServer() if importlib.util.find_spec("pgserver") is None else _by_pgserver(folders)
    yield started
    started.cleanup()


def _by_pgserver(folders: pytest.TempPathFactory) -> Any:
    """It allows itself ten seconds to start; if a busy machine exceeds that, or has too little memory, another one is started."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about a variable that only desktops set
        import pgserver

        for attempt in range(_ATTEMPTS):
            try:
                return pgserver.get_server(folders.mktemp("pg"))
            except subprocess.SubprocessError:
                if attempt == _ATTEMPTS - 1:
                    raise
    raise AssertionError("the last attempt returns or raises")


def database(server: Any, test: str) -> str:
    """The address of a new database for a test of that name."""
    name = f"d{abs(hash(test))}"
    server.psql(f"CREATE DATABASE {name}")
    return f"postgresql+pg8000://postgres@/{name}?unix_sock={server.pgdata}/.s.PGSQL.5432"
