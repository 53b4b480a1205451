"""The catalogue of metrics: renders the slab's numbers as Prometheus text at each scrape."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from roadworthy.agent.metrics.families import counter, gauge, histogram
from roadworthy.agent.metrics.layer_metrics import breakers, layer_counts
from roadworthy.agent.metrics.rollout_metrics import rollout_counts
from roadworthy.agent.metrics.stream_metrics import stream_counts
from roadworthy.agent.runners.keeper import Keeping
from roadworthy.contract.local import read_part
from roadworthy.contract.snapshot import Snapshot
from roadworthy.contract.telemetry import READY, WorkerReport
from roadworthy.foundation.slab import SlotStatus
from roadworthy.serving.histogram import summed
from roadworthy.serving.metrics import Bound, Totals

CONTENT_TYPE = CONTENT_TYPE_LATEST


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """The facts for the metrics page that are not in the slab.

    Attributes:
        snapshot: the one in force, or None.
        reports: of the connected workers.
        control_up: whether the control plane answers; None without a control plane.
        files_waiting: record files not yet shipped. files_lost: files damaged or deleted before that.
        spool_bytes: records on disk that are not in files yet.
        keeping: runner processes, restarts and quarantine.
        disk_free_bytes: where records are kept. memory_used: used share of the machine's or container's memory, 0 to 1.
        confinement: which of its parts hold here; empty until known.
        telemetry_refused: frames that the control plane refused permanently since the agent's start.
        snapshot_refused: whether the agent refuses an empty snapshot of another database that the control plane offers.
    """

    snapshot: Snapshot | None
    reports: tuple[WorkerReport, ...]
    control_up: bool | None
    files_waiting: int
    files_lost: int = 0
    spool_bytes: int = 0
    keeping: Keeping = field(default_factory=Keeping)
    disk_free_bytes: int | None = None
    memory_used: float | None = None
    snapshot_refused: bool = False
    confinement: Mapping[str, bool] = field(default_factory=dict)
    telemetry_refused: int = 0


class GatewayCollector(Collector):
    """Computes all metrics at each scrape: sums over all workers and their restarts.

    Args:
        read: returns the totals of the slab; its last slot is the agent's.
        facts: returns the agent's own facts.
    """

    def __init__(self, read: Callable[[], Totals], facts: Callable[[], AgentFacts]) -> None:
        self._read = read
        self._facts = facts

    def collect(self) -> Iterator[Metric]:
        totals, facts = self._read(), self._facts()
        yield from _requests(totals)
        yield _latency(totals)
        yield from _now(totals)
        yield from _workers(totals.slots[:-1])
        joined = sum(status.alive for status in totals.members)
        yield gauge("roadworthy_embedded_processes", "Processes with embedded endpoints that have joined.", values=joined)
        yield from _agent(totals, facts)
        yield _confinement(facts.confinement)
        yield from layer_counts(totals)
        yield from stream_counts(totals.streams)
        yield from _golden_probes(totals)
        if facts.snapshot is not None:
            yield _versions(facts.snapshot, facts.reports)
            yield breakers(totals, facts.snapshot)
            yield from rollout_counts(totals, facts.snapshot)
            yield from _runners(facts.snapshot, facts.keeping)


def render(collector: Collector) -> bytes:
    """The text of one scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)


def _requests(totals: Totals) -> Iterator[Metric]:
    counts: dict[tuple[str, ...], float] = {}
    for (bound, outcome), count in totals.requests.items():
        _count(counts, (bound.endpoint, bound.version, outcome), count)
    version = ("endpoint", "version")
    yield counter("roadworthy_requests", "Requests that a version answered.", (*version, "code"), counts)
    yield counter("roadworthy_rows", "Rows in those requests.", version, _by_version(totals.rows))
    lost = "Requests in flight in workers that died."
    yield counter("roadworthy_requests_lost", lost, version, _by_version(totals.lost))
    refused = "Requests refused before a version was chosen."
    yield counter("roadworthy_refused", refused, ("endpoint", "code"), totals.refused)


def _latency(totals: Totals) -> Metric:
    sums: dict[tuple[str, str], list[int]] = {}
    for bound, cells in totals.latency.items():
        key = (bound.endpoint, bound.version)
        sums[key] = summed(sums.get(key), tuple(cells))
    text = "Time from admission to the encoded answer."
    return histogram("roadworthy_request_seconds", text, ("endpoint", "version"), sums)


def _now(totals: Totals) -> Iterator[Metric]:
    in_flight = {(endpoint,): count for endpoint, count in totals.in_flight.items()}
    yield gauge("roadworthy_requests_in_flight", "Admitted, not yet answered.", ["endpoint"], in_flight)
    queue = {(endpoint,): count for endpoint, count in totals.queue.items()}
    yield gauge("roadworthy_queue_requests", "Requests that wait for a batch.", ["endpoint"], queue)


def _workers(slots: list[SlotStatus]) -> Iterator[Metric]:
    now_ns = time.monotonic_ns()
    started = {(str(status.slot),): status for status in slots if status.pid}
    up = {slot: status.alive for slot, status in started.items()}
    yield gauge("roadworthy_worker_up", "1 while the slot's worker runs, 0 when it died.", ["slot"], up)
    age = {slot: max(0.0, (now_ns - status.heartbeat_ns) / 1e9) for slot, status in started.items()}
    since = "Time since a worker's last sign of life."
    yield gauge("roadworthy_worker_heartbeat_age_seconds", since, ["slot"], age)
    starts = sum(status.starts for status in slots)
    yield counter("roadworthy_worker_starts", "Workers that were started.", values=starts)
    replaced = "Workers that replaced a worker that exited without an orderly stop."
    yield counter("roadworthy_worker_restarts", replaced, values=sum(status.crashes for status in slots))
    overflows = sum(status.overflows for status in slots)
    yield counter("roadworthy_metric_overflows", "Series that did not fit into the slab.", values=overflows)


