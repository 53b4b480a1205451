"""Real Redis servers for tests, each on its own Unix socket; a server that is not Redis; and what workers report about them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from bench.ports import free_ports
from roadworthy.foundation.slab import SlabReader
from roadworthy.serving.metrics import SHARED_CACHE, Totals, read_totals
from tests.conftest import RunningWorker, eventually
from tests.waiting import DEADLINE_S

MISSING = "needs redis-server; on Debian: apt-get install redis-server"


class RealRedis:
    """A server without storage on disk; after `start` it is empty.

    Attributes:
        path: of its socket. url: for the gateway's setting.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.path = folder / "s"
        self.url = f"unix://{self.path}"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> RealRedis:
        """Start it, and wait until it answers."""
        command = shutil.which("redis-server")
        if command is None:
            pytest.fail(MISSING) if os.environ.get("CI") else pytest.skip(MISSING)
        self.path.unlink(missing_ok=True)
        fixed = ("--port", "0", "--unixsocket", str(self.path), "--save", "", "--appendonly", "no", "--dir", "/")
        self._process = subprocess.Popen([str(command), *fixed, *self._options], stdout=subprocess.DEVNULL)
        eventually(self.answers, "redis-server answers")
        return self

    def client(self, **options: Any) -> Redis:
        """A connection to it, which the caller closes."""
        return Redis(unix_socket_path=str(self.path), **options)

    def answers(self) -> bool:
        """Whether it accepts commands, or at least asks for a password."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as end:
            end.settimeout(DEADLINE_S)
            end.connect(str(self.path))
            end.sendall(b"PING\r\n")
            return end.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        return False

    def keys(self) -> list[bytes]:
        """The stored keys."""
        with self.client() as client:
            return sorted(client.keys("*"))  # type: ignore[type-var, arg-type]

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop it: it keeps its connections, but does not answer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, if it was started."""
        if self._process is not None:
            self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(DEADLINE_S)
        self._process = None


def free_port() -> int:
    """A port without a listener."""
    return free_ports(1)[0]


def certificate(folder: Path, host: str) -> tuple[str, str]:
    """The files of a self-signed certificate for `host`, and of its key."""
    names = str(folder / "certificate.pem"), str(folder / "key.pem")
    kind = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    who = ("-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}")
    subprocess.run(["openssl", "req", *kind, *who, "-out", names[0], "-keyout", names[1]], check=True, capture_output=True)
    return names


class Rubbish:
    """A server that answers everything with the same bytes.

    Attributes:
        taken: number of accepted connections.
    """

    def __init__(self, path: Path, answer: bytes) -> None:
        path.unlink(missing_ok=True)
        self.taken = 0
        self._answer = answer
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                end, _ = self._listener.accept()
                self.taken += 1
                self._open.append(end)
                threading.Thread(target=self._serve, args=(end,), daemon=True).start()

    def _serve(self, end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while end.recv(65_536):
                end.sendall(self._answer)

    def close(self) -> None:
        """Gone."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._open:
            end.close()


PATIENT_MS = 500
"""Timeout of requests in tests of behaviour, not of speed, on possibly busy machines."""


def totals(worker: RunningWorker) -> Totals:
    """A worker's counts."""
    reader = SlabReader(worker.folder / "run" / "slab")
    try:
        return read_totals(reader)
    finally:
        reader.close()


def counted(worker: RunningWorker, kind: str) -> dict[str, int]:
    """Counts by result (CACHE) or event (SHARED_CACHE)."""
    return {labels[-1]: count for labels, count in totals(worker).counted.items() if labels[0] == kind}


def reaches(worker: RunningWorker) -> bool:
    """Whether the shared cache answers the worker."""
    return totals(worker).sharing.get(True, 0) == 1


def connected(worker: RunningWorker) -> RunningWorker:
    """The worker, once its shared cache answers."""
    eventually(lambda: reaches(worker), "the shared cache answers")
    return worker


def stored(worker: RunningWorker, number: int) -> None:
    """Wait until the server has stored `number` of the worker's answers."""
    eventually(lambda: counted(worker, SHARED_CACHE).get("stored", 0) >= number, f"{number} answers are kept")


def told(worker: RunningWorker) -> list[dict[str, Any]]:
    """The worker's log entries about the shared cache."""
    lines = (worker.folder / "log").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["event"].startswith("shared-cache-")]


def tells_reason(worker: RunningWorker, reason: str) -> dict[str, Any]:
    """Wait for a lost connection with a reason that contains `reason`, and return the log entry. On a busy machine a timeout may
    come first."""

    def found() -> dict[str, Any] | None:
        lost = (line for line in told(worker) if line["event"] == "shared-cache-lost")
        return next((line for line in lost if reason in line["reason"]), None)

    line: dict[str, Any] = eventually(found, f"the log states {reason}")
    return line


def tells(worker: RunningWorker, *events: str) -> None:
    """Wait until the worker's log has these events of the shared cache in this order, none twice in a row. Lines are written
    after their events, and on a busy machine the server may be lost and found in addition."""

    def happened() -> bool:
        found = [(line["event"], line.get("reason")) for line in told(worker)]
        left = iter(event for event, _ in found)
        return all(event in left for event in events) and not any(a == b for a, b in pairwise(found))

    eventually(happened, f"it tells {events}")
