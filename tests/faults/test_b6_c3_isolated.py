"""Real worker, runner and packages: code runs isolated, so that its crash or slowness affects no other model."""

from __future__ import annotations

import ctypes
import fcntl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import roadworthy as rw
from roadworthy.contract.snapshot import PackageEntry
from roadworthy.package.archive import unpack
from roadworthy.runtime.runners.isolated.launch import runner_command
from tests.gates import closed
from tests.graphs import sum_graph
from tests.runtime.runners.isolated.runners import StartRunner, start_runner
from tests.waiting import DEADLINE_S, eventually

__all__ = ["start_runner"]

CRASH, GATED = 13.0, 14.0


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A callable, which carries code, and an ONNX file, which does not."""

    out = tmp_path_factory.mktemp("dist")
    path = str(out / "gate")

    def fragile(rows: Any) -> Any:
        """Sums, but crashes on CRASH and waits at the gate on GATED."""
        if (rows[:, 0] == CRASH).any():
            ctypes.string_at(0)
        if (rows[:, 0] == GATED).any():
            with open(path) as gate:  # noqa: PTH123 - keeps the packed function short
                fcntl.flock(gate, fcntl.LOCK_SH)
        return rows.sum(axis=1)

    rows = np.random.default_rng(0).random((40, 3))
    file = sum_graph(out, 3)
    return {
        "fragile": rw.pack(fragile, name="fragile", inputs=rows, out=out),
        "light": rw.pack(file, name="light", inputs=rows.astype(np.float32), out=out),
        "gate": Path(path),
    }


@pytest.fixture
def served(
    packages: dict[str, Any],
    start_worker: Callable[..., Any],
    start_runner: StartRunner,
    make_plan: type[Any],
    tmp_path: Path,
) -> Any:
    """Both behind one worker, with a runner for the package with code."""
    plan = make_plan()
    for name in ("fragile", "light"):
        package = packages[name]
        unpack(package.path, tmp_path / "packages" / package.digest.removeprefix("sha256:"))
        plan.packages.append(PackageEntry(package.digest, name, 1, 1, "me" if name == "fragile" else None))
        plan.models[package.digest] = {"signature": package.signature.to_document()}
        plan.endpoint(name, [package.digest])

    def start() -> Any:
        return start_runner(digest=packages["fragile"].digest, allowed_by="me", command=runner_command()[1:])

    command = ["-m", "roadworthy.gateway.worker"]
    worker = start_worker(plan, folder=tmp_path, command=command, runners=True)
    return worker, start(), start


def test_c3_a_crash_in_native_code_is_one_request(served: Any) -> None:
    """The request that crashed the runner gets 503; worker and other model continue; after the restart answers are right."""
    worker, runner, start = served
    worker.wait_ready()
    assert worker.predict("fragile", [[1, 2, 3]]).json() == {"predictions": [6.0]}
    pid = worker.process.pid
    reply = worker.predict("fragile", [[CRASH, 2, 3]])
    assert (reply.status_code, reply.json()["code"]) == (503, "runner-died")
    assert runner.process.wait(DEADLINE_S) == -11
    assert worker.predict("light", [[1, 2, 3]]).json() == {"predictions": [6.0]}
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(worker.predict, "fragile", [[4, 5, 6]])  # no runner can answer it yet
        start()
        assert waits.result(DEADLINE_S).json() == {"predictions": [15.0]}
    assert worker.process.poll() is None
    assert worker.process.pid == pid


def test_b6_a_slow_model_slows_no_other(served: Any, packages: dict[str, Any]) -> None:
    """While the runner waits in its model, the other model answers."""
    worker, runner, _ = served
    worker.wait_ready()
    with ThreadPoolExecutor(4) as pool:
        with closed(packages["gate"]):
            slow = [pool.submit(worker.predict, "fragile", [[GATED, 2, 3]]) for _ in range(3)]
            eventually(lambda: runner.state and runner.state.busy_since_ns, "the model has begun")
            for _ in range(50):
                assert worker.predict("light", [[1, 2, 3]]).json() == {"predictions": [6.0]}
            assert not any(future.done() for future in slow)
        assert all(future.result(DEADLINE_S).status_code == 200 for future in slow)
