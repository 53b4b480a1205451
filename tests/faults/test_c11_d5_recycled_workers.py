"""Workers replaced under load, on request or because they grow: no request fails or is retried."""

from __future__ import annotations

import http.client
import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.faults.served import Served, pack_sum
from tests.waiting import DEADLINE_S, eventually

RECYCLES = 3
"""D5 requires 20, which would take too long here."""
PAUSE_S = 0.016
"""Pause between two requests of a caller in seconds, so that callers leave CPU time to the workers."""
CALLERS = 4


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package."""
    return pack_sum(tmp_path_factory.mktemp("dist"))


@pytest.fixture
def serve(packed: Path, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts the server; settings are environment variables."""
    running: list[Served] = []

    def start(**options: Any) -> Served:
        running.append(Served(packed, tmp_path, **options))
        return running[-1]

    yield start
    for served in running:
        if served.process.poll() is None:
            assert served.stop() == 0


class Load:
    """Callers that keep their connections and never retry; every answer must be right."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.right = 0
        self.faults: list[str] = []
        self._over, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._call, args=(n,), daemon=True) for n in range(CALLERS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(DEADLINE_S)

    def goes_on(self) -> None:
        """Wait until a hundred more requests are answered."""
        before = self.right
        eventually(lambda: self.right >= before + 100 or self.faults, "requests are answered")

    def _call(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=DEADLINE_S)
        while not self._over.wait(PAUSE_S):
            number += 1
            try:
                body = json.dumps({"instances": [[float(number), 1.0]]})
                connection.request("POST", "/v1/models/sum:predict", body, {"Content-Type": "application/json"})
                reply = connection.getresponse()
                answer = json.loads(reply.read())
                if reply.status != 200 or answer != {"predictions": [number + 1.0]}:
                    self.faults.append(f"{reply.status} {answer}")
                else:
                    with self._lock:
                        self.right += 1
            except (OSError, http.client.HTTPException) as error:
                self.faults.append(repr(error))
                connection.close()
        connection.close()


def test_d5_recycled_workers_drop_no_request(serve: Callable[..., Served]) -> None:
    """SIGHUP repeatedly: each time both workers are replaced, and every request gets the right answer."""
    served = serve()
    with Load(served.port) as load:
        for _ in range(RECYCLES):
            before = served.workers()
            assert len(before) == 2
            served.process.send_signal(signal.SIGHUP)
            eventually(lambda before=before: len(now := served.workers()) == 2 and not now & before, "all are new")
            load.goes_on()
    assert load.faults == []
    assert served.stop() == 0


def test_c11_workers_that_outgrow_their_bound_are_replaced_without_a_failed_request(
    serve: Callable[..., Served], tmp_path: Path
) -> None:
    """Each worker gets a planted leak, faster than any request could cause; the bound ends the worker, and no request fails."""
    (tmp_path / "sitecustomize.py").write_text(LEAK)
    served = serve(cold=True, PYTHONPATH=str(tmp_path), LEAK=str(tmp_path / "leak"), ROADWORTHY_GATEWAY_WORKER_MEMORY_MB="250")
    first = served.workers()
    with Load(served.port) as load:
        load.goes_on()
        (tmp_path / "leak").touch()
        eventually(lambda: not served.workers() & first and len(served.workers()) == 2, "both were replaced")
        load.goes_on()
    assert load.faults == []
    eventually(lambda: served.log.read_text().count("holds too much memory (memory)") >= 2, "the log reports both")
    assert "killed" not in served.log.read_text()
    assert served.stop() == 0


LEAK = """
import os, sys
if "roadworthy.gateway.worker" in sys.orig_argv and not os.path.exists(os.environ["LEAK"]):
    import threading, time
    def leak():
        held = []
        while True:
            if os.path.exists(os.environ["LEAK"]):
                held.append(b"x" * (4 << 20))
            time.sleep(0.1)
    threading.Thread(target=leak, daemon=True).start()
"""
"""Workers that started before the file existed leak once it exists."""
