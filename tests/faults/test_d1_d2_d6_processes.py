"""D1, D2, D6: killed processes and occupied ports, with the real command line and its real children."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
import pytest

import roadworthy as rw
from bench.ports import free_ports
from roadworthy.foundation.slab import SlabReader
from roadworthy.foundation.sockets import listen
from tests.machine import run_command, start_command
from tests.waiting import DEADLINE_S, eventually

CALLERS = 8
PAUSE_S = 0.01
"""Pause between two requests of a caller in seconds, once a worker starts: callers leave it CPU time."""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A package that carries code: its file and digest."""

    def double(x: Any) -> Any:
        return np.asarray(x)[:, 0] * 2.0

    folder = tmp_path_factory.mktemp("dist")
    package = rw.pack(double, name="double", inputs=np.arange(20.0).reshape(10, 2), out=folder, compile=False)
    return next(folder.glob("*.rw")), package.digest


class NotReady(Exception):
    """A worker accepted a request before it had loaded the version for it."""


class Served:
    """`roadworthy serve` as a process, with a home folder that outlives it. `cold`: each of its processes imports its modules."""

    def __init__(self, packed: tuple[Path, str], home: Path, port: int = 0, *, cold: bool = False) -> None:
        self._log = (home / "err").open("ab")
        options = ["--port", str(port), "--metrics-port", "0", "--workers", "2", "--no-auth", "--allow-code", packed[1]]
        self.process, self._stdout = start_command(
            ["serve", str(packed[0]), *options, "--home", str(home)], stderr=self._log, env=os.environ, cold=cold
        )
        ports: dict[str, int] = {}
        while len(ports) < 2:
            line = self._stdout.readline()
            assert line, (home / "err").read_text()
            if found := re.match(r"(url|metrics) +http://127\.0\.0\.1:(\d+)", line):
                ports[found[1]] = int(found[2])
        self.port, self.metrics_port = ports["url"], ports["metrics"]

    def children(self, module: str = "") -> list[int]:
        """The supervisor's children that run a module whose name contains `module`."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if module in " ".join(child.cmdline()):
                    found.append(child.pid)
        return found

    def predict(self, number: float) -> float:
        """Make a call on a new connection; raises OSError or HTTPException when it fails."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        with contextlib.closing(connection):
            body = json.dumps({"instances": [[number, 0.0]]})
            connection.request("POST", "/v1/models/double:predict", body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            document = json.loads(reply.read())
            if reply.status == 503 and document["code"] == "endpoint-not-ready":
                raise NotReady
            assert reply.status == 200, document
            return float(document["predictions"][0])

    def metric(self, name: str) -> float:
        """The sum of a metric's samples; -1 without an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=DEADLINE_S)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException):
            return -1.0
        finally:
            connection.close()
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if re.match(rf"{name}[{{ ]", line))

    def close(self) -> None:
        """End the process and close its pipes."""
        self.process.kill()
        self.process.wait()
        self._stdout.close()
        self._log.close()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and wait for the end."""
        children = self.children() if self.process.poll() is None else []
        self.process.send_signal(number)
        try:
            return self.process.wait(DEADLINE_S)
        finally:
            self.close()
            for pid in children:
                eventually(lambda pid=pid: not psutil.pid_exists(pid), "no process is left")


@pytest.fixture
def serve(packed: tuple[Path, str], tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts `roadworthy serve` over the test's home."""
    running: list[Served] = []

    def start(**options: Any) -> Served:
        running.append(Served(packed, tmp_path, **options))
        return running[-1]

    yield start
    for served in running:
        if served.process.poll() is None:
            served.stop()
        served.close()


class Load:
    """Callers that never retry; counts failures, and fails on any wrong answer."""

    def __init__(self, served: Served) -> None:
        self.right, self.failed, self.too_early, self.wrong = 0, 0, 0, []
        self.pause_s = 0.0
        self._served, self._stop, self._lock = served, threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(CALLERS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        while not self._stop.wait(self.pause_s):
            number += CALLERS
            try:
                answer = self._served.predict(float(number))
            except (OSError, http.client.HTTPException):
                with self._lock:
                    self.failed += 1
                continue
            except NotReady:
                with self._lock:
                    self.too_early += 1
                continue
            except AssertionError as error:
                self.wrong.append(str(error))
                continue
            with self._lock:
                self.right += 1
            if answer != number * 2.0:
                self.wrong.append(f"{number} gave {answer}")


def kill_a_worker(served: Served) -> Load:
    """Traffic during and long after kill -9 of one of the two workers and its replacement."""
    first = served.children("gateway.worker")
    assert len(first) == 2
    with Load(served) as load:
        eventually(lambda: load.right >= 100, "traffic flows")
        os.kill(first[0], signal.SIGKILL)
        load.pause_s = PAUSE_S
        eventually(lambda: len(set(served.children("gateway.worker")) - set(first)) == 1, "a new worker is there")
        eventually(lambda: served.metric("roadworthy_worker_restarts_total") == 1, "the new worker took the slot")
        reached = load.right
        eventually(lambda: load.right >= reached + 500, "traffic goes on")
    return load


@pytest.fixture(scope="module")
def survivor(packed: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Load]]:
    """A server after the death of a worker, and the traffic of that time."""
    served = Served(packed, tmp_path_factory.mktemp("home"))
    try:
        yield served, kill_a_worker(served)
        assert served.stop() == 0
    finally:
        served.close()


def test_d1_kill_9_of_a_worker_under_load(survivor: tuple[Served, Load]) -> None:
    """At most the requests in that worker fail, every answer is right, a new worker takes its slot, and everything is counted."""
    served, load = survivor
    assert load.wrong == []
    assert load.failed <= CALLERS
    assert served.metric("roadworthy_requests_lost_total") <= load.failed
    # Answers stay counted after the death of the worker that gave them.
    assert served.metric("roadworthy_requests_total") >= load.right
    assert served.metric("roadworthy_requests_in_flight") == 0
    assert served.predict(21.0) == 42.0


def test_d1_a_replacement_takes_no_request_that_it_cannot_answer(survivor: tuple[Served, Load]) -> None:
    """While another worker is ready, no request gets a 503 from the one that is still loading."""
    _, load = survivor
    assert load.too_early == 0


def test_d2_kill_9_of_the_main_process(serve: Callable[..., Served]) -> None:
    """The children are gone and the ports free; the same command serves the same answers again."""
    served = serve(port=free_ports(1)[0], cold=True)
    assert served.predict(1.0) == 2.0
    children = served.children()
    assert len(children) == 4  # two workers, the agent, and the runner of the package with code
    os.kill(served.process.pid, signal.SIGKILL)
    eventually(lambda: not any(map(psutil.pid_exists, children)), "the children are gone")
    listen("127.0.0.1", served.port).close()
    again = serve(port=served.port, cold=True)
    assert again.port == served.port
    assert again.predict(2.0) == 4.0
    assert again.stop() == 0


def test_g10_the_run_folder_is_deleted_while_it_serves(serve: Callable[..., Served], tmp_path: Path) -> None:
    """Workers and agents that are killed afterwards find each other and their counts again."""
    served = serve()
    assert served.predict(1.0) == 2.0
    eventually(lambda: served.metric("roadworthy_worker_up") == 2, "both workers are there")
    (slab,) = tmp_path.rglob("run/slab")
    shutil.rmtree(slab.parent)
    eventually(lambda: (slab.parent / "agent.sock").exists() and slab.exists(), "both are there again")
    reader = SlabReader(slab)

    def kill(slot: int, what: str) -> None:
        before = reader.status(slot)
        os.kill(before.pid, signal.SIGKILL)
        eventually(
            lambda: (now := reader.status(slot)).starts > before.starts and now.state == "READY",
            f"{what} has taken the slot, seen last: {reader.status(slot)}",
        )

    kill(0, "a new worker")
    kill(reader.slots - 1, "a new agent")
    reader.close()
    eventually(lambda: served.metric("roadworthy_worker_up") == 2, "it counts both workers")
    eventually(lambda: right(served, 21.0), "it answers, by a runner that was replaced as well")
    assert served.stop() == 0


def right(served: Served, number: float) -> bool:
    """Whether it gives the right answer."""
    try:
        return served.predict(number) == 2.0 * number
    except (AssertionError, NotReady):
        return False


@pytest.mark.parametrize("option", ["--port", "--metrics-port"])
def test_d6_a_taken_port_of_serve(packed: tuple[Path, str], tmp_path: Path, option: str) -> None:
    """The message names the port and what to change; nothing was started."""
    refused(
        ["serve", str(packed[0]), "--no-auth", "--allow-code", packed[1]],
        ("--port", "--metrics-port"),
        option,
        tmp_path,
    )


@pytest.mark.parametrize("option", ["--port", "--control-port", "--metrics-port"])
def test_d6_a_taken_port_of_up(tmp_path: Path, option: str) -> None:
    """For each of the three ports: no partial start, and no key or database is left behind."""
    refused(["up"], ("--port", "--control-port", "--metrics-port"), option, tmp_path)
    assert not (tmp_path / "context.json").exists()
    assert not (tmp_path / "control" / "roadworthy.db").exists()


def refused(arguments: list[str], options: tuple[str, ...], taken: str, home: Path) -> None:
    """Run a command with one port occupied and the others free; it must end by itself with the exact reason."""
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        ports = [text for option in options for text in (option, str(port if option == taken else 0))]
        result = run_command([*arguments, *ports, "--home", str(home)], cwd=home, env=os.environ)
        assert result.returncode != 0
        told = " ".join((result.stdout + result.stderr).split())
        assert f"port {port} on 127.0.0.1 is taken by another process" in told
        assert f"choose another {taken}" in told
        assert "Traceback" not in told
    assert not list(home.rglob("agent.sock"))
    assert not list(home.rglob("slab"))
