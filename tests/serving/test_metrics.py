"""Workers' counts in `/metrics`: correct sums over slots and restarts, and no series that callers can create."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from roadworthy.agent.metrics.exposition import AgentFacts, GatewayCollector, render
from roadworthy.agent.runners.keeper import Keeping, RunnerFacts
from roadworthy.contract.local import part_of
from roadworthy.contract.snapshot import EndpointEntry, PackageEntry, Snapshot, VariantEntry
from roadworthy.contract.telemetry import READY, VersionState, WorkerReport
from roadworthy.foundation.slab import GAUGE, SlabReader, create_slab
from roadworthy.runtime.queue.run_times import RunTimes
from roadworthy.serving.histogram import BUCKETS_S
from roadworthy.serving.metrics import Bound, executing, open_worker_metrics, read_totals, suspects

DIGEST = "sha256:" + "a" * 64
NOTHING = AgentFacts(None, (), None, 0)

KILLED = """
import os, signal, sys
from pathlib import Path
from roadworthy.serving.metrics import open_worker_metrics
metrics = open_worker_metrics(Path(sys.argv[1]), int(sys.argv[2]))
bound = metrics.bind("flights", 2, "flights:3", "sha256:" + "a" * 64)
for number in range(5):
    bound.in_flight.add(1)
    if number < 3:
        bound.observe("ok", 0.001, 2)
        bound.in_flight.add(-1)
metrics.queue("flights").add(4)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def slab(tmp_path: Path) -> Path:
    """A slab of two workers, a spare slot and the agent's."""
    create_slab(tmp_path / "slab", 4)
    return tmp_path / "slab"


def scrape(slab: Path, facts: AgentFacts = NOTHING) -> Samples:
    """All samples by name and labels, and proof that the text is Prometheus text."""
    reader = SlabReader(slab)
    text = render(GatewayCollector(lambda: read_totals(reader), lambda: facts)).decode()
    samples = Samples()
    for family in text_string_to_metric_families(text):
        assert family.name.startswith("roadworthy_")
        assert family.documentation
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sample.labels.items())
            name = in_order(f"{sample.name}{{{labels}}}")
            assert name not in samples
            samples[name] = sample.value
    return samples


def in_order(series: str) -> str:
    """`name{labels}` with the labels sorted."""
    name, _, labels = series.rstrip("}").partition("{")
    return f"{name}{{{','.join(sorted(labels.split(',')))}}}"


class Samples(dict[str, float]):
    """Values by series, in whatever order the labels are written."""

    def __getitem__(self, series: str) -> float:
        return super().__getitem__(in_order(series))


def kill_one(slab: Path, slot: int) -> None:
    """A worker that answers three requests and is killed with two in flight."""
    result = subprocess.run([sys.executable, "-c", KILLED, str(slab), str(slot)], check=False)
    assert result.returncode == -signal.SIGKILL


def test_sums_are_over_workers_and_generations(slab: Path) -> None:
    """The same version behind two generations in two workers is one series."""
    for slot in (0, 1):
        metrics = open_worker_metrics(slab, slot)
        for generation in (1, 2):
            bound = metrics.bind("flights", generation, "flights:3", DIGEST)
            bound.observe("ok", 0.004, 10)
            bound.observe("model-failed", 3.0, 1)
    samples = scrape(slab)
    assert samples["roadworthy_requests_total{endpoint=flights,version=flights:3,code=ok}"] == 4
    assert samples["roadworthy_requests_total{endpoint=flights,version=flights:3,code=model-failed}"] == 4
    assert samples["roadworthy_rows_total{endpoint=flights,version=flights:3}"] == 44
    assert samples["roadworthy_request_seconds_count{endpoint=flights,version=flights:3}"] == 8
    assert samples["roadworthy_request_seconds_sum{endpoint=flights,version=flights:3}"] == pytest.approx(12.016)


