"""The benchmark of the road from a package to an answer: `make bench-road`. docs/benchmarks.md explains how to read its table.

It measures a gateway's idle memory, the time to its first answer, and its installed size. gateway.py measures its speed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.models import Subject, onnx_trees, sklearn_trees
from bench.report import Measure, finish
from bench.service import Service, ask, installed

ROOT = Path(__file__).resolve().parents[1]
FIRST_ASKED = 50
"""Number of answers before memory is measured."""


def measure(folder: Path, rounds: int, core: int | None) -> list[Measure]:
    """All the measures that need a running service."""
    trees, cells = onnx_trees(folder, 1_000), sklearn_trees(folder, 1_000)
    with installed(folder, [trees], core) as service:
        measures = idle_memory(service, trees)
        service.deploy(cells)
        return [*measures, first_answer(service, cells, rounds)]


def idle_memory(service: Service, subject: Subject) -> list[Measure]:
    """Memory of the worker that serves one small ONNX model, after some answers and a moment of rest."""
    for _ in range(FIRST_ASKED):
        ask(service, subject)
    time.sleep(2.0)
    memories = [worker.memory_full_info() for worker in service.worker_processes()]
    rss, pss = max(memory.rss for memory in memories) / 1e6, max(memory.pss for memory in memories) / 1e6
    return [
        Measure("idle worker with one small ONNX model, resident", round(rss, 1), "MB", target="< 150 MB", met=rss < 150),
        Measure("the same, its share of what processes share (PSS)", round(pss, 1), "MB"),
    ]


def first_answer(service: Service, subject: Subject, rounds: int) -> Measure:
    """Seconds from `roadworthy up` to the first right answer of a compiled model, with warm disk caches."""
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


def installed_size(folder: Path) -> Measure:
    """The size that `pip install roadworthy` without extras adds to an empty environment."""
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
    """Measure, print, write; exit status 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--skip-size", action="store_true", help="do not measure the size of a new environment")
    arguments = parser.parse_args()
    print(f"load average before: {os.getloadavg()[0]:.1f} (near 0 is quiet)", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        measures = measure(Path(folder), arguments.rounds, core=0)
        if not arguments.skip_size:
            measures.append(installed_size(Path(folder)))
    return finish("road", measures)


if __name__ == "__main__":
    sys.exit(main())
