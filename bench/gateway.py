"""The benchmark of the gateway's speed: `make bench-gateway`. docs/benchmarks.md explains how to read its table.

Every server, ours with all its processes, runs on core 0, the load on core 1. Ours runs with its defaults: it checks keys and
rows, and metrics and records are on. Ratios are taken within one run, and every answer is compared.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from bench.binary import binary_rows
from bench.comparison import WARM, Comparison, Setup, baseline, faster, many_rows, median_ms, single_rows, slower
from bench.limits import limits
from bench.load.wrk import Target
from bench.models import Subject, nothing, onnx_trees, sklearn_trees, small_graph
from bench.report import Measure, finish, unmeasured
from bench.service import Service, ask, installed, wait_until
from bench.stored import wait_for_records
from bench.streams import streams

BARE = "bench.baselines.bare_asgi"
BY_HAND = "bench.baselines.fastapi_sklearn"
ROWS = 20_000
"""Number of different rows in the requests, which cycle through them."""
Part = Callable[[Path, Setup], list[Measure]]
PARTS = ("limits", "streams", "trees", "cells", "isolated", "memory")


def trees(folder: Path, setup: Setup) -> list[Measure]:
    """Compare a tree model packaged as ONNX with a bare raw-ASGI handler, also for many rows at once."""
    subject = onnx_trees(folder, ROWS)
    alone = replace(setup, connections=1)
    with (
        installed(folder, [subject], setup.server_core) as service,
        baseline(BARE, subject.baseline, setup.server_core) as bare,
    ):
        ours = service.target("trees")
        crowd = single_rows(subject, ours, bare, setup)
        one = single_rows(subject, ours, bare, alone, median_ms)
        requests = setup.rounds * setup.seconds * 12
        many = many_rows(subject, ours, bare, rows=1_000, requests=requests)
        given = [records(service, subject, [crowd, one], many_rows_requests=requests)]
        raw = Target(ours.port, "/v2/models/trees/infer", ours.authorization)
        binary = binary_rows(subject, raw, 1_000, requests, setup.server_core)
    return [
        faster("1 row, 64 connections, trees in ONNX, against a bare raw-ASGI handler", crowd, 1.3, 1.8),
        slower("1 row, 1 connection, p50, trees in ONNX, against the bare handler", one, 1.25, 1.0),
        slower("1,000 rows in one JSON request, against the bare handler", many, 0.85, 0.65),
        *binary,
        *given,
    ]


def cells(folder: Path, setup: Setup) -> list[Measure]:
    """Compare the same scikit-learn pipeline, compiled and not, with hand-written FastAPI."""
    compiled, native = sklearn_trees(folder, ROWS), sklearn_trees(folder, ROWS, compiled=False)
    with (
        installed(folder, [compiled, native], setup.server_core) as service,
        baseline(BY_HAND, compiled.baseline, setup.server_core) as by_hand,
    ):
        fastest = single_rows(compiled, service.target(compiled.name), by_hand, setup)
        plain = single_rows(native, service.target(native.name), by_hand, setup)
        kept = [records(service, compiled, [fastest]), records(service, native, [plain])]
    return [
        faster("1 row, 64 connections, scikit-learn pipeline compiled, against FastAPI by hand", fastest, 40, 60),
        faster("1 row, 64 connections, the same not compiled, against FastAPI by hand", plain, 8, 20),
        *kept,
    ]


def isolated(folder: Path, setup: Setup) -> list[Measure]:
    """Compare a Python callable that does nothing in a runner process and in the worker.

    It uses two packages, since a version that two endpoints place differently executes in one place only.
    """
    name, aim = "1 row, 64 connections, a Python callable that does nothing, runner process against inline", ">= 0.5 x"
    subjects = {where: nothing(folder, ROWS, f"nothing-{where}") for where in ("inline", "process")}
    home = folder / "home"
    home.mkdir(mode=0o700, exist_ok=True)
    (home / "roadworthy.toml").write_text('[general]\nconfinement = "best-effort"\n')  # lets a worker execute code
    with installed(folder, [], setup.server_core) as service:
        try:
            for where, subject in subjects.items():
                place(service, subject, where)
            wait_until(lambda: len(service.runner_processes()) == 1, "one runner process, and no other")
        except Exception as error:  # noqa: BLE001  any error is the reason why nothing was measured
            return [unmeasured(name, aim, f"{type(error).__name__}: {error}")]
        inline, process = (service.target(subject.name) for subject in subjects.values())
        comparison = single_rows(subjects["process"], process, inline, setup)
    return [faster(name, comparison, 0.5, 0.8)]


def place(service: Service, subject: Subject, where: str) -> None:
    """Serve a subject at an endpoint whose policy states where it executes, and wait for its answers."""
    service.push(subject)
    with service.client() as client:
        policy = {"placement": {"where": where, "copies": 1}}
        client.wait(client.deploy(f"{subject.name}:1", subject.name, policy=policy), timeout_s=60)
    wait_until(partial(ask, service, subject), f"right answers of {subject.name}")


def memory(folder: Path, setup: Setup, models: int = 20) -> list[Measure]:
    """A worker's memory per additional small ONNX model: the slope over `models` of them, after the first three."""
    first = small_graph(folder, 0)
    sizes, resident = [], []
    with installed(folder, [first], setup.server_core) as service, service.client() as client:
        for number in range(1, models + 1):
            subject = small_graph(folder, number)
            client.push(subject.package)
            client.wait(client.deploy(f"{subject.name}:1", subject.name))
            wait_until(partial(ask, service, subject), f"right answers of {subject.name}")
            for _ in range(20):
                assert ask(service, subject), subject.name
            time.sleep(0.3)
            sizes.append(subject.baseline.stat().st_size / 1e6)
            resident.append(max(worker.memory_info().rss for worker in service.worker_processes()) / 1e6)
    each, size = float(np.polyfit(range(models - 3), resident[3:], 1)[0]), float(np.mean(sizes))
    bound = 3 * size + 2
    name = f"memory of one more small ONNX model in a worker (slope over {models - 3}; a file of {size:.3f} MB)"
    return [Measure(name, round(each, 2), "MB", target=f"<= 3 x + 2 MB = {bound:.2f} MB", met=each <= bound)]


