"""The catalogue of metrics: renders the slab's numbers as Prometheus text at each scrape."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from roadworthy.agent.metrics.layer_metrics import breakers, layer_counts
from roadworthy.agent.metrics.rollout_metrics import rollout_counts
from roadworthy.agent.runners.keeper import Keeping
from roadworthy.contract.local import read_part
from roadworthy.contract.snapshot import Snapshot
from roadworthy.contract.telemetry import READY, WorkerReport
from roadworthy.foundation.slab import SlotStatus
from roadworthy.serving.metrics import BUCKETS_S, Bound, Totals

CONTENT_TYPE = CONTENT_TYPE_LATEST


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """The facts for the metrics page that are not in the slab.

    Attributes:
        snapshot: the one in force, or None.
        reports: of the connected workers.
        control_up: whether the control plane answers; None without a control plane.
        files_waiting: record files not yet shipped. files_lost: files damaged or deleted before that.
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
        yield from _agent(totals, facts)
        yield from _confinement(facts.confinement)
        yield from layer_counts(totals)
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
    requests = CounterMetricFamily(
        "roadworthy_requests", "Requests that a version answered.", labels=("endpoint", "version", "code")
    )
    counts: dict[tuple[str, ...], float] = {}
    for (bound, outcome), count in totals.requests.items():
        _count(counts, (bound.endpoint, bound.version, outcome), count)
    yield _filled(requests, counts)
    yield _filled(
        CounterMetricFamily("roadworthy_rows", "Rows in those requests.", labels=("endpoint", "version")),
        _by_version(totals.rows),
    )
    yield _filled(
        CounterMetricFamily(
            "roadworthy_requests_lost", "Requests in flight in workers that died.", labels=("endpoint", "version")
        ),
        _by_version(totals.lost),
    )
    yield _filled(
        CounterMetricFamily(
            "roadworthy_refused", "Requests refused before a version was chosen.", labels=("endpoint", "code")
        ),
        {key: float(count) for key, count in totals.refused.items()},
    )


def _latency(totals: Totals) -> Metric:
    family = HistogramMetricFamily(
        "roadworthy_request_seconds", "Time from admission to the encoded answer.", labels=("endpoint", "version")
    )
    sums: dict[tuple[str, str], list[int]] = {}
    for bound, cells in totals.latency.items():
        key = (bound.endpoint, bound.version)
        sums[key] = [a + b for a, b in zip(sums.get(key, [0] * len(cells)), cells, strict=True)]
    for key, cells in sorted(sums.items()):
        buckets, count = [], 0
        for bound_s, cell in zip((*map(str, BUCKETS_S), "+Inf"), cells[:-1], strict=True):
            count += cell
            buckets.append((bound_s, float(count)))
        family.add_metric(key, buckets=buckets, sum_value=cells[-1] / 1e6)
    return family


def _now(totals: Totals) -> Iterator[Metric]:
    yield _filled(
        GaugeMetricFamily("roadworthy_requests_in_flight", "Admitted, not yet answered.", labels=("endpoint",)),
        {(endpoint,): float(count) for endpoint, count in totals.in_flight.items()},
    )
    yield _filled(
        GaugeMetricFamily("roadworthy_queue_requests", "Requests that wait for a batch.", labels=("endpoint",)),
        {(endpoint,): float(count) for endpoint, count in totals.queue.items()},
    )


def _workers(slots: list[SlotStatus]) -> Iterator[Metric]:
    up = GaugeMetricFamily("roadworthy_worker_up", "1 while the slot's worker runs, 0 when it died.", labels=("slot",))
    age = GaugeMetricFamily(
        "roadworthy_worker_heartbeat_age_seconds", "Time since a worker's last sign of life.", labels=("slot",)
    )
    now_ns = time.monotonic_ns()
    for status in slots:
        if status.pid:
            up.add_metric((str(status.slot),), float(status.alive))
            age.add_metric((str(status.slot),), max(0.0, (now_ns - status.heartbeat_ns) / 1e9))
    yield up
    yield age
    yield CounterMetricFamily(
        "roadworthy_worker_starts", "Workers that were started.", value=sum(status.starts for status in slots)
    )
    yield CounterMetricFamily(
        "roadworthy_worker_restarts",
        "Workers that replaced a worker that exited without an orderly stop.",
        value=sum(status.crashes for status in slots),
    )
    yield CounterMetricFamily(
        "roadworthy_metric_overflows",
        "Series that did not fit into the slab.",
        value=sum(status.overflows for status in slots),
    )


