"""D18: an unread or closed standard error costs log lines, but never a request."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from roadworthy.foundation.sockets import listen
from tests.agent.conftest import RunningAgent
from tests.defaults import control_document
from tests.waiting import DEADLINE_S, NO_TLS, eventually

CALLS = 400
PAGE = 4_096


class Pipe:
    """A named pipe of one page at `folder`/log, the standard error of the processes in these tests."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        os.mkfifo(folder / "log")
        self.reading = os.open(folder / "log", os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(self.reading, fcntl.F_SETPIPE_SZ, PAGE)

    def holds_lines(self) -> bool:
        """Whether anything was written. A process that logs more than `PAGE` bytes is blocked from then on: what it writes next
        may be larger than the rest of the page, so that how much the pipe holds says nothing."""
        return any(fcntl.ioctl(self.reading, 0x541B, b"\0" * 4))  # FIONREAD

    def read(self) -> bytes:
        """The content of the pipe."""
        try:
            return os.read(self.reading, 1 << 20)
        except BlockingIOError:
            return b""


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    """In the test's folder."""
    made = Pipe(tmp_path / "gateway")
    yield made
    if made.reading >= 0:
        os.close(made.reading)


def test_d18_a_worker_whose_log_is_never_read(
    start_worker: Callable[..., Any], make_plan: Any, pipe: Pipe, tmp_path: Path
) -> None:
    """Every request is answered, and when the pipe is read again, the log states the number of lost lines."""
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)])
    worker = start_worker(plan, folder=tmp_path / "gateway", access_log=True).wait_ready()
    eventually(lambda: worker.predict("sum", [[1, 2, 3]]).status_code == 200 and pipe.holds_lines(), "lines are logged")
    body = json.dumps({"instances": [[1, 2, 3]]}).encode()
    name = "x" * 100
    for _ in range(CALLS):
        reply = worker.post("sum", body, x_request_id=name)
        assert reply.json() == {"predictions": [6.0]}
    for path in ("/livez", "/readyz"):
        assert worker.client.get(path).status_code == 200
    assert b'"event":' in eventually(pipe.read, "the pipe is read again")
    reply = worker.post("sum", body, x_request_id="after")
    found = bytearray()

    def is_told() -> bool:
        found.extend(pipe.read())
        return b'"after"' in found

    eventually(is_told, "lines come through again")
    assert worker.stop() == 0


def test_d18_a_worker_whose_log_is_closed(start_worker: Callable[..., Any], make_plan: Any, pipe: Pipe, tmp_path: Path) -> None:
    """It continues to serve, and stops cleanly."""
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1), plan.package(2, "poison")])
    worker = start_worker(plan, folder=tmp_path / "gateway", access_log=True).wait_ready()
    os.close(pipe.reading)
    pipe.reading = -1
    for _ in range(CALLS):
        assert worker.predict("sum", [[1, 2, 3]]).json() == {"predictions": [6.0]}
    answered = {worker.predict("sum", [[13, 2, 3]]).status_code for _ in range(40)}
    assert answered == {200, 500}  # the failed model's traceback cannot be logged either
    assert worker.stop() == 0


def test_d18_an_agent_whose_log_is_never_read(pipe: Pipe, tmp_path: Path) -> None:
    """It logs each bad frame, and continues to answer and to distribute snapshots."""
    agent = RunningAgent(tmp_path / "gateway", log_level="debug")
    try:
        for _ in range(100):
            worker = agent.worker()
            worker.socket.sendall(b"\x01\x00\x00\x00\x02{")  # a report that cannot be read is logged
            assert worker.socket.recv(1) == b""
        eventually(pipe.holds_lines, "lines are logged")
        assert agent.get("/livez")
        assert "roadworthy_worker_starts_total" in agent.metrics()
        agent.worker().hello()
    finally:
        assert agent.stop() == 0


def test_d18_a_control_plane_whose_log_is_never_read(pipe: Pipe, tmp_path: Path) -> None:
    """Requests, each of which it logs, are answered."""
    document = {
        **control_document(tmp_path), "host": "127.0.0.1", "port": 0, "bootstrap_keys": [], "log_level": "debug",
    }  # fmt: skip
    with ExitStack() as stack:
        listener = stack.enter_context(listen("127.0.0.1", 0))
        log = stack.enter_context((tmp_path / "gateway" / "log").open("wb"))
        process = subprocess.Popen(
            [sys.executable, "-m", "roadworthy.control"],
            stdin=subprocess.PIPE,
            stderr=log,
            pass_fds=[listener.fileno()],
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        assert process.stdin is not None
        stack.callback(process.stdin.close)
        process.stdin.write(json.dumps({**document, "fd": listener.fileno()}).encode() + b"\n")
        process.stdin.flush()
        client = stack.enter_context(
            httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=DEADLINE_S, verify=NO_TLS)
        )
        for _ in range(60):
            assert client.get("/readyz", headers={"x-request-id": "x" * 100}).status_code == 200
        assert pipe.holds_lines()
        assert client.get("/api/v1/status").status_code == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0


def test_d18_a_supervisor_whose_log_is_never_read(pipe: Pipe, tmp_path: Path) -> None:
    """It logs each restart of a child, restarts it, and stops cleanly."""
    starts = tmp_path / "starts"
    code = f"open({str(starts)!r}, 'a').write('x')"
    plan = {"name": "dies-" + "x" * PAGE, "argv": [sys.executable, "-c", code], "document": {}, "fds": []}
    program = Path(__file__).parents[1] / "supervisor" / "supervise.py"
    with (tmp_path / "gateway" / "log").open("wb") as log:
        supervisor = subprocess.Popen([sys.executable, str(program), json.dumps([plan]), "", "1", "{}"], stderr=log)
    try:
        eventually(pipe.holds_lines, "lines are logged")
        before = starts.stat().st_size
        eventually(lambda: starts.stat().st_size >= before + 3, "it goes on starting the child")
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(DEADLINE_S) == 0
    finally:
        supervisor.kill()
        supervisor.wait()
