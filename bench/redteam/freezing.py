"""C.6: some callers send bodies within the byte limit that are expensive to read; the effect on others is measured."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import httpx
import numpy as np
import pandas as pd

import roadworthy as rw
from bench.redteam.attack import Attack, Finding, Ground, deploy
from bench.redteam.packages import ROWS, dist
from bench.service import NO_TLS, Service

NAME = "named"
PATH = f"/v1/models/{NAME}:predict"
COLUMNS = list("abcd")
SECONDS = 3.0
NOTICED_S = 10.0
ATTACKERS = 3
P99_MS, LAG_MS = 50.0, 20.0
"""Permitted p99 of other callers and of a probe during the attack, in milliseconds, in addition to those without it."""
JSON, CSV = "application/json", "text/csv"
BODIES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "900,000 unknown columns": (
        JSON,
        lambda: b'{"instances":[{' + b",".join(b'"c%d":1' % i for i in range(900_000)) + b"}]}",
    ),
    "5,000,000 empty rows": (JSON, lambda: b'{"instances":[' + b"{}," * 5_000_000 + b"{}]}"),
    "lists in lists": (JSON, lambda: b'{"instances":[' + b"[" * 7_000_000 + b"]" * 7_000_000 + b"]}"),
    "3,000,000 nulls": (JSON, lambda: b'{"instances":[[' + b"null," * 3_000_000 + b"null]]}"),
    "a number of 15,000,000 digits": (JSON, lambda: b'{"instances":[[' + b"9" * 15_000_000 + b"]]}"),
    "a CSV head of 1,000,000 names": (CSV, lambda: b",".join(b"c%d" % i for i in range(1_000_000)) + b"\n1\n"),
    "a CSV of 5,000,000 rows": (CSV, lambda: b"a,b,c,d\n" + b",\n" * 5_000_000),
}


@cache
def named() -> rw.Package:
    """A model of named columns, compiled."""
    from sklearn.linear_model import LogisticRegression

    table = pd.DataFrame(ROWS, columns=COLUMNS)
    return rw.pack(LogisticRegression().fit(table, table.a > 0), name=NAME, inputs=table, out=dist())


class Neighbour(threading.Thread):
    """Sends requests repeatedly, and records the latency of each answer in milliseconds."""

    def __init__(self, stop: threading.Event, service: Service, path: str, body: dict[str, object] | None) -> None:
        super().__init__(daemon=True)
        self._stop_asked = stop
        self._url = f"http://127.0.0.1:{service.ports[0]}{path}"
        self._body = body
        self._key = service.key
        self.waits: list[float] = []
        self.bad = 0

    def run(self) -> None:
        """Send requests until `stop` is set."""
        with httpx.Client(timeout=NOTICED_S, headers={"Authorization": f"Bearer {self._key}"}, verify=NO_TLS) as client:
            while not self._stop_asked.is_set():
                begun = time.perf_counter()
                try:
                    method = "GET" if self._body is None else "POST"
                    self.bad += client.request(method, self._url, json=self._body).status_code != 200
                except httpx.HTTPError:
                    self.bad += 1
                self.waits.append((time.perf_counter() - begun) * 1_000)
                time.sleep(0.005)


@contextmanager
def crowd(service: Service, kind: str, body: bytes, folder: Path) -> Iterator[None]:
    """Run ATTACKERS callers that send the body until the end of the block."""
    file = folder / "body"
    file.write_bytes(body)
    where = [str(service.ports[0]), PATH, kind, str(file), str(ATTACKERS)]
    process = subprocess.Popen([sys.executable, "-m", "bench.redteam.crowd", *where], stdin=subprocess.PIPE, text=True)
    try:
        if process.stdin is None:
            raise RuntimeError("the crowd has no standard input")
        process.stdin.write(f"{service.key}\n")
        process.stdin.flush()
        yield
    finally:
        process.kill()
        process.communicate()


def measured(service: Service) -> tuple[float, float, int]:
    """p99 of others' predictions and of probes, in milliseconds, and the number without an answer."""
    stop = threading.Event()
    row: dict[str, object] = {"instances": [dict.fromkeys(COLUMNS, 0.1)]}
    callers = [Neighbour(stop, service, PATH, row) for _ in range(2)]
    probe = Neighbour(stop, service, "/livez", None)
    for thread in (*callers, probe):
        thread.start()
    stop.wait(SECONDS)
    stop.set()
    for thread in (*callers, probe):
        thread.join(2 * NOTICED_S)
    waits = [wait for caller in callers for wait in caller.waits]
    bad = probe.bad + sum(caller.bad for caller in callers)
    return float(np.percentile(waits, 99)), float(np.percentile(probe.waits, 99)), bad


def bodies(ground: Ground) -> Iterator[Finding]:
    """Three attackers, two other callers and a probe, on one worker."""
    service = ground.shared()
    deploy(service, named())
    (worker,) = service.worker_processes()
    alone_ms, idle_ms, _ = measured(service)
    yield "no attacker", f"others' p99 {alone_ms:.0f} ms, probe's p99 {idle_ms:.0f} ms", True
    for name, (kind, make) in BODIES.items():
        with crowd(service, kind, make(), ground.folder):
            p99_ms, lag_ms, bad = measured(service)
        came = f"others' p99 {p99_ms:.0f} ms, probe's p99 {lag_ms:.0f} ms, {bad} not answered"
        holds = p99_ms <= P99_MS + alone_ms and lag_ms <= LAG_MS + idle_ms and not bad
        yield f"{ATTACKERS} callers send {name}", came, holds
    same = worker.is_running() and service.worker_processes() == [worker]
    yield "the worker afterwards", "is the same" if same else "WAS REPLACED", same


ATTACKS = (Attack("C6", bodies, 150.0),)
