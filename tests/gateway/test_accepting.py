"""Which of a machine's workers accepts connections from their shared socket, while some are ready and others are not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from roadworthy.cli.plans import worker_options
from roadworthy.contract.snapshot import encode_snapshot
from roadworthy.foundation.slab import SlabReader, create_slab
from roadworthy.foundation.sockets import listen
from tests.conftest import PLANTED_WORKER, Plan
from tests.defaults import default_settings
from tests.waiting import DEADLINE_S, NO_TLS, eventually

TRIES = 40
"""New connections, each with one request: enough that both workers would get some if both accepted."""


class Machine:
    """Two slots for workers that accept from one socket. Each loads its package when the test lets it, and then a `further` one
    where a test wants one of that kind."""

    def __init__(self, folder: Path, further: str | None = None) -> None:
        self.folder = folder
        self.slab = folder / "run" / "slab"
        create_slab(self.slab, 3)
        self.reader = SlabReader(self.slab)
        self.listener = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.workers: list[subprocess.Popen[bytes]] = []
        self.plan = Plan()
        self.plan.endpoint("e", [self.plan.package(1, "held")])
        if further is not None:
            self.plan.endpoint("further", [self.plan.package(2, further)])
        (folder / "packages").mkdir()
        for package in self.plan.packages:
            (folder / "packages" / package.digest[7:]).touch()
        (folder / "snapshot.json").write_bytes(encode_snapshot(self.plan.snapshot()))
        for slot in (0, 1):
            os.mkfifo(folder / f"held-{slot}")
            os.mkfifo(folder / f"held-too-{slot}")

    def start(self, slot: int, **options: float) -> subprocess.Popen[bytes]:
        """Start a worker; it waits with its package in hand."""
        document = {
            **worker_options(default_settings()),
            "folder": str(self.folder), "fd": self.listener.fileno(), "slot": slot, "slab": str(self.slab),
            "models": self.plan.models, "keep_alive_s": 10 * DEADLINE_S, "header_timeout_s": 10 * DEADLINE_S,
            **options,
        }  # fmt: skip
        worker = subprocess.Popen([sys.executable, str(PLANTED_WORKER)], stdin=subprocess.PIPE, pass_fds=[self.listener.fileno()])
        assert worker.stdin is not None
        worker.stdin.write(json.dumps(document).encode() + b"\n")
        worker.stdin.flush()
        self.workers.append(worker)
        return worker

    def release(self, slot: int, kind: str = "held") -> None:
        """Let a worker load its package; returns when it has begun."""
        (self.folder / f"{kind}-{slot}").write_bytes(b"")

    def state(self, slot: int) -> str:
        return self.reader.status(slot).state

    def ask(self, path: str = "/v1/models/e:predict") -> httpx.Response:
        """One request on a connection of its own."""
        with httpx.Client(base_url=self.url, timeout=DEADLINE_S, verify=NO_TLS) as client:
            return client.get(path) if path.endswith("z") else client.post(path, json={"instances": [[1, 2, 3]]})

    def end(self) -> None:
        """Leave nothing running."""
        for worker in self.workers:
            worker.kill()
            worker.wait()
            assert worker.stdin is not None
            worker.stdin.close()
        self.listener.close()
        self.reader.close()


@pytest.fixture
def machine(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine without a running worker; a parameter is the kind of a further package."""
    made = Machine(tmp_path, getattr(request, "param", None))
    yield made
    made.end()


def _not_ready(reply: httpx.Response) -> bool:
    return (reply.status_code, reply.json().get("code")) == (503, "endpoint-not-ready")


def _codes(machine: Machine) -> set[int]:
    return {machine.ask().status_code for _ in range(TRIES)}


def test_only_the_ready_worker_takes_connections(machine: Machine) -> None:
    """While neither is ready, both answer probes; then only the ready one accepts, until the other is ready too."""
    machine.start(0)
    machine.start(1)
    eventually(lambda: {machine.state(0), machine.state(1)} == {"STARTING"}, "both have begun")
    first = eventually(lambda: machine.ask("/livez"), "a worker answers")
    assert first.status_code == 200
    probe = machine.ask("/readyz")
    assert (probe.status_code, probe.json()["reason"]) == (503, "loading")
    refusal = machine.ask()
    assert _not_ready(refusal)
    assert int(refusal.headers["retry-after"]) >= 1
    machine.release(1)
    eventually(lambda: machine.state(1) == "READY", "a worker is ready")
    assert _codes(machine) == {200}
    assert machine.state(0) == "STARTING"
    assert {machine.ask("/readyz").status_code for _ in range(TRIES)} == {200}
    machine.release(0)
    eventually(lambda: machine.state(0) == "READY", "the other is ready")
    machine.workers[1].kill()
    machine.workers[1].wait()
    assert _codes(machine) == {200}


