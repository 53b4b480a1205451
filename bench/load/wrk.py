"""Runs wrk on its own core and checks the answers. Called by comparison.py; load/rows.lua is the script inside wrk."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.models import Rows

SCRIPT = Path(__file__).with_name("rows.lua")


@dataclass(frozen=True, slots=True)
class Target:
    """The target of the load. `authorization` is the header's value, or None."""

    port: int
    path: str
    authorization: str | None = None


@dataclass(slots=True)
class Load:
    """The result of a run of wrk. `answers` counts the distinct answer texts, beginning at `"predictions"`."""

    duration_s: float = 0.0
    requests: int = 0
    sent: int = 0
    socket_errors: int = 0
    percentiles_ms: dict[str, float] = field(default_factory=dict)
    failures: Counter[int] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Answered requests per second."""
        return self.requests / self.duration_s


def fire(target: Target, bodies: Path, *, connections: int, seconds: int, core: int | None) -> Load:
    """Send the bodies of a file (one per line) in a cycle over keep-alive connections; wrk is pinned to `core`."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(SCRIPT)]
        command += [f"http://127.0.0.1:{target.port}", "--", str(bodies), target.path, target.authorization or "-"]
        pinned = command if core is None else ["taskset", "-c", str(core), *command]
        subprocess.run([*pinned, str(report)], check=True, capture_output=True, timeout=seconds + 60)
        return _read(report.read_text())


def _read(report: str) -> Load:
    load = Load()
    for line in report.splitlines():
        kind, *values = line.split("\t", 2)
        if kind == "answer":
            load.answers[values[1]] += int(values[0])
        elif kind == "status":
            load.failures[int(values[0])] += int(values[1])
        elif kind == "duration_us":
            load.duration_s = int(values[0]) / 1e6
        elif kind.startswith("p"):
            load.percentiles_ms[kind.removesuffix("_us")] = int(values[0]) / 1000
        else:
            setattr(load, kind, int(values[0]))
    return load


def probability(answer: str) -> float:
    """The second class's probability in an answer's text, which begins at `"predictions"`."""
    document, _ = json.JSONDecoder().raw_decode("{" + answer)
    return float(document["predictions"][0]["probabilities"][1])


def wrong_answers(load: Load, right: Rows, read: Callable[[str], float] = probability, tolerance: float = 1e-5) -> int:
    """The number of answers that do not match the requests, each expected as often as its row was sent.

    wrk does not know which request an answer belongs to, so the answers are compared as a multiset: requests cycle through the
    rows in order, so every row was sent a known number of times; answers to requests open at the end may be missing. The exact
    pairing of inputs with outputs is checked on the stored records.
    """
    asked = np.full(len(right), load.sent // len(right))
    asked[: load.sent % len(right)] += 1
    order = np.argsort(right, kind="stable")
    edges = np.flatnonzero(np.diff(right[order]) > 2 * tolerance) + 1  # rows with indistinguishable answers are grouped
    middles = [float(np.mean(part)) for part in np.split(right[order], edges)]
    open_for = [int(part.sum()) for part in np.split(asked[order], edges)]
    got = [0] * len(middles)
    starts = right[order][np.concatenate([[0], edges])]
    ends = right[order][np.concatenate([edges - 1, [len(right) - 1]])]
    wrong = 0
    for text, count in load.answers.items():
        value = read(text)
        place = int(np.clip(np.searchsorted(starts, value + tolerance, side="right") - 1, 0, len(middles) - 1))
        if starts[place] - tolerance <= value <= ends[place] + tolerance:
            got[place] += count
        else:
            wrong += count
    return wrong + sum(max(0, have - most) for have, most in zip(got, open_for, strict=True))
