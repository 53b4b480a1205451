"""The benchmark of the road from a package to an answer: `make bench-road`. docs/benchmarks.md says how to read its table.

Every server runs on core 0, the load on core 1; ours runs with its defaults (keys, checks, metrics and records on).
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.duel import Duel, Setup, baseline, many_rows, single_rows
from bench.models import Subject, onnx_trees, sklearn_trees
from bench.report import Measure, table, write
from bench.service import Service, installed
from bench.stored import wait_for_records

ROOT = Path(__file__).resolve().parents[1]
BARE = "bench.baselines.bare_asgi"
BY_HAND = "bench.baselines.fastapi_sklearn"
FIRST_ASKED = 50
"""Answers before memory is looked at."""


def measure(folder: Path, setup: Setup) -> list[Measure]:
    """All measures that need a running service, in an order in which none disturbs the next."""
    trees, cells = onnx_trees(folder, 20_000), sklearn_trees(folder, 20_000)
    measures = []
    with installed(folder, [trees], setup.server_core) as service:
        measures += idle_memory(service, trees)
        service.deploy(cells)
        with baseline(BARE, trees.baseline, setup.server_core) as bare:
            onnx = single_rows(trees, service.target("trees"), bare, setup)
            measures.append(faster("single row, 64 connections, trees in ONNX, against a bare ASGI handler", onnx, 0.6))
            measures.append(stored(service, trees, onnx))
            many = many_rows(trees, service.target("trees"), bare, rows=1_000, requests=setup.rounds * 60)
            measures.append(slower("1,000 rows in one JSON request, against the bare handler", many, 1.15))
        with baseline(BY_HAND, cells.baseline, setup.server_core) as by_hand:
            duel = single_rows(cells, service.target("cells"), by_hand, setup)
            measures.append(
                faster("single row, 64 connections, scaler and boosted trees, against FastAPI by hand", duel, 10)
            )
        measures.append(first_answer(service, cells, setup.rounds))
    return measures


def faster(name: str, duel: Duel, target: float) -> Measure:
    """A duel by requests a second: at least `target` times the baseline."""
    met = duel.ratio >= target
    return Measure(
        name, round(duel.ours), "requests/s", round(duel.baseline), round(duel.ratio, 3), f">= {target} x", met
    )


def slower(name: str, duel: Duel, target: float) -> Measure:
    """A duel by time: at most `target` times the baseline."""
    ours, theirs, met = round(duel.ours, 3), round(duel.baseline, 3), duel.ratio <= target
    return Measure(name, ours, "ms", theirs, round(duel.ratio, 3), f"<= {target} x", met)


def stored(service: Service, subject: Subject, duel: Duel) -> Measure:
    """The records that were kept of a duel's answers: as many as answers were given, each pairing its own input and answer."""
    answered, sent = duel.answered + FIRST_ASKED, duel.sent + FIRST_ASKED
    kept = wait_for_records(service.home, subject, answered)
    off = max(0, answered - kept.records) + max(0, kept.records - sent) + kept.wrong
    share = off / answered
    name = f"records missing, surplus or wrong, of {answered:,} answers"
    return Measure(name, round(share * 100, 4), "%", None, None, "<= 0.1 %", share <= 0.001)


def idle_memory(service: Service, subject: Subject) -> list[Measure]:
    """Memory of the worker that serves one small ONNX model, after some answers and a moment of rest."""
    for _ in range(FIRST_ASKED):
        ask(service, subject)
    time.sleep(2.0)
    memories = [worker.memory_full_info() for worker in service.workers()]
    rss, pss = max(memory.rss for memory in memories) / 1e6, max(memory.pss for memory in memories) / 1e6
    return [
        Measure(
            "idle worker with one small ONNX model, resident", round(rss, 1), "MB", target="< 150 MB", met=rss < 150
        ),
        Measure("the same, its share of what processes share (PSS)", round(pss, 1), "MB"),
    ]


def first_answer(service: Service, subject: Subject, rounds: int) -> Measure:
    """From `roadworthy up` to the first right answer of a compiled model, with warm disk caches."""
    times = []
    for _ in range(rounds):
        service.stop()
        begun = time.monotonic()
        service.start()
        while not ask(service, subject):
            time.sleep(0.005)
        times.append(time.monotonic() - begun)
    seconds = statistics.median(times)
    name = "from `roadworthy up` to the first right answer of a compiled model"
    return Measure(name, round(seconds, 2), "s", target="< 3 s", met=seconds < 3)


def ask(service: Service, subject: Subject) -> bool:
    """One row; whether the answer came and is right."""
    target = service.target(subject.name)
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=10)
    headers = {"Content-Type": "application/json", "Authorization": target.authorization or ""}
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("POST", target.path, json.dumps({"instances": [subject.rows[0].tolist()]}), headers)
        reply = connection.getresponse()
        body = reply.read()
        if reply.status == 200:
            given = json.loads(body)["predictions"][0]["probabilities"][1]
            return bool(abs(given - subject.right[0]) <= 1e-5)
    return False


def installed_size(folder: Path) -> Measure:
    """What `pip install roadworthy` without extras adds to an empty environment."""
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    before = _size(venv)
    command = [
        str(venv / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        str(ROOT),
    ]
    subprocess.run(command, check=True)
    return Measure("`pip install roadworthy` without extras, on disk", round((_size(venv) - before) / 1e6), "MB")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def main() -> int:
    """Measure, print, write; 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="length of each turn")
    parser.add_argument("--skip-size", action="store_true", help="do not install into a fresh environment")
    arguments = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("the benchmark needs two cores: one for the servers, one for the load")
    print(f"load average before: {os.getloadavg()[0]:.1f} (near 0 is quiet)", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        measures = measure(Path(folder), Setup(arguments.rounds, arguments.seconds))
        print(f"load average after: {os.getloadavg()[0]:.1f} (servers and load together give about 2)", flush=True)
        if not arguments.skip_size:
            measures.append(installed_size(Path(folder)))
    print(table(measures))
    print(f"\nwritten to {write('road', measures).relative_to(ROOT)}")
    return 0 if all(measure.met is not False for measure in measures) else 1


if __name__ == "__main__":
    sys.exit(main())
