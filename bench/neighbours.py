"""The cost of one caller's large bodies for other callers: `make bench-neighbours`. docs/benchmarks.md explains its table.

One worker answers the measured callers' requests of one row. Meanwhile three attackers send bodies that are within the limits but
expensive to read (`bench/load/heavy.py`), codec by codec, the largest valid ones included. The service has core 0; attackers and
callers are separate processes on core 1. The lag of the worker's event loop is measured inside the worker (`bench/load/lag`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

import roadworthy as rw
from bench.load.heavy import COLUMNS, LEGAL, NAMES, Heavy, heavies, numbers
from bench.report import Measure, finish
from bench.service import Service, installed

ATTACKERS, CALLERS, PAUSE_S = 3, 4, 0.01
P99_MS, LAG_MS = 50.0, 20.0
LAG_FOLDER = Path(__file__).parent / "load" / "lag"
_LAG = np.dtype([("at", "<f8"), ("late", "<f8"), ("computed", "<f8"), ("waited", "<f8")])
Lags = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Seen:
    """The measurements of one round.

    Attributes:
        times_ms: latencies of the callers' answers. failed: number of calls without an answer.
        lags: of the event loop, as written by `bench/load/lag`.
        counts: number of the attackers' answers, by body and status.
    """

    times_ms: np.ndarray[Any, np.dtype[np.float64]]
    failed: int
    lags: Lags
    counts: dict[str, int]

    @property
    def p99_ms(self) -> float:
        """The 99th percentile of the callers' latencies; infinite without answers."""
        return float(np.percentile(self.times_ms, 99)) if len(self.times_ms) else float("inf")


def lag_ms(lags: Lags, share: float, of: str = "late") -> float:
    """The lag in milliseconds that was not exceeded for that share of the time; each lag is weighted by its duration."""
    late = np.sort(lags[of])
    if not len(late):
        return float("inf")
    weights = np.cumsum(np.maximum(late, 0.002))
    return float(late[min(np.searchsorted(weights, share * weights[-1]), len(late) - 1)] * 1e3)


def pack(folder: Path) -> rw.Package:
    """A small model that runs inline, so that the benchmark measures reading and not the model."""
    import pandas as pd

    rows = pd.DataFrame(numbers()[:400], columns=NAMES)
    return rw.pack(LogisticRegression().fit(rows, rows.c0 > 0), name="lr", inputs=rows, out=folder)


def one_round(service: Service, bodies: list[tuple[Heavy, Path]], seconds: float, lag_file: Path) -> Seen:
    """Run callers together with attackers that send these bodies; without bodies, callers alone."""
    keys = {"Authorization": f"Bearer {service.key}"}
    asked = {"instances": [[0.1] * COLUMNS]}
    call = {"what": "call", "port": service.ports[0], "path": "/v1/models/lr:predict", "body": json.dumps(asked)}
    call |= {"headers": {**keys, "Content-Type": "application/json"}, "callers": CALLERS, "pause_s": PAUSE_S}
    sent = [{"name": heavy.name, "file": str(file), "headers": {**keys, **heavy.headers()},
             "path": "/v2/models/lr/infer" if heavy.is_v2 else "/v1/models/lr:predict"}
            for heavy, file in bodies]  # fmt: skip
    with ExitStack() as stack:
        attackers = [
            _client(
                stack,
                {"what": "attack", "port": service.ports[0], "bodies": sent, "first": first, "seconds": seconds + 1},
            )
            for first in range(ATTACKERS if sent else 0)
        ]
        time.sleep(0.5)  # the attack has begun
        begun = time.monotonic()
        told = _answer(_client(stack, {**call, "seconds": seconds}))
        ended = time.monotonic()
        counts: dict[str, int] = {}
        for attacker in attackers:
            for name, count in _answer(attacker).items():
                counts[name] = counts.get(name, 0) + count
    lags = np.fromfile(lag_file, dtype=_LAG)
    lags = lags[(lags["at"] >= begun) & (lags["at"] <= ended)]
    return Seen(np.array(told["times"]) * 1e3, told["failed"], lags, counts)


