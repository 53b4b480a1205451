"""Many rows as raw tensors, compared with `InferenceSession.run` on the same rows in a separate process.

The same client, on its own core, times three things alternately: our answer to the request; the run alone; and an exchange of the
same number of bytes with a server that ignores them. The last is the cost of the client, the kernel and two wake-ups for any
server. It is subtracted from our time, and the difference from the run is what the gateway adds.
"""

from __future__ import annotations

import json
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial

import numpy as np

from bench.comparison import TOLERANCE, Comparison, WrongAnswerError, in_turn
from bench.load.wrk import Target
from bench.models import Rows, Subject
from bench.ports import free_ports
from bench.report import Measure

LEAST = 1.1
_WARM = 20


def binary_rows(subject: Subject, target: Target, rows: int, requests: int, core: int | None) -> list[Measure]:
    """Milliseconds per V2 request of raw tensors over one keep-alive connection; every answer is checked."""
    request = _request(subject.rows[:rows], target)
    with closing(_Wire(target.port)) as ours, _session(subject, rows, core) as session:
        first = ours.exchange(request)
        _check(first, subject.right[:rows])
        with _mover(len(request), len(first), core) as mover:
            times = [_turn((ours, session, mover), request, len(first), subject.right[:rows]) for _ in range(requests + _WARM)]
    whole, run, moved = (statistics.median(side) * 1000 for side in zip(*times[_WARM:], strict=True))
    name = f"{rows:,} rows as V2 binary tensors, against InferenceSession.run"
    ratio = (whole - moved) / run
    aim = f"<= {LEAST:g} x, dream 1.03 x"
    left = round(whole - moved, 3)
    return [
        Measure(f"{name}, without moving the bytes", left, "ms", round(run, 3), round(ratio, 3), aim, ratio <= LEAST),
        Measure("the same, whole, as the client sees it", round(whole, 3), "ms", round(run, 3), round(whole / run, 3)),
        Measure("of it, moving the bytes to a server that ignores them and back", round(moved, 3), "ms"),
    ]


def binary_against(subject: Subject, ours: Target, theirs: Target, rows: int, requests: int) -> Comparison:
    """Milliseconds per V2 request of raw tensors, alternately over one keep-alive connection to each; answers are checked."""

    def ask(wire: _Wire, request: bytes) -> float:
        begun = time.perf_counter()
        answer = wire.exchange(request)
        took_ms = (time.perf_counter() - begun) * 1000
        _check(answer, subject.right[:rows])
        return took_ms

    our_request, their_request = (_request(subject.rows[:rows], target) for target in (ours, theirs))
    with closing(_Wire(ours.port)) as our, closing(_Wire(theirs.port)) as their:
        return in_turn(partial(ask, our, our_request), partial(ask, their, their_request), requests)


class _Wire:
    """A raw keep-alive connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.inbox = bytearray(1 << 20)

    def exchange(self, request: bytes, answer_bytes: int | None = None) -> bytes:
        """Send `request`, then read `answer_bytes` bytes or one complete HTTP answer."""
        self.socket.sendall(request)
        have, view = 0, memoryview(self.inbox)
        while answer_bytes is None or have < answer_bytes:
            part = self.socket.recv_into(view[have:])
            if not part:
                raise WrongAnswerError("the server closed the connection")
            have += part
            if answer_bytes is None:
                answer_bytes = _length(bytes(view[:have]))
        return bytes(view[:have])

    def close(self) -> None:
        self.socket.close()


def _length(answer: bytes) -> int | None:
    """Number of bytes of the complete answer; None before its head has arrived."""
    head, end, _ = answer.partition(b"\r\n\r\n")
    found = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    return len(head) + 4 + int(found[1]) if end and found else None


def _turn(
    sides: tuple[_Wire, subprocess.Popen[str], _Wire], request: bytes, answer_bytes: int, right: Rows
) -> tuple[float, float, float]:
    """Seconds for our answer, for the run alone, and for the bytes alone."""
    ours, session, mover = sides
    begun = time.perf_counter()
    answer = ours.exchange(request)
    whole = time.perf_counter() - begun
    _check(answer, right)
    assert session.stdin is not None
    assert session.stdout is not None
    session.stdin.write("\n")
    session.stdin.flush()
    run = float(session.stdout.readline())
    begun = time.perf_counter()
    mover.exchange(request, answer_bytes)
    return whole, run, time.perf_counter() - begun


def _request(rows: Rows, target: Target) -> bytes:
    tensor = np.ascontiguousarray(rows, dtype="<f4").tobytes()
    head = {
        "inputs": [
            {
                "name": "x",
                "shape": list(rows.shape),
                "datatype": "FP32",
                "parameters": {"binary_data_size": len(tensor)},
            }
        ],
        "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in ("label", "probabilities")],
    }
    text = json.dumps(head, separators=(",", ":")).encode()
    lines = [
        f"POST {target.path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: {target.authorization}",
        "Content-Type: application/octet-stream",
        f"Inference-Header-Content-Length: {len(text)}",
        f"Content-Length: {len(text) + len(tensor)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + text + tensor


def _check(answer: bytes, right: Rows) -> None:
    """Compare the answer's probabilities."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise WrongAnswerError(f"{head.splitlines()[0]!r} {body[:300]!r}")
    found = re.search(rb"inference-header-content-length: *(\d+)", head, re.IGNORECASE)
    assert found is not None
    outputs = json.loads(body[: int(found[1])])["outputs"]
    raw, given = body[int(found[1]) :], None
    for output in outputs:
        size = output["parameters"]["binary_data_size"]
        if output["name"] == "probabilities":
            given = np.frombuffer(raw[:size], dtype=f"<f{size // right.size // 2}").reshape(-1, 2)[:, 1]
        raw = raw[size:]
    if given is None or given.shape != right.shape or np.abs(given - right).max() > TOLERANCE:
        raise WrongAnswerError("an answer to a binary request differs from the model's answers")


def _pinned(core: int | None) -> list[str]:
    return [] if core is None else ["taskset", "-c", str(core)]


@contextmanager
def _session(subject: Subject, rows: int, core: int | None) -> Iterator[subprocess.Popen[str]]:
    file = subject.package.parent / f"{subject.name}.npy"
    np.save(file, subject.rows[:rows])
    command = [*_pinned(core), sys.executable, "-m", "bench.baselines.session_run", str(subject.baseline), str(file)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.communicate(timeout=10)


@contextmanager
def _mover(request_bytes: int, answer_bytes: int, core: int | None) -> Iterator[_Wire]:
    (port,) = free_ports(1)
    sizes = [str(number) for number in (port, request_bytes, answer_bytes)]
    process = subprocess.Popen([*_pinned(core), sys.executable, "-m", "bench.baselines.bytes_only", *sizes])
    try:
        with closing(_connected(port)) as wire:
            yield wire
    finally:
        process.terminate()
        process.wait(10)


def _connected(port: int) -> _Wire:
    deadline = time.monotonic() + 30
    while True:
        try:
            return _Wire(port)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
