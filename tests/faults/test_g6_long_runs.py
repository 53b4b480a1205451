"""G6: a long request of an inline version whose run does not end. Its worker is replaced, and the version is blamed for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from roadworthy.contract.policy import Policy
from roadworthy.foundation.slab import GAUGE, SlabReader
from roadworthy.serving.metrics import suspects
from roadworthy.supervisor.plan import WorkerLimits
from roadworthy.supervisor.watch import WorkerWatch
from tests.conftest import StartWorker, digest_of
from tests.waiting import eventually


def test_g6_a_long_run_that_does_not_end_is_seen(start_worker: StartWorker, make_plan: type[Any]) -> None:
    """The worker answers short requests meanwhile, but its heartbeat stops. It beats again if the run ends after all."""
    plan = make_plan()
    plan.endpoint("m", [plan.package(1, "gated-inline")], Policy(timeout_ms=250))
    worker = start_worker(plan, hang_s=1.0).wait_ready()
    slab = SlabReader(worker.folder / "run" / "slab")
    watch = WorkerWatch(slab, WorkerLimits(hang_s=3.0, look_s=0.0))
    child: Any = SimpleNamespace(process=worker.process, slot=0, stop_by=None, plan=SimpleNamespace(name="w"))

    def left() -> dict[str, int]:
        return {run.name: run.values[0] for run in slab.read(0)[1] if run.kind == GAUGE}

    assert worker.predict("m", [[1, 1, 0]] * 2_000).status_code == 504
    assert suspects(left()) == {digest_of(1)}
    eventually(lambda: watch.look([child])[0] == [child], "the worker counts as hung")
    assert worker.predict("m", [[1, 0, 0]]).json() == {"predictions": [1.0]}
    assert suspects(left()) == {digest_of(1)}
    eventually(lambda: "run-hangs" in (worker.folder / "log").read_text(), "the log says so")
    worker.open_gate()
    eventually(lambda: not watch.look([child])[0], "it beats again")
    assert suspects(left()) == set()
    assert worker.predict("m", [[1, 1, 0]] * 2_000).status_code == 200