def _agent(totals: Totals, facts: AgentFacts) -> Iterator[Metric]:
    yield counter("roadworthy_records_lost", "Prediction records dropped.", values=totals.records_lost)
    yield gauge("roadworthy_record_files", "Record files not yet shipped.", values=facts.files_waiting)
    yield gauge("roadworthy_record_spool_bytes", "Records on disk that are not in files yet.", values=facts.spool_bytes)
    lost = "Record files damaged or deleted unshipped."
    yield counter("roadworthy_record_files_lost", lost, values=facts.files_lost)
    yield counter("roadworthy_log_lines_dropped", "Log lines dropped.", values=totals.log_lines_lost)
    if (free := facts.disk_free_bytes) is not None:
        yield gauge("roadworthy_disk_free_bytes", "Free space where records are kept.", values=free)
    if (used := facts.memory_used) is not None:
        yield gauge("roadworthy_memory_used_ratio", "Share of the memory in use, 0 to 1.", values=used)
    if facts.snapshot is not None:
        revision = facts.snapshot.revision
        yield gauge("roadworthy_snapshot_revision", "Revision of the snapshot in force.", values=revision)
    if (up := facts.control_up) is not None:
        refused = facts.telemetry_refused
        yield counter("roadworthy_telemetry_refused", "Frames refused by the control plane.", values=refused)
        yield gauge("roadworthy_control_up", "1 while the control plane answers the agent.", values=up)
        offered = "1 while the control plane offers an empty snapshot of another database, which the gateway refuses."
        yield gauge("roadworthy_snapshot_refused", offered, values=facts.snapshot_refused)


def _confinement(held: Mapping[str, bool]) -> Metric:
    text = "1 for each part of the confinement of packages' code that holds here."
    return gauge("roadworthy_confinement", text, ["part"], {(part,): holds for part, holds in held.items()})


def _golden_probes(totals: Totals) -> Iterator[Metric]:
    text = "Golden probes of versions in service."
    yield counter("roadworthy_golden_probes", text, ("version", "result"), totals.probes)
    last = "Duration of the last golden probe, in the slowest worker."
    seconds = {(version,): us / 1e6 for version, us in totals.probe_us.items()}
    yield gauge("roadworthy_golden_probe_seconds", last, ["version"], seconds)


def _versions(snapshot: Snapshot, reports: tuple[WorkerReport, ...]) -> Metric:
    names = {entry.digest: f"{entry.model}:{entry.version}" for entry in snapshot.packages}
    runtimes = {
        version.digest: version.runtime or "" for report in reports for version in report.versions if version.state == READY
    }
    served = {
        (endpoint.name, names.get(variant.digest, ""), variant.digest, runtimes.get(variant.digest, "")): 1.0
        for endpoint in snapshot.endpoints
        for variant in endpoint.split
    }
    labels = ("endpoint", "version", "digest", "runtime")
    return gauge("roadworthy_version_info", "The versions that the endpoints serve.", labels, served)


def _by_version(counts: dict[Bound, int]) -> dict[tuple[str, ...], float]:
    summed: dict[tuple[str, ...], float] = {}
    for bound, count in counts.items():
        _count(summed, (bound.endpoint, bound.version), count)
    return summed


def _count(counts: dict[tuple[str, ...], float], key: tuple[str, ...], count: int) -> None:
    counts[key] = counts.get(key, 0.0) + count


def _runners(snapshot: Snapshot, keeping: Keeping) -> Iterator[Metric]:
    names = {package.digest: f"{package.model}:{package.version}" for package in snapshot.packages}
    counts: dict[tuple[str, ...], float] = {}
    memory: dict[tuple[str, ...], float] = {}
    for runner in keeping.runners:
        part = names.get(runner.digest, runner.digest), runner.rule
        _count(counts, (*part, runner.state), 1)
        memory[*part, str(runner.copy)] = runner.resident_bytes
    restarts: dict[tuple[str, ...], float] = {}
    for (of, reason), count in keeping.restarts.items():
        digest, rule = read_part(of)
        restarts[names.get(digest, digest), rule, reason] = count
    kept_out = {(names.get(digest, digest), rule): 1.0 for digest, rule in map(read_part, keeping.kept_out)}
    part_labels = ("version", "rule")
    running = "Runner processes of isolated versions, and of rules."
    yield gauge("roadworthy_runners", running, (*part_labels, "state"), counts)
    resident = "Resident memory of a runner process."
    yield gauge("roadworthy_runner_resident_bytes", resident, (*part_labels, "copy"), memory)
    restarted = "Runner processes that were restarted after an exit, or replaced warm."
    yield counter("roadworthy_runner_restarts", restarted, (*part_labels, "reason"), restarts)
    crashing = "1 while a version, or its rule, is quarantined because it crashes."
    yield gauge("roadworthy_version_quarantined", crashing, part_labels, kept_out)
    ended = "Workers that exited or were replaced warm, by reason."
    ends = {(reason,): count for reason, count in keeping.workers.items()}
    yield counter("roadworthy_worker_ends", ended, ["reason"], ends)
