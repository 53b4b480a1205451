"""G9: whoever asks while a gateway stops is answered or refused; nobody meets a reset, a silence, or an end without an answer."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from roadworthy.foundation.sockets import listen
from roadworthy.supervisor.door import Door
from tests.faults.served import Served, pack_sum
from tests.waiting import DEADLINE_S, eventually

ROUNDS = 3
"""The red team's script has fifty."""
CALLERS = 12
BODY = json.dumps({"instances": [[1, 2]]})
HEADERS = {"Content-Type": "application/json"}


class Caller(threading.Thread):
    """Asks until it is refused, on one connection as long as that lasts, or on a new one each time. Never tries again."""

    def __init__(self, port: int, *, keeps: bool) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._keeps = keeps
        self.outcomes: Counter[str] = Counter()

    def run(self) -> None:
        """Until nobody listens."""
        connection: http.client.HTTPConnection | None = None
        while True:
            try:
                if connection is None:
                    connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=DEADLINE_S)
                    connection.connect()
            except ConnectionRefusedError:
                return
            try:
                connection.request("POST", "/v1/models/sum:predict", BODY, HEADERS)
                reply = connection.getresponse()
                body = json.loads(reply.read())
                self.outcomes[str(body.get("code") or reply.status)] += 1
                ends = reply.will_close or not self._keeps
            except (OSError, http.client.HTTPException) as error:
                self.outcomes[repr(error)] += 1
                ends = True
            if ends:
                connection.close()
                connection = None


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package."""
    return pack_sum(tmp_path_factory.mktemp("dist"))


def test_g9_a_stop_resets_nobody(packed: Path, tmp_path: Path) -> None:
    """SIGTERM under twelve callers; each goes on until it is refused."""
    for _ in range(ROUNDS):
        served = Served(packed, tmp_path)
        callers = [Caller(served.port, keeps=bool(number % 2)) for number in range(CALLERS)]
        for caller in callers:
            caller.start()
        eventually(lambda callers=callers: all(caller.outcomes["200"] > 20 for caller in callers), "all are answered")
        assert served.stop() == 0
        for caller in callers:
            caller.join(DEADLINE_S)
            assert not caller.is_alive()
        assert set().union(*(caller.outcomes for caller in callers)) <= {"200", "stopping"}


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket from which nobody accepts."""
    with listen("127.0.0.1", 0) as bound:
        yield bound


def test_g9_who_waits_in_the_queue_is_answered(listener: socket.socket) -> None:
    """Though no child ever accepts it; who asks nothing is closed, and who comes later is refused."""
    port = listener.getsockname()[1]
    waiting = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    waiting.request("POST", "/", b"x" * 100_000)
    silent = socket.create_connection(("127.0.0.1", port))
    door = Door(listener, 0.0)
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
    """Load balancers need that long to notice; the process that bound the socket leaves them to its children."""
    door = Door(listener, DEADLINE_S)
    door.begin()
    door.look()
    with socket.create_connection(listener.getsockname()) as client:
        door.look()
        taken, _ = listener.accept()
        taken.sendall(b"x")
        assert client.recv(1) == b"x"
        taken.close()
