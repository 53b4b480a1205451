"""Breakers share the slab across workers and restarts, and `/metrics` shows breakers, caches and fallbacks."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from roadworthy.agent.metrics.exposition import AgentFacts, GatewayCollector, render
from roadworthy.agent.sync.shipping import GatewayState, with_state
from roadworthy.contract.policy import BreakerPolicy, Policy
from roadworthy.contract.snapshot import EndpointEntry, PackageEntry, RolloutEntry, Snapshot, VariantEntry
from roadworthy.contract.telemetry import READY, VersionState, WorkerReport
from roadworthy.foundation.slab import SlabReader, create_slab
from roadworthy.runtime.layers.breaker import LOOK_S, Circuit, State
from roadworthy.serving.layers import BreakerCells, LayerCounts, owner_of
from roadworthy.serving.metrics import WorkerMetrics, open_worker_metrics, read_totals

DIGESTS = ["sha256:" + letter * 64 for letter in "ab"]
POLICY = BreakerPolicy(min_requests=10, window_s=3_600.0, open_s=3_600.0)
LOOK_NS = int(LOOK_S * 1e9) + 1

FAILING = """
import sys, time
from pathlib import Path
from roadworthy.contract.policy import BreakerPolicy
from roadworthy.serving.layers import BreakerCells, owner_of
from roadworthy.serving.metrics import open_worker_metrics
from roadworthy.runtime.layers.breaker import Circuit
metrics = open_worker_metrics(Path(sys.argv[1]), int(sys.argv[2]))
circuit = Circuit(BreakerPolicy(min_requests=10, window_s=3_600.0, open_s=3_600.0), BreakerCells(metrics, "flights", 0, owner_of("sha256:" + "a" * 64, 3_600.0)))
for _ in range(int(sys.argv[3])):
    circuit.observe(time.monotonic_ns(), failed=True, slow=False)
"""  # noqa: E501 - a program


@pytest.fixture
def slab(tmp_path: Path) -> Path:
    """A slab of four slots."""
    create_slab(tmp_path / "slab", 4)
    return tmp_path / "slab"


def circuit(metrics: WorkerMetrics, digest: str = DIGESTS[0]) -> Circuit:
    """The breaker of one worker."""
    return Circuit(POLICY, BreakerCells(metrics, "flights", 0, owner_of(digest, POLICY.window_s)))


def snapshot(digest: str = DIGESTS[0]) -> Snapshot:
    """One endpoint with a breaker."""
    entry = EndpointEntry("flights", 1, (VariantEntry(digest, 10_000),), {}, Policy(breaker=POLICY))
    packages = tuple(PackageEntry(each, "m", number + 1, 1) for number, each in enumerate(DIGESTS))
    return Snapshot("e", 1, packages, (entry,))


def scrape(slab: Path, digest: str = DIGESTS[0]) -> str:
    """The text of /metrics."""
    reader = SlabReader(slab)
    facts = AgentFacts(snapshot(digest), (), None, 0)
    return render(GatewayCollector(lambda: read_totals(reader), lambda: facts)).decode()


def state(text: str) -> set[str]:
    """The labels of the state that /metrics shows."""
    return {
        line.partition(" ")[0]
        for line in text.splitlines()
        if line.startswith("roadworthy_breaker_state{") and line.endswith(" 1.0")
    }


def test_processes_open_it_together_and_a_dead_one_still_counts(slab: Path) -> None:
    """Two processes saw five failures each and are gone; the third worker opens the circuit, the fourth follows."""
    for slot in ("0", "1"):
        subprocess.run([sys.executable, "-c", FAILING, str(slab), slot, "5"], check=True)
    third, fourth = circuit(open_worker_metrics(slab, 2)), circuit(open_worker_metrics(slab, 3))
    now = time.monotonic_ns()
    assert not third.admits(now)
    assert not fourth.admits(now + 1)
    assert fourth.state(now + 1) is State.OPEN


def test_a_replacement_finds_it_open(slab: Path) -> None:
    """The slot's next process continues from the cells that it finds."""
    subprocess.run([sys.executable, "-c", FAILING, str(slab), "0", "10"], check=True)
    assert not circuit(open_worker_metrics(slab, 0)).admits(time.monotonic_ns())


def test_another_version_begins_anew_in_the_same_room(slab: Path) -> None:
    """A thousand versions need the room of one, and none inherits the counts of another."""
    metrics = open_worker_metrics(slab, 0)
    for number in range(1_000):
        fresh = circuit(metrics, f"sha256:{number:064x}")
        now = time.monotonic_ns()
        assert fresh.admits(now)
        for _ in range(20):
            fresh.observe(now, failed=True, slow=False)
        assert not fresh.admits(now + LOOK_NS)
    assert metrics._writer.fullness < 0.01


