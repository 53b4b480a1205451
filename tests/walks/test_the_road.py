"""The whole road on real processes: predictions during every planned disturbance of control plane and gateway.

A control plane and a gateway run as the commands that people use, each with its own process tree. Sixteen keep-alive connections
ask and never repeat a request. Meanwhile a second version is deployed and rolled back, the control plane is
killed for good, a worker is killed, and the gateway is restarted cold. Every reply is checked against the model of the version
that it names, and every failure must have its cause. `make bench-road` measures the same for longer.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

import roadworthy as rw
from bench.load.traffic import BROKEN, CONNECTIONS, REFUSED, Traffic, all_right, causes, only
from bench.ports import free_ports
from bench.versions import Versions, two_versions
from tests.waiting import DEADLINE_S, NO_TLS, eventually, soon

ANSWERS = 400
"""Right answers between two events."""
COMMAND = str(Path(sys.executable).with_name("roadworthy"))
NOT_READY = "503 endpoint-not-ready"
"""A gateway that was just started says that it is still loading."""
STOPPING = "503 stopping"
"""One that stops answers the connections that wait in its queue with that."""


class Processes:
    """The process trees of the control plane and the gateway, started by commands in separate home folders."""

    def __init__(self, home: Path, ports: list[int]) -> None:
        self.home = home
        self.gateway_port, self.control_port, self.metrics_port = ports
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def control_url(self) -> str:
        return f"http://127.0.0.1:{self.control_port}"

    def start(self, name: str, *arguments: str, **environment: str) -> None:
        """Start a command as the leader of its own process group; its output goes to a file next to the home folder."""
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
        """Stop all processes."""
        for name in list(self.running):
            with suppress(ProcessLookupError):
                self.kill_tree(name)


@dataclass
class Moments:
    """Times of events, in seconds of the monotonic clock."""

    deployed: float = 0.0
    returning: float = 0.0
    rolled_back: float = 0.0
    worker_killed: float = 0.0
    worker_gone: float = 0.0
    stopping: float = 0.0
    cold: float = 0.0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Versions:
    """Two versions that differ in every answer."""
    return two_versions(tmp_path_factory.mktemp("dist"))


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """A control plane and a gateway with two workers, ready."""
    home = tmp_path / "home"
    started = Processes(home, free_ports(3))
    try:
        started.start("control", "control", "--port", str(started.control_port))
        eventually(lambda: _answers(f"{started.control_url}/readyz"), "the control plane is ready")
        _start_gateway(started)
        yield started
    finally:
        started.end()


def _start_gateway(processes: Processes) -> None:
    ports = ["--port", str(processes.gateway_port), "--metrics-port", str(processes.metrics_port)]
    processes.start("gateway", "gateway", *ports, "--workers", "2", "--control-url", processes.control_url)


def _answers(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(url, timeout=DEADLINE_S, verify=NO_TLS).status_code == 200
    return False


async def _travel(processes: Processes, traffic: Traffic, client: rw.Client) -> Moments:
    """Everything that happens while predictions are asked."""
    at = Moments()
    async with traffic.running():
        await traffic.wait_for(only("cells:1"), DEADLINE_S)
        await _go_on(traffic)

        await asyncio.to_thread(lambda: client.wait(client.deploy("cells:2", "cells"), timeout_s=DEADLINE_S))
        at.deployed = time.monotonic()
        await _go_on(traffic)

        at.returning = time.monotonic()
        await asyncio.to_thread(lambda: client.wait(client.rollback("cells"), timeout_s=DEADLINE_S))
        at.rolled_back = time.monotonic()
        await _go_on(traffic)

        processes.kill_tree("control")
        await _go_on(traffic)

        await _kill_worker(processes, at)
        await traffic.wait_for(all_right, DEADLINE_S)
        await _go_on(traffic)

        at.stopping = time.monotonic()
        restarted = await _restart_gateway(processes)
        await traffic.wait_for(all_right, DEADLINE_S)
        at.cold = min(each.ended for each in traffic.outcomes if each.sent > restarted and not each.cause)
        await _go_on(traffic)
    return at


async def _go_on(traffic: Traffic) -> None:
    """Wait for ANSWERS more."""
    before = len(traffic.outcomes)
    await soon(lambda: len(traffic.outcomes) >= before + ANSWERS, "requests are answered")


async def _kill_worker(processes: Processes, at: Moments) -> None:
    """kill -9 one of two workers, and wait until there are two again."""
    victim = processes.workers()[0]
    at.worker_killed = time.monotonic()
    victim.kill()
    await asyncio.to_thread(psutil.wait_procs, [victim], DEADLINE_S)
    at.worker_gone = time.monotonic()
    await soon(lambda: len([each for each in processes.workers() if each.pid != victim.pid]) == 2, "there are two again")


async def _restart_gateway(processes: Processes) -> float:
    """Stop the gateway as an operator would, and start it again while its control plane is dead; when that was."""
    gateway = processes.running.pop("gateway")
    gateway.terminate()
    status = await asyncio.to_thread(gateway.wait, DEADLINE_S)
    assert status == 0, f"the gateway stopped with status {status}"
    restarted = time.monotonic()
    _start_gateway(processes)
    return restarted


def test_the_road(processes: Processes, models: Versions) -> None:
    """Thousands of predictions: every failure has its cause, and every answer is correct."""
    key = json.loads((processes.home / "context.json").read_text())["key"]
    gateway = f"http://127.0.0.1:{processes.gateway_port}"
    with rw.Client(gateway, key=key, control_url=processes.control_url) as client:
        for package in models.packages:
            client.push(package)
        client.wait(client.deploy("cells:1", "cells"), timeout_s=DEADLINE_S)
        eventually(lambda: _answers(f"{gateway}/readyz"), "the gateway is ready")
        caller = client.create_key("predictor", ["cells"]).key
        eventually(lambda: _may_call(gateway, caller, models.bodies[0]), "the new key")
        traffic = Traffic(processes.gateway_port, caller, models.bodies, models.right)
        at = asyncio.run(_travel(processes, traffic, client))
    _account(traffic, at)


def _may_call(gateway: str, key: str, body: bytes) -> bool:
    """Whether every worker knows the key; a few connections reach them all."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    replies = [
        httpx.post(f"{gateway}/v1/models/cells:predict", content=body, headers=headers, timeout=DEADLINE_S, verify=NO_TLS)
        for _ in range(16)
    ]
    return all(reply.status_code == 200 for reply in replies)


