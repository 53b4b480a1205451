"""The installed command line, in a separate home folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.control.fleet import Fleet, three_versions
from tests.control_plane import ControlProcess
from tests.machine import run_command
from tests.waiting import DEADLINE_S

COMMAND = str(Path(sys.executable).with_name("roadworthy"))
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The variables of a command, in the test's own home folder."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ROADWORTHY_")}
    return {**clean, "ROADWORTHY_HOME": str(tmp_path / "home"), "COLUMNS": "200"}


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str]) -> Run:
    """Runs `roadworthy …` in an empty folder: `run("status", "--json", ROADWORTHY_KEY="…")`."""

    def _run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return run_command(arguments, cwd=tmp_path, env={**environment, **more})

    return _run


@pytest.fixture
def run_installed(tmp_path: Path, environment: dict[str, str]) -> Run:
    """The same by the installed script, from its start."""

    def _run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *arguments],
            cwd=tmp_path,
            env={**environment, **more},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=4 * DEADLINE_S,
            check=False,
        )

    return _run


@pytest.fixture
def seed(three_lines: Path) -> Path:
    """The control plane's first state."""
    return three_lines


@pytest.fixture
def fleet(
    control: ControlProcess,
    admin: httpx.Client,
    make_package: Callable[..., Path],
) -> Iterator[Fleet]:
    """Three versions are registered and the first one serves."""
    with control.client(control.gateway_key) as link:
        found = Fleet(link)
        three_versions(admin, found, make_package)
        yield found


@pytest.fixture
def rollout(run: Run, control: ControlProcess) -> Callable[..., Any]:
    """Runs `roadworthy rollout …` against it."""

    def go(*arguments: str) -> Any:
        return run("rollout", *arguments, ROADWORTHY_CONTROL_URL=control.url, ROADWORTHY_KEY=control.admin_key)

    return go


def read(result: subprocess.CompletedProcess[str]) -> Any:
    """The output of a command with --json."""
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
