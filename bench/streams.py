"""Answers in parts against a bare ASGI stream of the same generator: the first part, and each further part.

`make bench-gateway` runs this part. The generator is always ready, so that the figures are those of the servers alone.
"""

from __future__ import annotations

import json
import socket
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from bench.comparison import Setup, WrongAnswerError, baseline, bootstrap
from bench.limits import cpu_seconds
from bench.load.traffic import TIMEOUT_S
from bench.load.wrk import Target
from bench.models import counting
from bench.report import Measure
from bench.service import installed, wait_until

BARE = "bench.baselines.bare_stream"
PARTS = 2_000
FIRST_MS, FURTHER_US = 0.2, 30.0
_WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Stream:
    """One answer. `first_ms`: from the request until its first part; `further_us`: from there to the end, per further part."""

    first_ms: float
    further_us: float


def streams(folder: Path, setup: Setup) -> list[Measure]:
    """Compare in interleaved rounds, each of as many streams of each server as it has seconds, and one at least."""
    subject = counting(folder)
    with (
        installed(folder, [subject], setup.server_core) as service,
        baseline(BARE, subject.package, setup.server_core) as bare,
    ):
        target = service.target(subject.name)
        wait_until(lambda: _answers(target), "an answer in parts")
        pairs: list[tuple[Stream, Stream]] = []
        spent_us: list[float] = []
        for number in range(_WARM_UP + setup.rounds * max(1, setup.seconds)):
            before = sum(cpu_seconds(service).values())
            ours = take(target)
            after = sum(cpu_seconds(service).values())
            theirs = take(bare)
            if number >= _WARM_UP:
                pairs.append((ours, theirs))
                spent_us.append((after - before) / PARTS * 1e6)
    first = [(ours.first_ms, theirs.first_ms) for ours, theirs in pairs]
    further = [(ours.further_us, theirs.further_us) for ours, theirs in pairs]
    label = f"a stream of {PARTS:,} parts, of a bare ASGI stream and ours"
    cpu = f"a stream of {PARTS:,} parts, CPU per part of all processes"
    return [
        added(f"{label}, first part", first, "ms", FIRST_MS),
        added(f"{label}, each further part", further, "us", FURTHER_US),
        Measure(cpu, round(statistics.mean(spent_us), 1), "us", interval=bootstrap(spent_us)),
    ]


def added(name: str, pairs: list[tuple[float, float]], unit: str, most: float) -> Measure:
    """The measure of pairs of our figure and the baseline's: the median difference is at most `most`."""
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    more = statistics.median(our - their for our, their in pairs)
    ratio = statistics.median(our / their for our, their in pairs)
    interval = bootstrap([our / their for our, their in pairs])
    aim = f"<= + {most:g} {unit}, is {more:+.3g}"
    return Measure(name, round(ours, 3), unit, round(theirs, 3), round(ratio, 3), aim, more <= most, interval=interval)


def take(target: Target, parts: int = PARTS) -> Stream:
    """Ask for a stream over a new connection, and read it to its end.

    Raises:
        WrongAnswerError: it is not all the parts in order.
    """
    body = json.dumps({"instances": [[parts]]}).encode()
    authorization = f"Authorization: {target.authorization}\r\n" if target.authorization else ""
    head = (
        f"POST {target.path} HTTP/1.1\r\nHost: localhost\r\n{authorization}Accept: text/event-stream\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    found, first = bytearray(), 0.0
    with socket.create_connection(("127.0.0.1", target.port), timeout=TIMEOUT_S) as end:
        begun = time.perf_counter()
        end.sendall(head.encode() + body)
        while data := end.recv(1 << 20):
            found += data
            if not first and b"data: " in found:
                first = time.perf_counter()
        over = time.perf_counter()
    given = [json.loads(line[6:]) for line in bytes(found).split(b"\n") if line.startswith(b'data: {"pred')]
    if [part["predictions"] for part in given] != [[float(number)] for number in range(parts)] or b"event: end" not in found:
        raise WrongAnswerError(f"{target.path}: {len(given)} of {parts} parts, or not in order: {bytes(found[:200])!r}")
    return Stream((first - begun) * 1e3, (over - first) / max(1, parts - 1) * 1e6)


def _answers(target: Target) -> bool:
    try:
        take(target, 2)
    except (OSError, WrongAnswerError):
        return False
    return True
