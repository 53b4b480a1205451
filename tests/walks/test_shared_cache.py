"""Two workers of a running machine share answers through a Redis with a password, and an operator sees whether it answers.

One journey on the same running planes, in steps.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

import roadworthy as rw
from tests.machine import run_command
from tests.redis_servers import RealRedis
from tests.waiting import DEADLINE_S, NO_TLS, eventually

FREE_PORTS = ("--port", "0", "--control-port", "0", "--metrics-port", "0", "--workers", "2")
ROWS = np.arange(24.0).reshape(12, 2)
SECRET = "open-sesame"


def total(rows: Any) -> Any:
    """The model."""
    return rows.sum(axis=1)


class Machine:
    """A home folder, its Redis, and commands that run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.redis = RealRedis(folder, "--requirepass", SECRET)
        self.context: dict[str, str] = {}

    def run(self, *arguments: str) -> str:
        """Run one command that must succeed; return its output."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ROADWORTHY_")}
        url = self.redis.url.replace("unix://", f"unix://default:{SECRET}@")
        result = run_command(
            arguments,
            cwd=self.folder,
            env={
                **clean,
                "ROADWORTHY_HOME": str(self.folder / "home"),
                "ROADWORTHY_GATEWAY_CACHE_URL": url,
                "ROADWORTHY_GATEWAY_CACHE_WAIT_MS": "500",
            },
        )
        assert result.returncode == 0, result.stderr
        assert SECRET not in result.stdout + result.stderr
        return result.stdout

    def ask(self, *row: float) -> str:
        """The cache result of one row, sent on a separate connection."""
        reply = httpx.post(
            f"{self.context['gateway_url']}/v1/models/sums:predict",
            json={"instances": [row]},
            headers={"X-API-Key": self.context["key"]},
            timeout=4 * DEADLINE_S,
            verify=NO_TLS,
        )
        assert (reply.status_code, reply.json()) == (200, {"predictions": [sum(row)]})
        return reply.headers["cache-status"]

    def sharing(self) -> str:
        """Its entry in `status`."""
        key = {"Authorization": f"Bearer {self.context['key']}"}
        url = f"{self.context['control_url']}/api/v1/status"
        status = httpx.get(url, headers=key, timeout=4 * DEADLINE_S, verify=NO_TLS)
        (gateway,) = status.json()["gateways"]
        return ", ".join(str(worker["shared_cache"]) for worker in gateway["workers"])


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A control plane and a gateway, one endpoint with a cache, and the Redis."""
    machine = Machine(tmp_path_factory.mktemp("w"))
    try:
        machine.redis.start()
        machine.run("up", "--detach", *FREE_PORTS)
        machine.context = json.loads((machine.folder / "home" / "context.json").read_text())
        package = rw.pack(total, name="sums", inputs=ROWS, out=machine.folder / "dist")
        machine.run("push", str(package.path), "--allow-code", package.digest)
        machine.run("deploy", "sums:1", "--endpoint", "sums", "--set", "cache.ttl_s=600")
        yield machine
    finally:
        machine.redis.close()
        machine.run("stop")


def at_once(call: Callable[[], str], times: int) -> list[str]:
    """The results of that many concurrent calls."""
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(call())) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == times
    return found


def workers_share(machine: Machine) -> None:
    """Eventually a worker returns the other worker's answer."""
    eventually(lambda: machine.sharing() == "connected, connected", "both workers have found it")
    values = iter(range(1_000))

    def shared() -> bool:
        value = float(next(values))
        machine.ask(value, 1.0)
        return any("detail=shared" in status for status in at_once(lambda: machine.ask(value, 1.0), 8))

    eventually(shared, "the other worker gives it")


def an_operator_sees_it(machine: Machine) -> None:
    """In `status`; no command line of a process, no log and no other file of the home folder has the password."""
    assert "connected (2 of 2)" in machine.run("status")
    processes = [psutil.Process(pid) for pid in home_pids(machine)]
    assert len(processes) >= 4
    for process in processes:
        assert SECRET not in " ".join(process.cmdline())
    for file in (machine.folder / "home").rglob("*"):
        if file.is_file() and not file.is_symlink():
            assert SECRET.encode() not in file.read_bytes(), file
    assert "(set)" in machine.run("config", "show")


def home_pids(machine: Machine) -> list[int]:
    """The supervisor and all its descendants."""
    pid = int((machine.folder / "home" / "supervisor.pid").read_text())
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def d13_it_dies_and_comes_back(machine: Machine) -> None:
    """Requests are answered throughout; status shows both states."""
    machine.redis.kill()
    assert at_once(lambda: machine.ask(5_000.0, 1.0), 8)
    eventually(lambda: "unreachable" in machine.sharing(), "it is noticed")
    machine.redis.start()
    eventually(lambda: machine.sharing() == "connected, connected", "it is found again")


@pytest.mark.timeout(12 * DEADLINE_S)
def test_d13_from_sharing_to_a_restart(machine: Machine) -> None:
    """All steps, each from the end of the previous one."""
    workers_share(machine)
    an_operator_sees_it(machine)
    d13_it_dies_and_comes_back(machine)
