"""Runs a peer, pinned like ours. A variable in its environment marks its processes, so that all of them can be ended."""

from __future__ import annotations

import http.client
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from bench.load.wrk import Target
from bench.models import Subject
from bench.peers.catalogue import ROOT, Peer, Start
from bench.peers.environment import NotAvailableError
from bench.ports import free_ports

MARK = "ROADWORTHY_BENCH_PEER"
START_S = 120.0
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Running:
    """A running peer: its target, and the seconds until its first right answer."""

    target: Target
    first_answer_s: float
    mark: str

    @property
    def memory_mb(self) -> float:
        """The processes' proportional memory (PSS), summed."""
        total = 0.0
        for process in _marked(self.mark):
            with suppress(psutil.Error):
                total += process.memory_full_info().pss / 1e6
        return total


@contextmanager
def running(peer: Peer, start: Start, subject: Subject, core: int | None) -> Iterator[Running]:
    """Start a peer, wait for its first right answer, and at the end of the block end all its processes.

    Raises:
        NotAvailableError: it did not start; the text has the last line of its log.
    """
    start = replace(start, port=start.port or free_ports(1)[0])
    peer.prepare(start)
    mark = f"{peer.name}-{os.getpid()}-{start.port}"
    limits = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    own = {MARK: mark, "PYTHONPATH": str(ROOT), "PATH": f"{start.bin}:{os.environ['PATH']}"}
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    log = start.folder / "log"
    begun = time.monotonic()
    with log.open("wb") as handle:
        process = subprocess.Popen(
            [*pinned, *peer.command(start)],
            cwd=start.folder,
            env={**os.environ, **limits, **own, **peer.environment(start)},
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
        )
    try:
        target = Target(start.port, peer.path)
        body = peer.bodies(subject.rows[:1])[0]
        while not _answers(peer, target, body, subject.right[0]):
            if process.poll() is not None or time.monotonic() > begun + START_S:
                raise NotAvailableError(f"no right answer after {time.monotonic() - begun:.0f} s: {_last_line(log)}")
            time.sleep(0.05)
        yield Running(target, time.monotonic() - begun, mark)
    finally:
        _end(process, mark)


def _answers(peer: Peer, target: Target, body: bytes, right: float) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=30)
    with closing(connection), suppress(OSError, http.client.HTTPException):
        connection.request("POST", target.path, body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        text = reply.read().decode()
        if reply.status == 200:
            start = text.find('"predictions"')
            return abs(peer.read(text[max(start, 0) :]) - right) <= TOLERANCE
    return False


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it wrote nothing"


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found


def _end(process: subprocess.Popen[bytes], mark: str) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(15)
    process.kill()
    process.wait()
    for left in _marked(mark):
        with suppress(psutil.Error):
            left.kill()