def _agent(totals: Totals, facts: AgentFacts) -> Iterator[Metric]:
    yield CounterMetricFamily("roadworthy_records_lost", "Prediction records dropped.", value=totals.records_lost)
    yield GaugeMetricFamily("roadworthy_record_files", "Record files not yet shipped.", value=facts.files_waiting)
    lost = facts.files_lost
    yield CounterMetricFamily("roadworthy_record_files_lost", "Record files damaged or deleted unshipped.", value=lost)
    yield CounterMetricFamily("roadworthy_log_lines_dropped", "Log lines dropped.", value=totals.log_lines_lost)
    if facts.disk_free_bytes is not None:
        free = float(facts.disk_free_bytes)
        yield GaugeMetricFamily("roadworthy_disk_free_bytes", "Free space where records are kept.", value=free)
    if facts.memory_used is not None:
        used = facts.memory_used
        yield GaugeMetricFamily("roadworthy_memory_used_ratio", "Share of the memory in use, 0 to 1.", value=used)
    if facts.snapshot is not None:
        revision = facts.snapshot.revision
        yield GaugeMetricFamily("roadworthy_snapshot_revision", "Revision of the snapshot in force.", value=revision)
    if facts.control_up is not None:
        refused = facts.telemetry_refused
        yield CounterMetricFamily("roadworthy_telemetry_refused", "Frames refused by the control plane.", value=refused)
        up = float(facts.control_up)
        yield GaugeMetricFamily("roadworthy_control_up", "1 while the control plane answers the agent.", value=up)
        yield GaugeMetricFamily(
            "roadworthy_snapshot_refused",
            "1 while the control plane offers an empty snapshot of another database, which the gateway refuses.",
            value=float(facts.snapshot_refused),
        )


def _confinement(held: Mapping[str, bool]) -> Iterator[Metric]:
    parts = GaugeMetricFamily(
        "roadworthy_confinement",
        "1 for each part of the confinement of packages' code that holds here.",
        labels=["part"],
    )
    for part, holds in held.items():
        parts.add_metric([part], float(holds))
    yield parts


def _golden_probes(totals: Totals) -> Iterator[Metric]:
    yield _filled(
        CounterMetricFamily(
            "roadworthy_golden_probes", "Golden probes of versions in service.", labels=("version", "result")
        ),
        {key: float(count) for key, count in totals.probes.items()},
    )
    yield _filled(
        GaugeMetricFamily(
            "roadworthy_golden_probe_seconds",
            "Duration of the last golden probe, in the slowest worker.",
            labels=("version",),
        ),
        {(version,): us / 1e6 for version, us in totals.probe_us.items()},
    )


def _versions(snapshot: Snapshot, reports: tuple[WorkerReport, ...]) -> Metric:
    family = GaugeMetricFamily(
        "roadworthy_version_info",
        "The versions that the endpoints serve.",
        labels=("endpoint", "version", "digest", "runtime"),
    )
    names = {entry.digest: f"{entry.model}:{entry.version}" for entry in snapshot.packages}
    runtimes = {
        version.digest: version.runtime or ""
        for report in reports
        for version in report.versions
        if version.state == READY
    }
    for endpoint in snapshot.endpoints:
        for variant in endpoint.split:
            labels = (endpoint.name, names.get(variant.digest, ""), variant.digest, runtimes.get(variant.digest, ""))
            family.add_metric(labels, 1.0)
    return family


def _by_version(counts: dict[Bound, int]) -> dict[tuple[str, ...], float]:
    summed: dict[tuple[str, ...], float] = {}
    for bound, count in counts.items():
        _count(summed, (bound.endpoint, bound.version), count)
    return summed


def _count(counts: dict[tuple[str, ...], float], key: tuple[str, ...], count: int) -> None:
    counts[key] = counts.get(key, 0.0) + count


def _filled(
    family: CounterMetricFamily | GaugeMetricFamily, values: dict[tuple[str, ...], float]
) -> CounterMetricFamily | GaugeMetricFamily:
    for labels, value in sorted(values.items()):
        family.add_metric(labels, value)
    return family


def _runners(snapshot: Snapshot, keeping: Keeping) -> Iterator[Metric]:
    names = {package.digest: f"{package.model}:{package.version}" for package in snapshot.packages}
    running = GaugeMetricFamily(
        "roadworthy_runners",
        "Runner processes of isolated versions, and of rules.",
        labels=["version", "rule", "state"],
    )
    memory = GaugeMetricFamily(
        "roadworthy_runner_resident_bytes", "Resident memory of a runner process.", labels=["version", "rule", "copy"]
    )
    counts: dict[tuple[str, str, str], int] = {}
    for runner in keeping.runners:
        version = names.get(runner.digest, runner.digest)
        labels = version, runner.rule, runner.state
        counts[labels] = counts.get(labels, 0) + 1
        memory.add_metric([version, runner.rule, str(runner.copy)], runner.resident_bytes)
    for key, count in sorted(counts.items()):
        running.add_metric(key, count)
    restarts = CounterMetricFamily(
        "roadworthy_runner_restarts",
        "Runner processes that were restarted after an exit, or replaced warm.",
        labels=["version", "rule", "reason"],
    )
    for (part, reason), count in sorted(keeping.restarts.items()):
        digest, rule = read_part(part)
        restarts.add_metric([names.get(digest, digest), rule, reason], count)
    kept_out = GaugeMetricFamily(
        "roadworthy_version_quarantined",
        "1 while a version, or its rule, is quarantined because it crashes.",
        labels=["version", "rule"],
    )
    for digest, rule in map(read_part, sorted(keeping.kept_out)):
        kept_out.add_metric([names.get(digest, digest), rule], 1.0)
    workers = CounterMetricFamily(
        "roadworthy_worker_ends", "Workers that exited or were replaced warm, by reason.", labels=["reason"]
    )
    for reason, count in sorted(keeping.workers.items()):
        workers.add_metric([reason], count)
    yield from (running, memory, restarts, kept_out, workers)
