"""The gateway against baselines that do not flatter, on one core: an ASGI handler with tick batching, and a server in C.

`make bench-gateway` runs this part. Deferred work on records counts too: each run of the CPU measurement, and
the sustained run, end when all records are in the blob store.
"""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from bench.comparison import (
    Comparison,
    Setup,
    WrongAnswerError,
    baseline,
    bodies_file,
    bootstrap,
    compared,
    faster,
    fire_checked,
    interleaved,
    listening,
    median_ms,
    rate,
    slower,
    tail_ms,
)
from bench.load.wrk import Load, Target
from bench.models import Subject, onnx_trees
from bench.native import NoCompilerError, compiled, write_trees
from bench.report import Measure, unmeasured
from bench.service import Service, installed, role_of
from bench.stored import Shipped

BATCHED = "bench.baselines.batched_asgi"
ROWS = 20_000
OURS, ASGI, LIMIT = "ours", "ASGI with batching", "a server in C"
ROLES = ("worker", "agent", "control", "other")
DURABLE_S = 30.0
"""All records must be in the blob store this many seconds after a load."""
CPU_US, CPU_DREAM_US = 27.0, 24.0
_CROWD, _ONE = "1 row, 64 connections", "1 row, 1 connection"


@dataclass(frozen=True, slots=True)
class Run:
    """A load on our service and what it cost.

    Attributes:
        load: the load. cpu_us: by role, user and system time of its processes per answer, until the records were durable.
        durable_s: seconds after the load until all records were in the blob store; None if that took too long.
        lost: records that are missing.
    """

    load: Load
    cpu_us: Mapping[str, float]
    durable_s: float | None
    lost: int


class Runs:
    """Loads on our service, one after the other. `answered` is the number of answers before the first of them."""

    def __init__(self, service: Service, subject: Subject, setup: Setup, answered: int) -> None:
        self._service, self._subject, self._setup = service, subject, setup
        self._answered = answered
        self._shipped = Shipped(service.home, subject.name)
        self._file = bodies_file(subject)

    def settle(self) -> None:
        """Wait until the records of all earlier answers are durable."""
        if self._shipped.wait(self._answered, 2 * DURABLE_S) is None:
            raise WrongAnswerError(f"of {self._answered:,} records only {self._shipped.count():,} were shipped")

    def run(self, seconds: int) -> Run:
        """Send load for some seconds, then wait until its records are durable."""
        before, cpu = self._shipped.count(), cpu_seconds(self._service)
        target = self._service.target(self._subject.name)
        load = fire_checked(target, self._file, self._subject.right, self._setup, seconds)
        durable_s = self._shipped.wait(before + load.requests, DURABLE_S)
        spent = {role: (after - cpu[role]) / load.requests * 1e6 for role, after in cpu_seconds(self._service).items()}
        return Run(load, spent, durable_s, max(0, before + load.requests - self._shipped.count()))


def cpu_seconds(service: Service) -> dict[str, float]:
    """User and system time of our processes so far, by role."""
    spent = dict.fromkeys(ROLES, 0.0)
    for member in service.members():
        try:
            role, times = role_of(member), member.cpu_times()
        except psutil.Error:
            continue
        spent[role if role in spent else "other"] += times.user + times.system
    return spent


def limits(folder: Path, setup: Setup, sustained_s: int) -> list[Measure]:
    """Compare a tree model packaged as ONNX with both baselines, and measure what a request costs all processes."""
    subject = onnx_trees(folder, ROWS)
    alone = replace(setup, connections=1)
    with ExitStack() as stack:
        service = stack.enter_context(installed(folder, [subject], setup.server_core))
        targets = {OURS: service.target(subject.name)}
        targets[ASGI] = stack.enter_context(baseline(BATCHED, subject.baseline, setup.server_core))
        missing = ""
        try:
            targets[LIMIT] = stack.enter_context(limit_server(folder, subject, setup.server_core))
        except NoCompilerError as error:
            missing = str(error)
        crowd = dict(zip(targets, interleaved(subject, list(targets.values()), setup), strict=True))
        one = dict(zip(targets, interleaved(subject, list(targets.values()), alone), strict=True))
        runs = Runs(service, subject, setup, sum(load.requests for load in (*crowd[OURS], *one[OURS])))
        runs.settle()
        spent = [runs.run(setup.seconds) for _ in range(setup.rounds)]
        lasting = runs.run(sustained_s)
        half = [measure for name in targets for measure in at_half(folder, subject, name, targets[name], crowd[name], setup)]
    return [*speeds(crowd, one, missing), *half, *costs(spent), *sustained(lasting, sustained_s)]