def test_latency_lies_in_the_right_buckets(slab: Path) -> None:
    """A bound belongs to its own bucket; slower requests are in +Inf only; buckets are cumulative."""
    bound = open_worker_metrics(slab, 0).bind("e", 1, "m:1", DIGEST)
    for latency_s in (0.0, 0.001, 0.00101, 10.0, 10.1, 99.0):
        bound.observe("ok", latency_s, 1)
    samples = scrape(slab)
    counts = [samples[f"roadworthy_request_seconds_bucket{{endpoint=e,version=m:1,le={bound_s}}}"] for bound_s in BUCKETS_S]
    assert (counts[0], counts[1], counts[-1]) == (2, 3, 4)
    assert counts == sorted(counts)
    assert samples["roadworthy_request_seconds_bucket{endpoint=e,version=m:1,le=+Inf}"] == 6


def test_requests_in_a_killed_worker_are_known_before_and_after_it_is_replaced(slab: Path) -> None:
    """Two in flight at kill -9 are lost from that moment, once; nothing stays in flight or waiting there."""
    kill_one(slab, 0)
    before = scrape(slab)
    open_worker_metrics(slab, 0)
    after = scrape(slab)
    for samples in (before, after):
        assert samples["roadworthy_requests_lost_total{endpoint=flights,version=flights:3}"] == 2
        assert samples["roadworthy_requests_in_flight{endpoint=flights}"] == 0
        assert samples["roadworthy_queue_requests{endpoint=flights}"] == 0
        assert samples["roadworthy_requests_total{endpoint=flights,version=flights:3,code=ok}"] == 3
    assert [samples["roadworthy_worker_restarts_total{}"] for samples in (before, after)] == [0, 1]
    assert [samples["roadworthy_worker_up{slot=0}"] for samples in (before, after)] == [0, 1]


def test_d17_metrics_after_many_restarts(slab: Path) -> None:
    """After 1,000 restarts every counter is monotone, and neither series nor files grow with the number of processes."""
    kill_one(slab, 1)
    last: dict[str, float] = {}
    series: list[set[str]] = []
    for restart in range(1_000):
        metrics = open_worker_metrics(slab, restart % 2)
        bound = metrics.bind("flights", restart, f"flights:{restart % 7}", DIGEST)
        bound.observe("ok", 0.001, 1)
        metrics.refused("flights", "queue-full")
        if restart % 100 == 99:
            samples = scrape(slab)
            series.append(set(samples))
            counters = {name: value for name, value in samples.items() if "_total{" in name or "_bucket{" in name}
            assert not [name for name, value in last.items() if counters.get(name, -1) < value]
            last = counters
    assert series[0] == series[-1]
    samples = scrape_only(slab)
    assert list(slab.parent.iterdir()) == [slab]
    assert samples.count(b"\nroadworthy_requests_total{") == 7
    found = scrape(slab)
    requests = [value for name, value in found.items() if name.startswith("roadworthy_requests_total")]
    assert sum(requests) == 1_003
    assert found["roadworthy_metric_overflows_total{}"] == 0
    assert found["roadworthy_refused_total{endpoint=flights,code=queue-full}"] == 1_000
    assert found["roadworthy_worker_starts_total{}"] == 1_001


def scrape_only(slab: Path) -> bytes:
    """The text alone."""
    reader = SlabReader(slab)
    return render(GatewayCollector(lambda: read_totals(reader), lambda: NOTHING))


def test_the_tables_bound_holds_whatever_is_counted(tmp_path: Path) -> None:
    """With more series than there is room for, counting continues, and the missing ones are counted."""
    create_slab(tmp_path / "slab", 2, names=20, cells=200)
    metrics = open_worker_metrics(tmp_path / "slab", 0)
    for number in range(100):
        metrics.bind(f"e{number}", 1, "m:1", DIGEST).observe("ok", 0.1, 1)
    samples = scrape(tmp_path / "slab")
    assert samples["roadworthy_metric_overflows_total{}"] > 100
    assert samples["roadworthy_requests_total{endpoint=e0,version=m:1,code=ok}"] == 1