def test_what_is_still_on_its_way_to_an_old_version_does_not_count_for_the_new(slab: Path) -> None:
    """The old breaker's last outcomes are discarded."""
    metrics = open_worker_metrics(slab, 0)
    old, new = circuit(metrics, DIGESTS[0]), circuit(metrics, DIGESTS[1])
    now = time.monotonic_ns()
    for _ in range(50):
        old.observe(now, failed=True, slow=False)
    assert new.admits(now + LOOK_NS)


def test_the_state_is_told(slab: Path) -> None:
    """One of three states for each version in the snapshot with a breaker; closed where nothing was counted."""
    assert state(scrape(slab)) == {'roadworthy_breaker_state{endpoint="flights",state="closed",version="m:1"}'}
    one = circuit(open_worker_metrics(slab, 0))
    for _ in range(10):
        one.observe(time.monotonic_ns(), failed=True, slow=False)
    assert not one.admits(time.monotonic_ns())
    assert state(scrape(slab)) == {'roadworthy_breaker_state{endpoint="flights",state="open",version="m:1"}'}
    assert state(scrape(slab, DIGESTS[1])) == {'roadworthy_breaker_state{endpoint="flights",state="closed",version="m:2"}'}


def test_counts_are_summed_over_workers(slab: Path) -> None:
    """By endpoint, result, and reason."""
    for slot in (0, 1):
        counts = LayerCounts(open_worker_metrics(slab, slot), "flights")
        for _ in range(3):
            counts.cached("hit")
        counts.cached("miss")
        counts.fell_back("static", "circuit-open")
    lines = scrape(slab).splitlines()
    assert 'roadworthy_cache_requests_total{endpoint="flights",result="hit"} 6.0' in lines
    assert 'roadworthy_cache_requests_total{endpoint="flights",result="miss"} 2.0' in lines
    assert 'roadworthy_fallbacks_total{endpoint="flights",kind="static",reason="circuit-open"} 2.0' in lines


def test_reports_say_what_only_the_agent_knows(slab: Path) -> None:
    """Open breakers and memory are added to the report of their version; other reports stay unchanged."""
    metrics = open_worker_metrics(slab, 0)
    opened = circuit(metrics)
    now = time.monotonic_ns()
    for _ in range(20):
        opened.observe(now, failed=True, slow=False)
    assert not opened.admits(now + LOOK_NS)
    states = tuple(VersionState(digest, READY) for digest in (*DIGESTS[:2], "sha256:other"))
    report = WorkerReport(0, 1, "b", "e", 1, 1, states)
    known = GatewayState(snapshot(), {DIGESTS[1]: (3, 1 << 20)})
    (found,) = with_state([report], read_totals(SlabReader(slab)), known)
    assert [each.breaker_open for each in found.versions] == [True, False, False]
    memory = [(each.processes, each.memory_bytes) for each in found.versions]
    assert memory == [(0, None), (3, 1 << 20), (0, None)]
    assert with_state([report], read_totals(SlabReader(slab)), GatewayState()) == (report,)


def test_rollouts_on_the_metrics_page(slab: Path) -> None:
    """The rollouts in the snapshot, over all generations."""
    cells = open_worker_metrics(slab, 0).evidence
    for generation in ("1", "2"):
        for rollout in ("r", "earlier"):
            cells.sample((rollout, generation, "errors", "canary"), bad=generation == "2")
        cells.pair(("r", generation, "disagreement"), canary_bad=generation == "1", stable_bad=False)
    cells.exclude(("r", "1", "shed", "stable"))
    entry = EndpointEntry("flights", 1, (), {}, rollout=RolloutEntry("r", *DIGESTS[:2]))
    facts = AgentFacts(Snapshot("e", 1, (), (entry,)), (), None, 0)
    reader = SlabReader(slab)
    text = render(GatewayCollector(lambda: read_totals(reader), lambda: facts)).decode()
    found = {line for line in text.splitlines() if line.startswith("roadworthy_rollout_")}
    assert {line for line in found if "_created" not in line} == {
        'roadworthy_rollout_samples_total{endpoint="flights",rollout="r",signal="errors",variant="canary"} 2.0',
        'roadworthy_rollout_bad_total{endpoint="flights",rollout="r",signal="errors",variant="canary"} 1.0',
        'roadworthy_rollout_excluded_total{endpoint="flights",reason="shed",rollout="r",variant="stable"} 1.0',
        'roadworthy_rollout_pairs_total{endpoint="flights",result="canary",rollout="r",signal="disagreement"} 1.0',
        'roadworthy_rollout_pairs_total{endpoint="flights",result="stable",rollout="r",signal="disagreement"} 0.0',
        'roadworthy_rollout_pairs_total{endpoint="flights",result="equal",rollout="r",signal="disagreement"} 1.0',
    }
    assert "rollout" not in scrape(slab)
