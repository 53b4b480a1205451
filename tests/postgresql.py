"""Real PostgreSQL servers, by pgserver."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

INSTALLED = all(importlib.util.find_spec(name) for name in ("pgserver", "pg8000"))
needed = pytest.mark.skipif(not INSTALLED and not os.environ.get("CI"), reason="needs pgserver and pg8000")
_ATTEMPTS = 4


@contextmanager
def running(folders: pytest.TempPathFactory) -> Iterator[Any]:
    """A server. Its folder has a short path, since it listens on a Unix socket there. It allows itself ten seconds to start; if a
    busy machine exceeds that, or has too little memory, another one is started."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about a variable that only desktops set
        import pgserver

        for attempt in range(_ATTEMPTS):
            try:
                started = pgserver.get_server(folders.mktemp("pg"))
                break
            except subprocess.SubprocessError:
                if attempt == _ATTEMPTS - 1:
                    raise
    yield started
    started.cleanup()


def database(server: Any, test: str) -> str:
    """The address of a new database for a test of that name."""
    name = f"d{abs(hash(test))}"
    server.psql(f"CREATE DATABASE {name}")
    return f"postgresql+pg8000://postgres@/{name}?unix_sock={server.pgdata}/.s.PGSQL.5432"