def records(service: Service, subject: Subject, comparisons: list[Comparison], many_rows_requests: int = 0) -> Measure:
    """Check the records of all answers: one for each answer, with its own input and answer."""
    warm = WARM if many_rows_requests else 0
    answered = sum(comparison.answered for comparison in comparisons) + many_rows_requests + warm
    sent = sum(comparison.sent for comparison in comparisons) + many_rows_requests + warm
    kept = wait_for_records(service.home, subject, answered)
    off = max(0, answered - kept.records) + max(0, kept.records - sent) + kept.wrong
    name = f"records missing, surplus or wrong, of {answered:,} answers of {subject.name}"
    return Measure(name, off, "records", target="0", met=off == 0)


def main() -> int:
    """Measure, print, write; exit status 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=5, help="length of each round")
    parser.add_argument("--sustained", type=int, default=120, help="seconds of the long load of the part `limits`")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS), help="parts of the table")
    arguments = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("the benchmark needs two cores: one for the servers, one for the load")
    setup = Setup(arguments.rounds, arguments.seconds)
    print(f"load average before: {os.getloadavg()[0]:.1f} (near 0 is quiet)", flush=True)
    measures: list[Measure] = []
    against_limits: Part = partial(limits, sustained_s=arguments.sustained)
    for part, run in zip(PARTS, (against_limits, streams, trees, cells, isolated, memory), strict=True):
        if part in arguments.only:
            with tempfile.TemporaryDirectory() as folder:
                measures += run(Path(folder), setup)
    print(f"load average after: {os.getloadavg()[0]:.1f} (servers and load together give about 2)", flush=True)
    return finish("gateway", measures, whole=set(arguments.only) == set(PARTS))


if __name__ == "__main__":
    sys.exit(main())