def test_gauges_and_refusals(slab: Path) -> None:
    """In flight, waiting and refused, each under its endpoint; requests to unknown endpoints share the empty name."""
    metrics = open_worker_metrics(slab, 0)
    bound = metrics.bind("flights", 1, "flights:1", DIGEST)
    bound.in_flight.add(2)
    bound.in_flight.add(-1)
    assert metrics.queue("flights") is metrics.queue("flights")
    metrics.queue("flights").add(3)
    metrics.refused("", "not-found")
    metrics.lost_records(5)
    samples = scrape(slab)
    assert samples["roadworthy_requests_in_flight{endpoint=flights}"] == 1
    assert samples["roadworthy_queue_requests{endpoint=flights}"] == 3
    assert samples["roadworthy_refused_total{endpoint=,code=not-found}"] == 1
    assert samples["roadworthy_records_lost_total{}"] == 5


def test_streams_are_counted_for_those_who_have_them(slab: Path) -> None:
    """By version over workers and generations, also when a generation makes room; a version without streams takes none."""
    metrics = open_worker_metrics(slab, 0)
    metrics.bind("plain", 1, "m:1", DIGEST).observe("ok", 0.1, 1)
    assert not [name for name in scrape(slab) if "stream" in name]
    streams = metrics.bind("e", 1, "m:1", DIGEST).streams
    for reason in ("finished", "caller-gone", None):
        streams.begun(0.2)
        streams.more(1, 0.002)
        if reason is not None:
            streams.ended(reason)
    metrics._fold()
    streams.more(1, 99.0)
    metrics.bind("e", 2, "m:1", DIGEST).streams.begun(0.2)
    metrics._fold()
    streams.ended("deadline")
    samples = scrape(slab)

    def of(name: str, more: str = "") -> float:
        return sum(
            value
            for found, value in samples.items()
            if found.startswith(f"roadworthy_stream{name}{{endpoint=e") and more in found
        )

    assert (of("s_open"), of("_parts_total"), of("_first_part_seconds_count"), of("_between_parts_seconds_count")) == (1, 8, 4, 4)
    assert of("_between_parts_seconds_bucket", "le=10.0") == 3
    assert [of("s_ended_total", f"reason={reason}") for reason in ("finished", "caller-gone", "deadline", "failed")] == [
        1,
        1,
        1,
        0,
    ]


def test_workers_know_whether_another_serves(slab: Path) -> None:
    """Not counting itself, the agent, and workers that are loading, closing or dead."""
    one, other, agent = (open_worker_metrics(slab, slot) for slot in (0, 1, 3))
    for metrics in (one, agent):
        metrics.state("READY")
    assert not one.another_serves()
    assert other.another_serves()
    one.state("DRAINING")
    assert other.another_serves()
    one.state("CLOSING")
    assert not other.another_serves()
    one.state("READY")
    one.close()
    assert not other.another_serves()
    kill_one(slab, 2)
    assert not other.another_serves()


def gauges(slab: Path) -> dict[str, int]:
    """What the worker of slot 0 would leave now."""
    return {run.name: run.values[0] for run in SlabReader(slab).read(0)[1] if run.kind == GAUGE}


def test_a_run_on_a_thread_is_suspected_after_its_deadline(slab: Path) -> None:
    """Its requests are no longer in flight; those of another version are. Once it hangs, only its version is suspected, and the
    worker shows no heartbeat."""
    metrics, times, other = open_worker_metrics(slab, 0), RunTimes(), f"sha256:{1:064x}"
    metrics.bind("flights", 1, "flights:1", DIGEST)
    metrics.time_runs(DIGEST, times)
    metrics.bind("trains", 1, "trains:1", other).in_flight.add(1)
    times.on_thread(1)
    assert suspects(gauges(slab)) == executing(gauges(slab)) == {DIGEST, other}
    before = SlabReader(slab).status(0).heartbeat_ns
    metrics.heartbeat({DIGEST})
    assert (suspects(gauges(slab)), executing(gauges(slab))) == ({DIGEST}, {DIGEST, other})
    assert SlabReader(slab).status(0).heartbeat_ns == before
    times.on_thread(-1)
    metrics.heartbeat()
    assert suspects(gauges(slab)) == {other}
    assert SlabReader(slab).status(0).heartbeat_ns > before