def _account(traffic: Traffic, at: Moments) -> None:
    """The killed worker or the cold restart explains every failure and its cause."""
    good = [outcome for outcome in traffic.outcomes if not outcome.cause]
    failed = [outcome for outcome in traffic.outcomes if outcome.cause]
    by_worker = [outcome for outcome in failed if outcome.sent <= at.worker_gone and outcome.ended >= at.worker_killed]
    by_restart = [outcome for outcome in failed if at.stopping <= outcome.sent <= at.cold]
    # The worker that is ready later holds connections from before the other one was; each ends with its next answer.
    late = [outcome for outcome in failed if outcome.sent > at.cold and outcome.cause == NOT_READY]
    unexplained = [outcome for outcome in failed if outcome not in [*by_worker, *by_restart, *late]]
    story = (
        f"{len(good)} right answers; failures by the worker's death: {causes(by_worker)}, by the restart: "
        f"{causes(by_restart)}, then: {causes(late)}, unexplained: {causes(unexplained)}"
    )
    print(story)
    assert len(good) >= 5 * ANSWERS, story
    assert unexplained == [], story
    assert {outcome.cause for outcome in by_worker} <= {BROKEN}, story
    assert len(by_worker) <= CONNECTIONS, story  # each connection holds one request at most
    assert {outcome.cause for outcome in by_restart} <= {REFUSED, BROKEN, NOT_READY, STOPPING}, story
    assert sum(outcome.cause == BROKEN for outcome in by_restart) <= 2 * CONNECTIONS, story
    assert len(late) <= 2 * CONNECTIONS, story
    # When a switch is over, no answer to a later request comes from the previous version.
    between = [outcome for outcome in good if at.deployed < outcome.sent and outcome.ended < at.returning]
    assert {outcome.version for outcome in between} == {"cells:2"}, story
    assert {outcome.version for outcome in good if outcome.sent > at.rolled_back} == {"cells:1"}, story
