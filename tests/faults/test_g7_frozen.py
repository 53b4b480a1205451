"""G7: a stopped process is noticed, reported and replaced, and its versions are served again."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import httpx
import numpy as np
import psutil
import pytest

import roadworthy as rw
from tests.machine import Machine
from tests.waiting import NO_TLS, eventually

ROWS = np.arange(20.0).reshape(10, 2)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with both planes, and a version that executes in a runner process."""
    machine = Machine(tmp_path_factory.mktemp("machine"))
    folder = machine.folder / "dist"
    machine.packages.append(rw.pack(lambda rows: rows.sum(axis=1), name="sums", inputs=ROWS, out=folder))
    with machine.serving("sums"):
        yield machine


def one(machine: Machine, module: str) -> psutil.Process | None:
    """The process that runs a module, or None if there is no such process."""
    found = [process for process in machine.family() if module in _command(process)]
    return found[0] if len(found) == 1 else None


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.NoSuchProcess:
        return []


def predict(machine: Machine) -> httpx.Response:
    """Request a prediction of one row."""
    context = machine.context()
    return httpx.post(
        f"{context['gateway_url']}/v1/models/sums:predict",
        json={"instances": [[1.0, 2.0]]},
        headers={"Authorization": f"Bearer {context['key']}", "Request-Timeout-Ms": "2000"},
        timeout=60.0,
        verify=NO_TLS,
    )


@pytest.mark.parametrize("module", ["roadworthy.runtime.runners.isolated", "roadworthy.agent", "roadworthy.control"])
def test_g7_a_process_that_stands_still_is_replaced(machine: Machine, module: str) -> None:
    """After SIGSTOP alone; predictions are right before and after, and the log says why it was killed."""
    frozen = eventually(lambda: one(machine, module), "it runs")
    eventually(lambda: predict(machine).status_code == 200, "predictions are answered")
    frozen.send_signal(signal.SIGSTOP)
    fresh = eventually(lambda: (new := one(machine, module)) and new.pid != frozen.pid and new, "it is replaced")
    assert not frozen.is_running() or frozen.status() == psutil.STATUS_ZOMBIE
    eventually(lambda: predict(machine).status_code == 200, "predictions are answered again")
    assert predict(machine).json() == {"predictions": [3.0]}
    eventually(lambda: "no sign of life" in machine.log(), "the log says why")
    assert fresh.is_running()


def test_g7_of_what_stood_still_nothing_is_held_against_the_version(machine: Machine) -> None:
    """A process stopped from outside says nothing about its model."""
    status = machine.tell("status")
    assert "quarantin" not in str(status).lower()
    assert machine.run("status").returncode == 0