@pytest.mark.parametrize("machine", ["held-too"], indirect=True)
@pytest.mark.parametrize("first", [0, 1])
def test_g9_what_one_loading_worker_answers_no_other_refuses(machine: Machine, first: int) -> None:
    """Neither is ready: the worker that accepts connections has loaded the first of two packages, the other nothing."""
    machine.start(first)
    eventually(lambda: machine.ask("/livez"), "it takes connections")
    machine.start(1 - first)
    eventually(lambda: machine.state(1 - first) == "STARTING", "the other has begun")
    machine.release(first)
    eventually(lambda: machine.ask().status_code == 200, "the first package is loaded")
    assert _codes(machine) == {200}
    assert machine.ask("/readyz").status_code == 503
    machine.release(1 - first)
    machine.release(1 - first, "held-too")
    eventually(lambda: machine.state(1 - first) == "READY", "the other has loaded all")
    assert _codes(machine) == {200}
    assert machine.ask("/readyz").status_code == 200


@pytest.mark.parametrize("machine", ["refused"], indirect=True)
def test_g9_workers_with_a_version_that_cannot_be_loaded_share_the_load(machine: Machine) -> None:
    """Neither will ever be ready; each accepts connections once it has nothing left to load."""
    for slot in (0, 1):
        machine.start(slot)
        machine.release(slot)
    for slot in (0, 1):
        other = machine.workers[1 - slot]
        eventually(lambda: machine.ask().status_code == 200, "it is loaded")
        other.send_signal(signal.SIGSTOP)
        eventually(lambda: machine.ask().status_code == 200, "the worker takes connections without the other")
        other.send_signal(signal.SIGCONT)
    assert machine.ask("/readyz").json()["reason"] == "failed"


def test_a_connection_of_a_worker_that_is_not_ready_ends_with_its_next_answer(machine: Machine) -> None:
    """It was made while no worker was ready. Its client is refused at most once again, then reaches the ready worker."""
    machine.start(0)
    forever = httpx.Limits(keepalive_expiry=None)
    with httpx.Client(base_url=machine.url, timeout=DEADLINE_S, verify=NO_TLS, limits=forever) as client:
        kept = eventually(lambda: client.get("/livez"), "the worker answers")
        assert "connection" not in kept.headers
        machine.start(1)
        machine.release(1)
        eventually(lambda: machine.state(1) == "READY", "the other is ready")
        assert _codes(machine) == {200}
        last = client.post("/v1/models/e:predict", json={"instances": [[1, 2, 3]]})
        assert _not_ready(last)
        assert last.headers["connection"] == "close"
        assert client.post("/v1/models/e:predict", json={"instances": [[1, 2, 3]]}).json() == {"predictions": [6.0]}


def test_a_worker_that_is_not_ready_takes_over_from_a_ready_one_that_dies(machine: Machine) -> None:
    """It answers probes, and refuses predictions."""
    machine.start(0)
    machine.start(1)
    machine.release(0)
    eventually(lambda: machine.state(0) == "READY", "a worker is ready")
    assert _codes(machine) == {200}
    machine.workers[0].kill()
    machine.workers[0].wait()
    assert _not_ready(machine.ask())
    assert machine.ask("/livez").status_code == 200


def test_a_worker_leaves_connections_to_others_until_its_first_snapshot_is_loaded(
    machine: Machine, planted_agent: Callable[[Path], Any]
) -> None:
    """On a new machine the gateway's disk is empty: a worker is ready until a snapshot brings packages."""
    (machine.folder / "snapshot.json").unlink()
    agent = planted_agent(machine.folder)
    machine.start(0)
    eventually(lambda: machine.state(0) == "READY", "it has nothing to load")
    assert agent.last().slot == 0
    (machine.folder / "snapshot.json").write_bytes(encode_snapshot(machine.plan.snapshot()))
    machine.start(1)
    machine.release(1)
    eventually(lambda: machine.state(1) == "READY", "the other is ready")
    agent.offer(machine.plan.snapshot())
    eventually(lambda: machine.state(0) == "STARTING", "it has something to load")
    eventually(lambda: _codes(machine) == {200}, "it leaves connections to the other")
    machine.release(0)
    eventually(lambda: machine.state(0) == "READY", "it has loaded it")


def test_c9_a_worker_that_is_not_ready_leaves_connections_to_one_that_drains(machine: Machine) -> None:
    """Until that one has gone."""
    machine.start(0, drain_delay_s=10 * DEADLINE_S, grace_s=10 * DEADLINE_S)
    machine.start(1)
    machine.release(0)
    eventually(lambda: machine.state(0) == "READY", "a worker is ready")
    assert _codes(machine) == {200}
    machine.workers[0].send_signal(signal.SIGTERM)
    eventually(lambda: machine.state(0) == "DRAINING", "it drains")
    assert _codes(machine) == {200}
    assert machine.state(1) == "STARTING"
    machine.workers[0].send_signal(signal.SIGTERM)
    assert machine.workers[0].wait(DEADLINE_S) == 0
    assert _not_ready(machine.ask())


@pytest.mark.parametrize("held", [0, 1])
def test_a_worker_that_is_not_ready_stops_in_order(machine: Machine, held: int) -> None:
    """Next to a ready worker, and alone."""
    worker = machine.start(held)
    eventually(lambda: machine.ask("/livez"), "it answers")
    if held:
        machine.start(0)
        machine.release(0)
        eventually(lambda: machine.state(0) == "READY", "the other is ready")
    assert machine.state(held) == "STARTING"
    worker.send_signal(signal.SIGTERM)
    eventually(lambda: machine.state(held) in ("CLOSING", "STOPPED"), "it stops")
    machine.release(held)
    assert worker.wait(DEADLINE_S) == 0
