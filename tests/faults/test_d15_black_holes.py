"""D15: a control plane that accepts connections and never answers, or sends a byte from time to time. Serving continues from
disk, every call of the agent ends in bounded time, and everything recovers when the control plane does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from roadworthy.agent.sync import control
from roadworthy.agent.sync.control import ControlLink
from roadworthy.contract.snapshot import Snapshot, encode_snapshot
from tests.agent.conftest import GATEWAY_KEY, FakeControl, RunningAgent
from tests.waiting import eventually

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n"


class BlackHole:
    """A listener that treats connections according to `behave`: "deaf" never accepts, "mute" reads and sends nothing, "trickle"
    sends a byte from time to time, "cut" closes in the middle of an answer."""

    def __init__(self, behave: str) -> None:
        self.behave = behave
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(1 if behave == "deaf" else 64)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.taken = 0
        self._open: list[socket.socket] = []
        self._over = threading.Event()
        if behave == "deaf":
            for _ in range(3):  # fills the backlog: further connections are not even established
                end = socket.socket()
                end.setblocking(False)
                end.connect_ex(("127.0.0.1", self.port))
                self._open.append(end)
        else:
            threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.taken += 1
                self._open.append(connection)
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.recv(65_536)
            if self.behave == "trickle":
                connection.sendall(HEAD)
                while not self._over.wait(0.02):
                    connection.sendall(b"x")
            elif self.behave == "cut":
                connection.sendall(HEAD + b"x" * 100)
                connection.close()

    def close(self) -> None:
        """Gone."""
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()


@pytest.fixture
def black_hole() -> Iterator[Callable[[str], BlackHole]]:
    """Starts black holes."""
    made: list[BlackHole] = []

    def make(behave: str) -> BlackHole:
        made.append(BlackHole(behave))
        return made[-1]

    yield make
    for each in made:
        each.close()


CALLS: dict[str, Callable[[ControlLink, Path], Any]] = {
    "snapshot": lambda link, _: link.snapshot(None, 0),
    "download": lambda link, path: link.download_package("sha256:" + "a" * 64, path, 1_000),
    "records": lambda link, _: link.put_records("f.parquet", b"x"),
    "telemetry": lambda link, _: link.post_telemetry(b"{}"),
}


@pytest.mark.parametrize("behave", ["trickle", "cut"])
@pytest.mark.parametrize("call", list(CALLS))
def test_d15_every_call_ends(black_hole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behave: str, call: str) -> None:
    """Even on an active connection, with an error that the agent retries."""
    monkeypatch.setattr(control, "_CALL_S", 0.4)

    async def ask() -> None:
        link = ControlLink(black_hole(behave).url, "k", "g")
        with pytest.raises(httpx.HTTPError):
            await CALLS[call](link, tmp_path / "file")
        await link.close()

    asyncio.run(ask())


@pytest.mark.parametrize("behave", ["mute", "trickle", "deaf"])
def test_d15_serving_goes_on_from_disk(
    black_hole: Any, start_worker: Callable[..., Any], make_plan: Any, tmp_path: Path, behave: str
) -> None:
    """Agent and worker start with the snapshot on disk, answer and keep records; the agent reports that the control plane is
    away, and stops cleanly."""
    hole = black_hole(behave)
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)])
    (tmp_path / "packages" / plan.packages[0].digest[7:]).mkdir(parents=True)
    (tmp_path / "packages" / plan.packages[0].digest[7:] / "manifest.json").write_text("{}")
    (tmp_path / "snapshot.json").write_bytes(encode_snapshot(plan.snapshot()))
    agent = RunningAgent(tmp_path, control_url=hole.url, key=GATEWAY_KEY)
    try:
        worker = agent.worker()
        worker.hello()
        assert worker.snapshot() == plan.snapshot()
        for _ in range(20):
            assert agent.get("/livez")
        assert agent.metrics()["roadworthy_control_up"] == 0
        if behave != "deaf":
            eventually(lambda: hole.taken >= 2, "it asks for the snapshot and reports")
    finally:
        assert agent.stop() == 0


def test_d15_all_is_well_when_the_other_side_is(black_hole: Any, tmp_path: Path) -> None:
    """After a broken connection, the next poll reaches the control plane again."""
    hole = black_hole("cut")
    agent = RunningAgent(tmp_path, control_url=hole.url, key=GATEWAY_KEY)
    try:
        worker = agent.worker()
        worker.hello()
        eventually(lambda: hole.taken >= 3, "it tries again")
        port = hole.port
        hole.close()
        fake_control = eventually(lambda: _stand_in(port), "the port is free")
        try:
            fake_control.offer(Snapshot("e", 3))
            assert worker.snapshot().revision == 3
            eventually(lambda: fake_control.frames, "it reports")
            assert agent.metrics()["roadworthy_control_up"] == 1
        finally:
            assert agent.stop() == 0
            fake_control.close()
    finally:
        agent.stop()


def _stand_in(port: int) -> FakeControl | None:
    with contextlib.suppress(OSError):
        return FakeControl(port)
    return None