def test_threads_of_earlier_versions_make_room(tmp_path: Path) -> None:
    """Hundreds of versions had runs on threads. One that has not ended is still suspected."""
    create_slab(tmp_path / "slab", 2, names=200, cells=8_000)
    metrics = open_worker_metrics(tmp_path / "slab", 0)
    for number in range(300):
        digest, times = f"sha256:{number:064x}", RunTimes()
        metrics.bind("e", number, f"m:{number}", digest)
        metrics.time_runs(digest, times)
        times.on_thread(1)
        if number != 7:
            times.on_thread(-1)
    assert suspects(gauges(tmp_path / "slab")) == {f"sha256:{7:064x}"}
    assert SlabReader(tmp_path / "slab").status(0).overflows == 0


def test_an_orderly_stop_leaves_no_trace_of_trouble(slab: Path) -> None:
    """A worker that has stopped counts neither as down nor as a restart."""
    metrics = open_worker_metrics(slab, 0)
    metrics.close()
    open_worker_metrics(slab, 0).close()
    samples = scrape(slab)
    assert samples["roadworthy_worker_restarts_total{}"] == 0
    assert samples["roadworthy_worker_starts_total{}"] == 2
    assert not [name for name in samples if name.startswith("roadworthy_worker_up")]


def test_totals_keep_what_telemetry_needs(slab: Path) -> None:
    """Generations and digests are separate until a scrape adds them up."""
    metrics = open_worker_metrics(slab, 0)
    for generation in (1, 2):
        metrics.bind("flights", generation, "flights:3", DIGEST).observe("ok", 0.1, 1)
    requests = read_totals(SlabReader(slab)).requests
    assert dict(requests) == {(Bound("flights", generation, "flights:3", DIGEST), "ok"): 1 for generation in (1, 2)}


def test_runners_of_versions_and_of_rules_are_told_apart(slab: Path) -> None:
    """By the label `rule`, which is empty for the version itself."""
    snapshot = Snapshot("e", 9, (PackageEntry(DIGEST, "flights", 3, 1),))
    rule = part_of(DIGEST, "mean")
    runners = (RunnerFacts(DIGEST, "", 1, 11, "READY", 7), RunnerFacts(DIGEST, "mean", 0, 12, "LOADING", 8))
    keeping = Keeping(runners, {(DIGEST, "hung"): 2, (rule, "killed"): 3}, kept_out={rule: "it crashed"})
    samples = scrape(slab, AgentFacts(snapshot, (), None, 0, keeping=keeping))
    assert samples["roadworthy_runners{version=flights:3,rule=,state=READY}"] == 1
    assert samples["roadworthy_runners{version=flights:3,rule=mean,state=LOADING}"] == 1
    assert samples["roadworthy_runner_resident_bytes{version=flights:3,rule=,copy=1}"] == 7
    assert samples["roadworthy_runner_resident_bytes{version=flights:3,rule=mean,copy=0}"] == 8
    assert samples["roadworthy_runner_restarts_total{version=flights:3,rule=,reason=hung}"] == 2
    assert samples["roadworthy_runner_restarts_total{version=flights:3,rule=mean,reason=killed}"] == 3
    assert samples["roadworthy_version_quarantined{version=flights:3,rule=mean}"] == 1


def test_version_info_and_the_agents_own(slab: Path) -> None:
    """One line per endpoint and version, with the runtime that workers reported; and lines for control plane and revision."""
    endpoint = EndpointEntry("flights", 1, (VariantEntry(DIGEST, 10_000),), {})
    snapshot = Snapshot("e", 9, (PackageEntry(DIGEST, "flights", 3, 1),), (endpoint,))
    report = WorkerReport(0, 1, "b", "e", 9, 9, (VersionState(DIGEST, READY, "onnx-exact"),))
    samples = scrape(slab, AgentFacts(snapshot, (report,), True, 2))
    labels = f"endpoint=flights,version=flights:3,digest={DIGEST},runtime=onnx-exact"
    assert samples[f"roadworthy_version_info{{{labels}}}"] == 1
    assert samples["roadworthy_snapshot_revision{}"] == 9
    assert samples["roadworthy_control_up{}"] == 1
    assert samples["roadworthy_record_files{}"] == 2
