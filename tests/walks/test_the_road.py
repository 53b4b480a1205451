"""The whole road on real processes: predictions at a steady rate while everything happens to the planes that may happen.

A control plane and a gateway run as the commands that people use, each with its own process tree. Sixteen keep-alive connections
ask at a steady rate and never repeat a request. Meanwhile a second version is deployed and rolled back, the control plane is
killed for good, a worker is killed, and the gateway is restarted cold. Every reply is checked against the model of the version
that it names, and every failure must have its cause.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

import roadworthy as rw
from bench.load.traffic import BROKEN, CONNECTIONS, REFUSED, Traffic, all_right, causes, only
from bench.versions import Versions, two_versions
from tests.waiting import DEADLINE_S

LENGTH_S = 62.0
COMMAND = str(Path(sys.executable).with_name("roadworthy"))
NOT_READY = "503 endpoint-not-ready"
"""A gateway that was just started says that it is still loading."""


class Processes:
    """The control plane's and the gateway's process trees, started by command in a home folder of their own."""

    def __init__(self, home: Path, ports: list[int]) -> None:
        self.home = home
        self.gateway_port, self.control_port, self.metrics_port = ports
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def control_url(self) -> str:
        return f"http://127.0.0.1:{self.control_port}"

    def start(self, name: str, *arguments: str, **environment: str) -> None:
        """Start a command as the leader of a process group of its own; its output goes to a file beside the home folder."""
        with (self.home.parent / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [COMMAND, *arguments],
                env={**os.environ, "ROADWORTHY_HOME": str(self.home), **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill_tree(self, name: str) -> None:
        """kill -9 all processes of a command at once."""
        process = self.running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(DEADLINE_S)

    def workers(self) -> list[psutil.Process]:
        """The gateway's workers that are alive."""
        found = []
        for child in psutil.Process(self.running["gateway"].pid).children(recursive=True):
            with suppress(psutil.Error):
                if "roadworthy.gateway.worker" in child.cmdline():
                    found.append(child)
        return found

    def end(self) -> None:
        """Leave nothing running."""
        for name in list(self.running):
            with suppress(ProcessLookupError):
                self.kill_tree(name)


@dataclass
class Moments:
    """When what happened, in seconds on the monotonic clock."""

    begun: float = 0.0
    deployed: float = 0.0
    rolled_back: float = 0.0
    control_killed: float = 0.0
    worker_killed: float = 0.0
    worker_gone: float = 0.0
    worker_back: float = 0.0
    stopping: float = 0.0
    cold: float = 0.0
    ended: float = 0.0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Versions:
    """Two versions that every answer tells apart."""
    return two_versions(tmp_path_factory.mktemp("dist"))


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """A control plane and a gateway with two workers, ready."""
    home = tmp_path / "home"
    started = Processes(home, _free_ports(3))
    try:
        started.start("control", "control", "--port", str(started.control_port))
        _wait_for(lambda: _answers(f"{started.control_url}/readyz"), "the control plane")
        _start_gateway(started)
        yield started
    finally:
        started.end()


def _start_gateway(processes: Processes) -> None:
    ports = ["--port", str(processes.gateway_port), "--metrics-port", str(processes.metrics_port)]
    processes.start("gateway", "gateway", *ports, "--workers", "2", "--control-url", processes.control_url)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        holders = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [holder.getsockname()[1] for holder in holders]


