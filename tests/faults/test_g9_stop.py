"""G9: a request to a stopping gateway is answered or refused; no connection is reset, silent, or closed without an answer."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.redteam.callers import REFUSED, Question, outcomes, start_callers
from roadworthy.cli.commands.machine import _exists
from roadworthy.foundation.sockets import listen
from roadworthy.supervisor.listener import SharedListener
from tests.faults.served import Served, pack_sum
from tests.waiting import DEADLINE_S, eventually

ROUNDS = 3
"""Number of stops; configurable in `make redteam`."""
CALLERS = 12
BODY = json.dumps({"instances": [[1, 2]]})


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package."""
    return pack_sum(tmp_path_factory.mktemp("dist"))


def test_g9_a_stop_resets_no_connection(packed: Path, tmp_path: Path) -> None:
    """SIGTERM under twelve callers; each continues until it is refused."""
    for _ in range(ROUNDS):
        served = Served(packed, tmp_path)
        callers = start_callers(Question(served.port, "/v1/models/sum:predict", BODY), CALLERS)
        eventually(lambda callers=callers: all(caller.outcomes["200"] > 20 for caller in callers), "all are answered")
        assert served.stop() == 0
        assert set(outcomes(callers)) <= {"200", "stopping", REFUSED}


def test_g9_a_stop_does_not_wait_until_a_parent_reaps() -> None:
    """An ended supervisor is gone, although its parent, the first process of a container, may never reap it."""
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not _exists(child.pid)
    assert child.wait() == 0
    assert _exists(os.getpid())


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A listening socket from which no process accepts."""
    with listen("127.0.0.1", 0) as bound:
        yield bound


def test_g9_connections_in_the_backlog_are_answered(listener: socket.socket) -> None:
    """Although no child accepts them; a connection without a request is closed, and later connections are refused."""
    port = listener.getsockname()[1]
    waiting = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    waiting.request("POST", "/", b"x" * 100_000)
    silent = socket.create_connection(("127.0.0.1", port))
    door = SharedListener(listener, 0.0)
    door.begin()
    door.finish()
    listener.close()
    reply = waiting.getresponse()
    assert (reply.status, reply.getheader("connection"), json.loads(reply.read())["code"]) == (503, "close", "stopping")
    assert silent.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    waiting.close()
    silent.close()


def test_g9_until_the_delay_is_over_children_take_connections(listener: socket.socket) -> None:
    """Load balancers need that time to notice; meanwhile the binding process leaves connections to its children."""
    door = SharedListener(listener, DEADLINE_S)
    door.begin()
    door.look()
    with socket.create_connection(listener.getsockname()) as client:
        door.look()
        taken, _ = listener.accept()
        taken.sendall(b"x")
        assert client.recv(1) == b"x"
        taken.close()
