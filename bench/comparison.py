"""Compares ours with a baseline: both servers run on one core and alternately get load from another core."""

from __future__ import annotations

import http.client
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bench.load.traffic import TIMEOUT_S
from bench.load.wrk import Load, Target, fire, wrong_answers
from bench.models import Rows, Subject, bodies
from bench.ports import free_ports
from bench.report import Measure

TOLERANCE = 1e-5
WARM = 10
"""Requests of `in_turn` to each side before the measured ones."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How to measure: `rounds` rounds of `seconds` each; the cores of servers and load (None: any)."""

    rounds: int
    seconds: int
    server_core: int | None = 0
    load_core: int | None = 1
    connections: int = 64


@dataclass(frozen=True, slots=True)
class Comparison:
    """Medians over the rounds, and the median of the rounds' ratios (ours / baseline).

    `answered` is the number of our answers in all runs, warm-up included; `sent` the number of requests, a few of which were
    still open when wrk stopped; `interval` the 95 % bootstrap interval of the ratio.
    """

    ours: float
    baseline: float
    ratio: float
    answered: int = 0
    sent: int = 0
    interval: tuple[float, float] | None = None


class WrongAnswerError(AssertionError):
    """A server failed or gave a wrong answer: its speed does not count."""


def baseline(module: str, model: Path, core: int | None) -> AbstractContextManager[Target]:
    """Run a hand-written Python service of a model, pinned to a core like ours."""
    return listening([sys.executable, "-m", module, str(model)], core)


@contextmanager
def listening(command: list[str], core: int | None) -> Iterator[Target]:
    """Run a server that takes its port as the last argument, pinned to a core."""
    (port,) = free_ports(1)
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    process = subprocess.Popen([*pinned, *command, str(port)])
    try:
        _wait_for_port(port)
        yield Target(port, "/predict")
    finally:
        process.terminate()
        process.wait(10)


def rate(load: Load) -> float:
    """Requests per second."""
    return load.rate


def median_ms(load: Load) -> float:
    """The median latency in milliseconds."""
    return load.percentiles_ms["p50"]


def tail_ms(load: Load) -> float:
    """The 99th percentile of the latency in milliseconds."""
    return load.percentiles_ms["p99"]


def interleaved(subject: Subject, targets: Sequence[Target], setup: Setup) -> list[list[Load]]:
    """Send load to one target after the other, a different row in each request; every answer is checked.

    Returns:
        the loads of each target: its warm-up of a second, then its rounds.
    """
    file = bodies_file(subject)
    loads = [[fire_checked(target, file, subject.right, setup, seconds=1)] for target in targets]
    for _ in range(setup.rounds):
        for target, own in zip(targets, loads, strict=True):
            own.append(fire_checked(target, file, subject.right, setup, setup.seconds))
    return loads


def bodies_file(subject: Subject) -> Path:
    """The file with one request body per row of a subject."""
    file = subject.package.parent / f"{subject.name}.bodies"
    file.write_bytes(b"\n".join(bodies(subject.rows)))
    return file


def single_rows(
    subject: Subject, ours: Target, theirs: Target, setup: Setup, figure: Callable[[Load], float] = rate
) -> Comparison:
    """Compare by `figure` in interleaved rounds."""
    their_loads, our_loads = interleaved(subject, [theirs, ours], setup)
    return compared(our_loads, their_loads, figure, f"{ours.path}, {setup.connections} connections")


def compared(ours: Sequence[Load], theirs: Sequence[Load], figure: Callable[[Load], float], name: str) -> Comparison:
    """Compare loads that `interleaved` returned, by `figure`, and print the ratio of each round."""
    figures = [(figure(our), figure(their)) for our, their in zip(ours[1:], theirs[1:], strict=True)]
    ratios = [our / their for our, their in figures]
    print(f"{name}: ratio in each round {', '.join(f'{ratio:.2f}' for ratio in ratios)}", flush=True)
    return Comparison(
        statistics.median(our for our, _ in figures),
        statistics.median(their for _, their in figures),
        statistics.median(ratios),
        sum(load.requests for load in ours),
        sum(load.sent for load in ours),
        bootstrap(ratios),
    )


