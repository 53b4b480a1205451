"""E18: a shadowed version that crashes its process affects only the copied request."""

from __future__ import annotations

import asyncio
from pathlib import Path

from roadworthy.contract.evidence import CANARY, Excluded
from roadworthy.contract.snapshot import RolloutEntry
from roadworthy.foundation.slab import SlabReader, create_slab
from roadworthy.runtime.manager import Version
from roadworthy.runtime.pending import Answer
from roadworthy.runtime.placement import PROCESS, Placed
from roadworthy.serving.metrics import executing, open_worker_metrics, read_totals
from roadworthy.serving.rollout.assignment import Mirror
from roadworthy.serving.rollout.judging import RolloutCounters
from tests.conftest import SUM
from tests.runtime.runners.isolated.runners import Caller, StartRunner, play, rows, start_runner

__all__ = ["start_runner"]


def test_e18_a_copy_that_kills_its_runner_is_counted_and_let_go(start_runner: StartRunner, tmp_path: Path) -> None:
    """It counts as neither a pair nor a bad event; the lease and the gauge that reveals the crash are released."""
    start_runner("segfault")
    create_slab(tmp_path / "slab", 2)
    metrics = open_worker_metrics(tmp_path / "slab", 0)
    slab = SlabReader(tmp_path / "slab")

    async def scene(caller: Caller) -> None:
        await caller.ready()
        digest = caller.batcher.digest
        version = Version(digest, "planted", SUM, Placed(PROCESS, "shadowed"), caller.batcher)
        rollout = RolloutEntry("r", "sha256:stable", digest, shadow=10_000, signals=("errors",))
        gauge = metrics.shadowing(digest)
        shadow = Mirror(version, rollout, RolloutCounters(metrics.evidence, rollout, 1, SUM), gauge, 10.0)
        shadow.begin(rows(13), {"errors": False}, Answer(rows(1), 0, 1), version)
        await asyncio.sleep(0)  # the copy is handed over
        assert _in_flight(slab) == {digest}
        await caller.until(lambda: read_totals(slab).evidence.counts("r").excluded)
        counts = read_totals(slab).evidence.counts("r")
        assert counts.excluded == (Excluded(1, CANARY, "shed", 1),)
        assert (counts.pairs, counts.variants, _in_flight(slab)) == ((), (), set())
        assert version.leases.held == 0

    play(tmp_path, scene)


def _in_flight(slab: SlabReader) -> set[str]:
    return executing({run.name: run.values[0] for run in slab.read(0)[1]})