def speeds(crowd: Mapping[str, list[Load]], one: Mapping[str, list[Load]], missing: str) -> list[Measure]:
    """Our speed against both baselines; `missing` is the reason why there is no server in C."""

    def against(
        name: str, loads: Mapping[str, list[Load]], figure: Callable[[Load], float], label: str
    ) -> tuple[str, Comparison]:
        return f"{label}, against {name}", compared(loads[OURS], loads[name], figure, f"{label}, against {name}")

    measures = [
        faster(*against(ASGI, crowd, rate, _CROWD), 1.45, 1.6),
        slower(*against(ASGI, crowd, tail_ms, f"{_CROWD}, p99"), 1.2, 0.8),
        slower(*against(ASGI, one, median_ms, f"{_ONE}, p50"), 1.05),
        slower(*against(ASGI, one, tail_ms, f"{_ONE}, p99"), 1.2),
    ]
    if missing:
        return [*measures, unmeasured(f"{_CROWD}, against {LIMIT}", ">= 0.4 x", missing)]
    listed = (("p99", crowd, tail_ms, _CROWD), ("p50", one, median_ms, _ONE), ("p99", one, tail_ms, _ONE))
    return [
        *measures,
        faster(*against(LIMIT, crowd, rate, _CROWD), 0.4, 0.45),
        *(replace(slower(*against(LIMIT, loads, figure, f"{label}, {what}"), 0), target=None, met=None)
          for what, loads, figure, label in listed),
    ]  # fmt: skip


def costs(spent: list[Run]) -> list[Measure]:
    """CPU per request of all processes and of each, with the records written, compressed and shipped."""
    totals = [sum(run.cpu_us.values()) for run in spent]
    total = statistics.median(totals)
    name = "CPU per request of all processes, until its record is durable"
    aim = f"<= {CPU_US:g} us, dream {CPU_DREAM_US:g}"
    whole = Measure(name, round(total, 1), "us", target=aim, met=total <= CPU_US, interval=bootstrap(totals))
    parts = []
    for role in ROLES:
        each = [run.cpu_us[role] for run in spent]
        parts.append(Measure(f"of it, {role}", round(statistics.median(each), 2), "us", interval=bootstrap(each)))
    return [whole, *parts]


def sustained(run: Run, seconds: int) -> list[Measure]:
    """The measures of a long load."""
    name = f"a load of {seconds} s over 64 connections"
    late = run.durable_s is None
    return [
        Measure(f"{name}, answers", round(run.load.rate), "requests/s"),
        Measure(f"{name}, p99", round(tail_ms(run.load), 2), "ms"),
        Measure(f"{name}, CPU per request of all processes", round(sum(run.cpu_us.values()), 1), "us"),
        Measure(
            f"{name}, seconds after it until all records are durable",
            None if run.durable_s is None else round(run.durable_s, 1),
            "" if late else "s",
            target=f"<= {DURABLE_S:g} s",
            met=not late,
        ),
        Measure(f"{name}, records lost of {run.load.requests:,}", run.lost, "records", target="0", met=run.lost == 0),
    ]


@contextmanager
def limit_server(folder: Path, subject: Subject, core: int | None) -> Iterator[Target]:
    """Run the server in C with a subject's trees.

    Raises:
        NoCompilerError: it could not be compiled.
    """
    program = compiled("limit_server", folder)
    write_trees(subject.baseline, folder / "trees.flat")
    with listening([str(program), str(folder / "trees.flat")], core) as target:
        yield target


def at_half(folder: Path, subject: Subject, name: str, target: Target, loads: list[Load], setup: Setup) -> list[Measure]:
    """p50 and p99 of a server at an open-loop rate of half the capacity that it showed."""
    half = statistics.median(map(rate, loads[1:])) / 2
    label = f"half of its capacity, {half:,.0f} requests/s in an open loop, {name}"
    try:
        program = compiled("open_loop", folder)
    except NoCompilerError as error:
        return [unmeasured(label, "", str(error))]
    figures = [open_loop(program, subject, target, half, setup) for _ in range(setup.rounds)]
    p50, p99 = zip(*figures, strict=True)
    return [
        Measure(f"{label}, p50", round(statistics.median(p50), 3), "ms", interval=bootstrap(p50)),
        Measure(f"{label}, p99", round(statistics.median(p99), 3), "ms", interval=bootstrap(p99)),
    ]


def open_loop(program: Path, subject: Subject, target: Target, per_s: float, setup: Setup) -> tuple[float, float]:
    """Send requests at a fixed rate; return p50 and p99 in milliseconds, counted from when each request was due.

    Raises:
        WrongAnswerError: an answer is wrong or missing.
    """
    folder, bodies = program.parent, bodies_file(subject)
    (folder / "right").write_bytes(subject.right.astype("float64").tobytes())
    authorization = f"Authorization: {target.authorization}\r\n" if target.authorization else ""
    head = f"POST {target.path} HTTP/1.1\r\nHost: localhost\r\n{authorization}Content-Type: application/json\r\n"
    (folder / "head").write_bytes(head.encode())
    pinned = [] if setup.load_core is None else ["taskset", "-c", str(setup.load_core)]
    amounts = [str(target.port), str(setup.connections), f"{per_s:.1f}", str(setup.seconds)]
    command = [*pinned, str(program), *amounts, str(bodies), str(folder / "right"), str(folder / "head")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=setup.seconds + 60, check=False)
    if result.returncode != 0:
        raise WrongAnswerError(f"{target.path}: the open loop ended with exit status {result.returncode}")
    _, wrong, p50_us, p99_us, _ = map(float, result.stdout.split())
    if wrong:
        raise WrongAnswerError(f"{target.path}: {wrong:.0f} wrong or missing answers in an open loop")
    return p50_us / 1000, p99_us / 1000
