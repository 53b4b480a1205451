"""Hostile requests to the whole service: `make bench-hostile`. Nothing may crash, and memory may not grow with them.

The same check must catch a worker with a planted leak.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench.load.hostile import Route
from bench.load.hostile_load import LIMIT_MIB, Growth, growth
from bench.models import onnx_trees
from bench.report import Measure, table, write
from bench.road import ROOT
from bench.service import Service, ask, installed, wait_for_answer
from roadworthy.cli.plans import worker_options
from roadworthy.foundation.slab import create_slab
from roadworthy.foundation.sockets import listen
from roadworthy.settings import load_settings

COMMAND = "make bench-hostile"
LEAKING_WORKER = Path(__file__).parent / "load" / "leaking_worker.py"
CONTROL_REQUESTS = 1_000


def measure(folder: Path, requests: int, core: int | None) -> list[Measure]:
    """Attack the service, measure its memory, and check that a leak would be noticed."""
    subject = onnx_trees(folder, 600)
    with installed(folder, [subject], core) as service:
        route = Route(b"/v1/models/trees:predict", (b"Authorization: Bearer " + service.key.encode(),))
        if not ask(service, subject):
            raise RuntimeError("the service does not answer correctly before the attack")
        before = _family(service)
        seen = growth(service.ports[0], route, lambda: _family(service), requests, warm=min(requests, 2_000))
        lost = [process for process in before if not process.is_running()]
        right = ask(service, subject)
    with leaking(service.home / "gateway") as (port, process):
        control = growth(port, route, lambda: [process], CONTROL_REQUESTS, warm=300)
    return [*_of_service(seen, len(lost), right=right), *_of_control(control)]


def _of_service(seen: Growth, lost: int, *, right: bool) -> list[Measure]:
    statuses = ", ".join(f"{number or 'none'}: {count}" for number, count in sorted(seen.outcome.statuses.items()))
    print(f"answers by status: {statuses}", flush=True)
    failed = sum(count for status, count in seen.outcome.statuses.items() if status >= 500 and status not in (501, 505))
    figure = round(seen.per_hundred_mib, 3)
    limit = f"< {LIMIT_MIB:g} MiB"
    return [
        Measure("hostile requests", seen.sent, "requests", target=">= 20,000", met=seen.sent >= 20_000, command=COMMAND),
        Measure("processes lost", lost, "processes", target="0", met=lost == 0, command=COMMAND),
        Measure("answers of 500 and above but 501 and 505", failed, "answers", target="0", met=failed == 0, command=COMMAND),
        Measure("right answer afterwards", int(right), "of 1", target="1", met=right, command=COMMAND),
        Measure(
            "resident memory of all processes, growth a 100",
            figure,
            "MiB",
            target=limit,
            met=seen.bounded,
            command=COMMAND,
        ),
        Measure("the same, in all", round(seen.after_mib - seen.before_mib, 1), "MiB", command=COMMAND),
    ]


def _of_control(control: Growth) -> list[Measure]:
    name = "a worker with a planted leak, growth a 100 (has to be caught)"
    figure = round(control.per_hundred_mib, 2)
    return [Measure(name, figure, "MiB", target=f">= {LIMIT_MIB:g} MiB", met=not control.bounded, command=COMMAND)]


def _family(service: Service) -> list[psutil.Process]:
    """The service's processes."""
    if service.process is None:
        return []
    parent = psutil.Process(service.process.pid)
    return [parent, *parent.children(recursive=True)]


@contextmanager
def leaking(folder: Path) -> Iterator[tuple[int, psutil.Process]]:
    """A worker with the planted leak in the gateway folder of a stopped service: its port and process."""
    slab = folder / "run" / "leaking-slab"
    create_slab(slab, 2)
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    options = worker_options(load_settings(environment={"ROADWORTHY_HOME": str(folder)}, folder=folder))
    document = {**options, "folder": str(folder), "fd": listener.fileno(), "slot": 0, "slab": str(slab)}
    process = subprocess.Popen([sys.executable, str(LEAKING_WORKER)], stdin=subprocess.PIPE, pass_fds=[listener.fileno()])
    listener.close()
    if process.stdin is None:
        raise RuntimeError("the worker has no standard input")
    try:
        process.stdin.write(json.dumps(document).encode() + b"\n")
        process.stdin.flush()
        wait_for_answer(f"http://127.0.0.1:{port}/readyz", 30)
        yield port, psutil.Process(process.pid)
    finally:
        process.stdin.close()
        process.terminate()
        process.wait(30)


def main() -> int:
    """Measure, print, write; exit status 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measures = measure(Path(folder), arguments.requests, core=0)
    print(table(measures))
    print(f"\nwritten to {write('hostile', measures).relative_to(ROOT)}")
    return 0 if all(measure.met is not False for measure in measures) else 1


if __name__ == "__main__":
    sys.exit(main())