def bootstrap(values: Sequence[float], draws: int = 2_000) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median of some values."""
    medians = np.median(np.random.default_rng(0).choice(values, size=(draws, len(values))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(low), float(high)


def faster(name: str, comparison: Comparison, target: float, dream: float | None = None) -> Measure:
    """The measure of a comparison by requests per second: at least `target` times the baseline."""
    ours, theirs, met = round(comparison.ours), round(comparison.baseline), comparison.ratio >= target
    aim, interval = _aim(">=", target, dream), comparison.interval
    return Measure(name, ours, "requests/s", theirs, round(comparison.ratio, 3), aim, met, interval=interval)


def slower(name: str, comparison: Comparison, target: float, dream: float | None = None) -> Measure:
    """The measure of a comparison by time: at most `target` times the baseline."""
    ours, theirs, met = round(comparison.ours, 3), round(comparison.baseline, 3), comparison.ratio <= target
    aim, interval = _aim("<=", target, dream), comparison.interval
    return Measure(name, ours, "ms", theirs, round(comparison.ratio, 3), aim, met, interval=interval)


def _aim(sign: str, target: float, dream: float | None) -> str:
    return f"{sign} {target:g} x" + ("" if dream is None else f", dream {dream:g} x")


def fire_checked(target: Target, file: Path, right: Rows, setup: Setup, seconds: int) -> Load:
    """Send the bodies of a file for some seconds.

    Raises:
        WrongAnswerError: a failed or wrong answer.
    """
    load = fire(target, file, connections=setup.connections, seconds=seconds, core=setup.load_core)
    wrong = wrong_answers(load, right)
    if wrong or load.failures or load.socket_errors or not load.requests:
        raise WrongAnswerError(
            f"{target.path}: {wrong} wrong of {load.requests}, failures {dict(load.failures)}, {load.socket_errors} socket errors"
        )
    return load


def many_rows(subject: Subject, ours: Target, theirs: Target, rows: int, requests: int) -> Comparison:
    """Milliseconds for a request of many rows, alternately over one keep-alive connection to each; answers are checked."""
    body = json.dumps({"instances": subject.rows[:rows].tolist()}, separators=(",", ":")).encode()

    def ask(connection: http.client.HTTPConnection, target: Target) -> float:
        took_ms, answer = _timed(connection, target, body)
        _check(answer, subject.right[:rows])
        return took_ms

    with closing(_connect(ours)) as our, closing(_connect(theirs)) as their:
        return in_turn(partial(ask, our, ours), partial(ask, their, theirs), requests)


def in_turn(ours: Callable[[], float], theirs: Callable[[], float], requests: int) -> Comparison:
    """Compare the milliseconds of `requests` requests to each side; a call sends one, checks its answer, returns its time."""
    times = [(ours(), theirs()) for _ in range(WARM + requests)][WARM:]
    our_ms, their_ms = (statistics.median(side) for side in zip(*times, strict=True))
    ratios = [our / their for our, their in times]
    return Comparison(our_ms, their_ms, statistics.median(ratios), interval=bootstrap(ratios))


def _connect(target: Target) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", target.port, timeout=30)


def _timed(connection: http.client.HTTPConnection, target: Target, body: bytes) -> tuple[float, bytes]:
    headers = {"Content-Type": "application/json"}
    if target.authorization:
        headers["Authorization"] = target.authorization
    begun = time.perf_counter()
    connection.request("POST", target.path, body, headers)
    reply = connection.getresponse()
    answer = reply.read()
    took = time.perf_counter() - begun
    if reply.status != 200:
        raise WrongAnswerError(f"{target.path}: {reply.status} {answer[:200]!r}")
    return took * 1000, answer


def _check(answer: bytes, right: Rows) -> None:
    given = np.array([row["probabilities"][1] for row in json.loads(answer)["predictions"]])
    if given.shape != right.shape or np.abs(given - right).max() > TOLERANCE:
        raise WrongAnswerError(f"the answers to {len(given)} rows differ from the model's")


def _wait_for_port(port: int, timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(f"no server listens on port {port} after {timeout_s:g} s")
