"""The gateway's speed before and after a change: `make bench-before BENCH_ARGS="--checkout ../before"`, where ../before is
a checkout of the previous commit with its own environment (`git worktree add ../before COMMIT; make -C ../before env`).

Both installations run at once on core 0, each with its own code, and get load alternately from core 1, so that other work on the
machine affects both equally. Every answer is checked. Neither checkout is changed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.binary import binary_against
from bench.comparison import Setup, faster, many_rows, median_ms, single_rows, slower
from bench.load.wrk import Target
from bench.models import Subject, onnx_trees, sklearn_trees
from bench.report import Measure, finish
from bench.service import installed

LEAST = 0.97
_MOST = round(1 / LEAST, 3)
ROWS = 20_000
_KINDS = {"cells": "scikit-learn, compiled", "cells-native": "scikit-learn, not compiled", "trees": "trees in ONNX"}
# The other checkout may lack this module, so this program does not use it.
_HOST = """
import json, sys
from functools import partial
from pathlib import Path
from bench.models import onnx_trees, sklearn_trees
from bench.service import installed
MAKERS = {"cells": sklearn_trees, "cells-native": partial(sklearn_trees, compiled=False), "trees": onnx_trees}
folder, core, names = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
with installed(folder, [MAKERS[name](folder, 600) for name in names], core) as service:
    targets = [service.target(name) for name in names]
    print(json.dumps([[to.port, to.path, to.authorization] for to in targets]), flush=True)
    sys.stdin.read()
"""
_MAKERS: dict[str, Callable[[Path, int], Subject]] = {
    "cells": sklearn_trees,
    "cells-native": partial(sklearn_trees, compiled=False),
    "trees": onnx_trees,
}


@contextmanager
def hosted(python: Path, folder: Path, names: Sequence[str], core: int | None) -> Iterator[list[Target]]:
    """Serve the models of these names with the code of another checkout; `python` is the interpreter of its environment."""
    command = [str(python), "-c", _HOST, str(folder), json.dumps(core), *names]
    host = subprocess.Popen(command, cwd=python.parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert host.stdout is not None
    try:
        lines = (line for line in host.stdout if line.startswith(b"["))
        yield [Target(*to) for to in json.loads(next(lines))]
    finally:
        host.communicate()


def compare(python: Path, folder: Path, setup: Setup, names: Sequence[str], rows: int = ROWS) -> list[Measure]:
    """Compare this checkout with that of `python`, model by model, with requests out of `rows` different rows."""
    (folder / "before").mkdir()
    subjects = [_MAKERS[name](folder, rows) for name in names]
    measures: list[Measure] = []
    with (
        hosted(python, folder / "before", names, setup.server_core) as before,
        installed(folder, subjects, setup.server_core) as service,
    ):
        for subject, other in zip(subjects, before, strict=True):
            measures += _compare(subject, service.target(subject.name), other, setup)
    return measures


def _compare(subject: Subject, ours: Target, other: Target, setup: Setup) -> Iterator[Measure]:
    kind, requests = _KINDS[subject.name], 6 * setup.rounds * setup.seconds
    crowd = single_rows(subject, ours, other, setup)
    yield faster(f"1 row, {setup.connections} connections, {kind}, against the checkout before", crowd, LEAST)
    alone = single_rows(subject, ours, other, replace(setup, connections=1), median_ms)
    yield slower(f"1 row, 1 connection, p50, {kind}", alone, _MOST)
    yield slower(f"100 rows in one JSON request, {kind}", many_rows(subject, ours, other, 100, requests), _MOST)
    if subject.name == "trees":  # the model with one tensor as its input
        raw, their_raw = (Target(to.port, f"/v2/models/{subject.name}/infer", to.authorization) for to in (ours, other))
        rows = min(1_000, len(subject.rows))
        binary = binary_against(subject, raw, their_raw, rows, requests)
        yield slower(f"{rows:,} rows as V2 binary tensors, {kind}", binary, _MOST)


def main() -> int:
    """Measure and print; exit status 1 when this checkout is slower."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkout", type=Path, required=True, help="checkout of the previous commit, with its .venv")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=int, default=1, help="length of each round")
    parser.add_argument("--only", nargs="+", choices=list(_KINDS), default=list(_KINDS), help="models")
    arguments = parser.parse_args()
    python = arguments.checkout.resolve() / ".venv" / "bin" / "python"
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(arguments.rounds, arguments.seconds)
        return finish("before", compare(python, Path(folder), setup, arguments.only), whole=False)


if __name__ == "__main__":
    sys.exit(main())