def _client(stack: ExitStack, orders: dict[str, Any]) -> subprocess.Popen[str]:
    command = ["taskset", "-c", "1", sys.executable, "-m", "bench.load.neighbour"]
    if (os.cpu_count() or 1) < 2:
        command = command[3:]
    process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    assert process.stdin is not None
    process.stdin.write(json.dumps(orders) + "\n")
    process.stdin.close()
    return process


def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    answer: dict[str, Any] = json.loads(process.stdout.read())
    return answer


def figures(name: str, seen: Seen, legal: set[str]) -> list[Measure]:
    """The measures of one round."""
    late = lag_ms(seen.lags, 0.999)
    lost = seen.failed + sum(n for what, n in seen.counts.items() if what.endswith((" 0", " 500", " 502", " 504")))
    answered = {what.rpartition(" ")[0] for what in seen.counts if what.endswith(" 200")}
    worst = float(seen.lags["late"].max()) * 1e3 if len(seen.lags) else float("inf")
    own, core = (float(seen.lags[part].max()) * 1e3 if len(seen.lags) else 0.0 for part in ("computed", "waited"))
    print(
        f"{name}: {len(seen.times_ms)} calls, loop late at most {worst:.1f} ms; between two timers "
        f"it computed at most {own:.1f} ms and waited for the core at most {core:.1f} ms"
    )
    for what, count in sorted(seen.counts.items()):
        print(f"    {what}: {count}", flush=True)

    def figure(what: str, value: float, unit: str, most: float) -> Measure:
        return Measure(f"{name}: {what}", round(value, 2), unit, target=f"<= {most:g} {unit}", met=value <= most)

    measures = [
        figure("others' answers, 99th percentile", seen.p99_ms, "ms", P99_MS),
        figure("the loop is late, for 99.9 % of the time at most", late, "ms", LAG_MS),
        Measure(f"{name}: the loop computed between two timers at most", round(own, 2), "ms"),
        Measure(f"{name}: the loop waited for the core at most", round(core, 2), "ms"),
        figure("not answered, of all", lost, "requests", 0),
    ]
    if legal:
        figure_name, right = f"{name}: largest legal bodies answered", len(legal & answered)
        measures.append(Measure(figure_name, right, "", target=f"{len(legal)}", met=right == len(legal)))
    return measures


def measure(folder: Path, seconds: float, only: str | None) -> list[Measure]:
    """Measure callers alone, then with attackers codec by codec, then with all bodies."""
    every = [heavy for heavy in heavies() if only is None or only in heavy.name]
    files = []
    for number, heavy in enumerate(every):
        file = folder / f"body-{number}"
        file.write_bytes(heavy.make())
        files.append((heavy, file))
    lag_file = folder / "lags"
    os.environ.update(LAG_FILE=str(lag_file), PYTHONPATH=str(LAG_FOLDER))
    package = pack(folder)
    with installed(folder, [], 0 if (os.cpu_count() or 1) > 1 else None, workers=1) as service:
        service.run("push", str(package.path))
        service.run("deploy", "lr:1", "--endpoint", "lr")
        one_round(service, files, 1.0, lag_file)  # warm-up: starts the reader processes, touches pages
        measures = figures("alone", one_round(service, [], seconds, lag_file), set())
        for codec in dict.fromkeys(heavy.codec for heavy in every):
            chosen = [(heavy, file) for heavy, file in files if heavy.codec == codec]
            legal = {heavy.name for heavy, _ in chosen if heavy.kind == LEGAL}
            measures += figures(codec, one_round(service, chosen, seconds, lag_file), legal)
        measures += figures("everything", one_round(service, files, 2 * seconds, lag_file), set())
    return measures


def main() -> int:
    """Measure, print, write; exit status 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=12.0, help="seconds of each of the nine rounds")
    parser.add_argument("--only", help="send only bodies whose name contains this, and write no file")
    arguments = parser.parse_args()
    print(f"load average before: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        measures = measure(Path(folder), arguments.seconds, arguments.only)
    print(f"load average after: {os.getloadavg()[0]:.1f}")
    return finish("neighbours", measures, whole=arguments.only is None)


if __name__ == "__main__":
    sys.exit(main())
