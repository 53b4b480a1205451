"""Ten times more requests than can be answered: `make bench-overload`. Measures goodput, refusal times and recovery.

The service runs on core 0, the load on core 1. There are two models of at least 5 ms per row: one waits (like a native model that
releases the GIL), one computes in Python.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import roadworthy as rw
from bench.load.open_loop import Run, closed_loop, open_loop, percentile
from bench.load.slow_models import computes, waits
from bench.load.wrk import Target
from bench.models import Subject
from bench.report import Measure, table, write
from bench.road import ROOT
from bench.service import Service, installed

COMMAND = "make bench-overload"
TIMEOUT_MS = 1_000
OVERLOAD = 10
CALLERS = 32
NORMAL_SHARE = 0.5
"""Load before and after the burst, as a share of capacity."""
REFUSED = (429, 503)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Duration of each part of a measurement, in seconds."""

    capacity_s: float = 5.0
    normal_s: float = 10.0
    overload_s: float = 30.0
    after_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Burst:
    """The measurements: right answers per second at capacity, and the loads before, during and after."""

    capacity: float
    before: Run
    during: Run
    after: Run

    def back_after_s(self) -> float:
        """Whole seconds from the end of the burst until the 99th percentile of all later answers is at most twice its previous
        value plus 10 ms; infinite if that never happens."""
        limit = 2 * percentile(self.before.times_ms(200), 0.99) + 10
        for second in range(int(self.after.seconds)):
            since = self.after.times_ms(200, 0, *REFUSED, 504, since_s=second)
            fine = all(each.right for each in self.after.samples if each.due_s >= second)
            if since and fine and percentile(since, 0.99) <= limit:
                return float(second)
        return float("inf")


def burst(target: Target, lengths: Lengths) -> Burst:
    """Find the capacity, then apply normal load, overload, and normal load again."""
    closed_loop(target, CALLERS, 1.0)
    capacity = closed_loop(target, CALLERS, lengths.capacity_s).rate()
    if not capacity:
        raise RuntimeError(f"{target.path} gives no right answer")
    before = open_loop(target, capacity * NORMAL_SHARE, lengths.normal_s)
    during = open_loop(target, capacity * OVERLOAD, lengths.overload_s)
    return Burst(capacity, before, during, open_loop(target, capacity * NORMAL_SHARE, lengths.after_s))


def measures(name: str, seen: Burst) -> list[Measure]:
    """The measures of one model."""
    during, after = seen.during, seen.after
    goodput = during.rate()
    ratio = goodput / seen.capacity
    refused = during.times_ms(*REFUSED)
    normal, slow = percentile(seen.before.times_ms(200), 0.99), percentile(during.times_ms(200), 0.99)
    broken = during.count(0) + during.open + sum(each.status == 200 and not each.right for each in during.samples)
    unforeseen = len(during.samples) - during.count(200, 0, *REFUSED, 504)
    back = seen.back_after_s()
    counts = Counter(each.status for each in during.samples)
    statuses = ", ".join(f"{status or 'none'}: {count:,}" for status, count in sorted(counts.items()))
    print(f"{name}: answers at {OVERLOAD} x by status: {statuses}; not sent: {during.unsent}", flush=True)

    def figure(what: str, value: float, unit: str, target: str | None = None, met: bool | None = None) -> Measure:
        shown = round(value, 2) if math.isfinite(value) else -1.0
        return Measure(f"{name}: {what}", shown, unit, target=target, met=met, command=COMMAND)

    return [
        Measure(
            f"{name}: right answers a second at {OVERLOAD} x overload, against capacity", round(goodput, 1), "requests/s",
            round(seen.capacity, 1), round(ratio, 3), ">= 0.9 x", ratio >= 0.9, COMMAND,
        ),
        figure("refusals, median", percentile(refused, 0.5), "ms", "< 10 ms", percentile(refused, 0.5) < 10),
        figure("refusals, 99th percentile", percentile(refused, 0.99), "ms", "< 10 ms", percentile(refused, 0.99) < 10),
        figure("accepted, 99th percentile", slow, "ms", f"<= {TIMEOUT_MS} ms", slow <= TIMEOUT_MS + 10),
        figure("expired after they were let in", during.count(504), "requests"),
        figure("wrong, broken or never answered", broken + unforeseen, "requests", "0", broken + unforeseen == 0),
        figure("99th percentile before", normal, "ms"),
        figure("99th percentile after, from 5 s on", percentile(after.times_ms(200, since_s=5), 0.99), "ms"),
        figure("back to normal after the burst", back, "s", "<= 5 s", back <= 5),
    ]  # fmt: skip


def subject(folder: Path, name: str, function: Callable[[Any], Any]) -> Subject:
    """Pack a function."""
    rows = np.random.default_rng(0).uniform(0, 9, size=(40, 3)).round(3)
    package = rw.pack(function, name=name, inputs=rows, out=folder)
    if package.path is None:
        raise RuntimeError("the package was not written")
    return Subject(name, package.path, folder, rows, rows.sum(axis=1), package.digest)


def deploy(service: Service, model: Subject) -> Target:
    """Push the model and serve it with a timeout of TIMEOUT_MS."""
    gateway, control, _ = service.ports
    service.run("push", str(model.package), "--allow-code", str(model.code))
    urls = [f"http://127.0.0.1:{port}" for port in (gateway, control)]
    with rw.Client(urls[0], key=service.key, control_url=urls[1]) as client:
        asked = client.deploy(f"{model.name}:1", model.name, policy={"timeout_ms": TIMEOUT_MS})
        client.wait(asked, timeout_s=60)
    return service.target(model.name)


def main() -> int:
    """Measure, print, write; exit status 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of the overload")
    parser.add_argument("--model", choices=["waits", "computes"], help="measure only this model")
    arguments = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("the benchmark needs two cores: one for the service, one for the load")
    os.sched_setaffinity(0, {1})
    found: list[Measure] = []
    for function in (waits, computes):
        if arguments.model in (None, function.__name__):
            with tempfile.TemporaryDirectory() as folder:
                model = subject(Path(folder), function.__name__, function)
                with installed(Path(folder), [], core=0) as service:
                    seen = burst(deploy(service, model), Lengths(overload_s=arguments.seconds))
            found += measures(function.__name__, seen)
    print(table(found))
    print(f"\nwritten to {write('overload', found).relative_to(ROOT)}")
    return 0 if all(measure.met is not False for measure in found) else 1


if __name__ == "__main__":
    sys.exit(main())