def _answers(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(url, timeout=DEADLINE_S).status_code == 200
    return False


def _wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {timeout_s:g} s"
        time.sleep(0.02)


async def _travel(processes: Processes, traffic: Traffic, client: rw.Client) -> Moments:
    """Everything that happens while predictions are asked."""
    at = Moments(begun=time.monotonic())
    async with traffic.running():
        await traffic.wait_for(only("cells:1"))
        await _until(at.begun + 8)

        at.deployed = time.monotonic()
        await asyncio.to_thread(client.deploy, "cells:2", "cells")
        await traffic.wait_for(only("cells:2"))
        await _until(at.begun + 18)

        at.rolled_back = time.monotonic()
        await asyncio.to_thread(client.rollback, "cells")
        await traffic.wait_for(only("cells:1"))
        await _until(at.begun + 25)

        at.control_killed = time.monotonic()
        processes.kill_tree("control")
        await _until(at.begun + 33)

        await _kill_worker(processes, at)
        await traffic.wait_for(all_right)
        await _until(at.begun + 43)

        at.stopping = time.monotonic()
        await _restart_gateway(processes)
        await traffic.wait_for(all_right, timeout_s=30.0)
        at.cold = min(
            outcome.ended for outcome in traffic.outcomes if outcome.sent > at.stopping + 1 and not outcome.cause
        )
        await _until(at.begun + LENGTH_S)
    at.ended = time.monotonic()
    return at


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


async def _kill_worker(processes: Processes, at: Moments) -> None:
    """kill -9 one of two workers, and wait until there are two again."""
    victim = processes.workers()[0]
    at.worker_killed = time.monotonic()
    victim.kill()
    await asyncio.to_thread(psutil.wait_procs, [victim], 10)
    at.worker_gone = time.monotonic()
    while len([worker for worker in processes.workers() if worker.pid != victim.pid]) < 2:
        assert time.monotonic() < at.worker_gone + 15, "no worker came in its place"
        await asyncio.sleep(0.05)
    at.worker_back = time.monotonic()


async def _restart_gateway(processes: Processes) -> None:
    """Stop the gateway as an operator would, and start it again while its control plane is dead."""
    gateway = processes.running.pop("gateway")
    gateway.terminate()
    status = await asyncio.to_thread(gateway.wait, 40)
    assert status == 0, f"the gateway stopped with status {status}"
    _start_gateway(processes)


@pytest.mark.timeout(180)
def test_the_road(processes: Processes, models: Versions) -> None:
    """Ten thousand predictions and more at over 200 a second: every failure has its cause, and every answer is right."""
    key = json.loads((processes.home / "context.json").read_text())["key"]
    gateway = f"http://127.0.0.1:{processes.gateway_port}"
    with rw.Client(gateway, key=key, control_url=processes.control_url) as client:
        for package in models.packages:
            client.push(package)
        client.wait(client.deploy("cells:1", "cells"))
        _wait_for(lambda: _answers(f"{gateway}/readyz"), "the gateway")
        caller = client.create_key("predictor", ["cells"])["key"]
        _wait_for(lambda: _may_call(gateway, caller, models.bodies[0]), "the new key")
        traffic = Traffic(processes.gateway_port, caller, models.bodies, models.right)
        at = asyncio.run(_travel(processes, traffic, client))
    _account(traffic, at)


def _may_call(gateway: str, key: str, body: bytes) -> bool:
    """Whether every worker knows the key; a few connections reach them all."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    replies = [
        httpx.post(f"{gateway}/v1/models/cells:predict", content=body, headers=headers, timeout=DEADLINE_S)
        for _ in range(16)
    ]
    return all(reply.status_code == 200 for reply in replies)


def _account(traffic: Traffic, at: Moments) -> None:
    """Every failure belongs to the death of the worker or to the cold restart, and to a cause that belongs to that."""
    good = [outcome for outcome in traffic.outcomes if not outcome.cause]
    failed = [outcome for outcome in traffic.outcomes if outcome.cause]
    by_worker = [outcome for outcome in failed if outcome.sent <= at.worker_gone and outcome.ended >= at.worker_killed]
    by_restart = [outcome for outcome in failed if at.stopping <= outcome.sent <= at.cold]
    unexplained = [outcome for outcome in failed if outcome not in by_worker and outcome not in by_restart]
    elapsed = at.ended - at.begun
    back_s = traffic.last_from("cells:2") - at.rolled_back
    story = (
        f"{len(good)} right answers in {elapsed:.0f} s ({len(good) / elapsed:.0f} a second), "
        f"rolled back in {back_s * 1000:.0f} ms; failures by the worker's death: {causes(by_worker)}, "
        f"by the restart of {at.cold - at.stopping:.1f} s: {causes(by_restart)}, unexplained: {causes(unexplained)}"
    )
    print(story)
    assert len(good) >= 10_000, story
    assert len(good) / elapsed >= 200, story
    assert back_s < 1.0, story
    assert unexplained == [], story
    assert {outcome.cause for outcome in by_worker} <= {BROKEN}, story
    assert len(by_worker) <= CONNECTIONS, story  # each connection holds one request at most
    assert {outcome.cause for outcome in by_restart} <= {REFUSED, BROKEN, NOT_READY}, story
    assert sum(outcome.cause == BROKEN for outcome in by_restart) <= 2 * CONNECTIONS, story
