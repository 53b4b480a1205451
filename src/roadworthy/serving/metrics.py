"""A worker's counters in the slab, and how the agent reads them back.

A worker makes one `WorkerMetrics` on its slot, binds each version once, and then only adds to cells: no label is looked up in
the hot path. The agent calls `read_totals` and gets sums over all slots and their restarts, by endpoint, generation, version and
digest. `agent/metrics/exposition.py` writes them as Prometheus text, `agent/sync/shipping.py` as the counts of a telemetry frame.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

from roadworthy.contract.evidence import MOST
from roadworthy.foundation.descendants import is_running
from roadworthy.foundation.slab import GAUGE, MAX_WIDTH, NamedCells, SlabReader, SlotStatus, SlotWriter
from roadworthy.runtime.queue.run_times import BINS, RunTimes
from roadworthy.serving.histogram import BUCKETS_US, SUM, WIDTH, summed
from roadworthy.serving.member_cells import is_sound
from roadworthy.serving.rollout.counters import EVIDENCE, EvidenceCells, EvidenceTotals
from roadworthy.serving.stream_metrics import OF_STREAMS, StreamMetrics, StreamTotals

CACHE, FALLBACK, SHARED_CACHE = "cache", "fallback", "shared-cache"
COUNTED = (CACHE, FALLBACK, SHARED_CACHE)
"""Counters that have labels only: (CACHE, endpoint, result), (FALLBACK, endpoint, kind, reason) and (SHARED_CACHE, event)."""
BREAKER = "breaker"
"""Numbers that all workers read: (BREAKER, endpoint, index of the variant)."""

_SEPARATOR = "\x1f"
_REQUESTS, _LATENCY, _ROWS, _IN_FLIGHT, _LOST = "requests", "latency", "rows", "in-flight", "lost"
_REFUSED, _QUEUE, _RECORDS_LOST = "refused", "queue", "records-lost"
_PROBES, _PROBE_LAST, _LOG_LINES = "probes", "probe-last", "log-lines"
_SHARED_STATE = "shared-cache-state"
_RUN_TIMES, _SHADOWING = "run-times", "shadowing"
_ON_THREAD, _HANGING = "on-thread", "hanging"
_RUN_TIMES_A_RUN = 48
_OF_A_VERSION = frozenset({_REQUESTS, _LATENCY, _ROWS, _IN_FLIGHT, _LOST}) | OF_STREAMS
_OTHER = "other"
_FOLD_AT = 0.5  # a scrape of slots this full takes less than 0.1 s
_FOLD_MEMBER_AT = 0.1
MEMBER_RUNS = 1_024
"""Most runs that are counted in a member's slot; a member makes room long before."""


class Gauge:
    """A number that goes up and down. One owner, single-threaded."""

    __slots__ = ("_cell", "_values")

    def __init__(self, values: memoryview[int], cell: int) -> None:
        self._values = values
        self._cell = cell

    def add(self, change: int) -> None:
        """Add `change`, which may be negative."""
        self._values[self._cell] += change


class BoundMetrics:
    """The cells of one version behind one generation of one endpoint; made by `WorkerMetrics.bind`.

    Attributes:
        in_flight: requests admitted and not yet answered.
    """

    __slots__ = ("_key", "_latency", "_outcomes", "_rows", "_streams", "_values", "_writer", "in_flight")

    def __init__(self, writer: SlotWriter, key: str) -> None:
        self._writer = writer
        self._values = writer.values
        self._key = key
        self._latency = writer.place(_LATENCY + key, width=WIDTH)
        self._rows = writer.place(_ROWS + key)
        self._outcomes: dict[str, int] = {}
        self._streams: StreamMetrics | None = None
        self.in_flight = Gauge(writer.values, writer.place(_IN_FLIGHT + key, kind=GAUGE))

    def move(self, key: str) -> None:
        """Count under another key from now on; the existing counts have been moved there."""
        writer = self._writer
        self._key = key
        self._latency = writer.place(_LATENCY + key, width=WIDTH)
        self._rows = writer.place(_ROWS + key)
        self._outcomes = {}
        if self._streams is not None:
            self._streams.move(key)
        self.in_flight = Gauge(writer.values, writer.place(_IN_FLIGHT + key, kind=GAUGE))

    @property
    def streams(self) -> StreamMetrics:
        """The counts of its answers in parts, which take room in the slab from the first of them on."""
        if self._streams is None:
            self._streams = StreamMetrics(self._writer, self._key)
        return self._streams

    def observe(self, outcome: str, latency_s: float, rows: int) -> None:
        """Count one answered request.

        Args:
            outcome: "ok" or the error's stable code.
            latency_s: seconds from admission to the encoded answer.
            rows: rows that were answered, or would have been; 0 when unknown.
        """
        self.observe_run(outcome, (int(latency_s * 1e6),), rows)

    def observe_run(self, outcome: str, latencies_us: Sequence[int], rows: int) -> None:
        """Count all requests of a run, which had the same outcome: their latencies in microseconds, and all their rows."""
        values = self._values
        cell = self._outcomes.get(outcome)
        if cell is None:
            cell = self._outcomes[outcome] = self._writer.place(_REQUESTS + self._key + _SEPARATOR + outcome)
        values[cell] += len(latencies_us)
        first = self._latency
        low, high = bisect_left(BUCKETS_US, min(latencies_us)), bisect_left(BUCKETS_US, max(latencies_us))
        if low == high:
            values[first + low] += len(latencies_us)
        else:
            for latency_us in latencies_us:
                values[first + bisect_left(BUCKETS_US, latency_us)] += 1
        values[first + SUM] += sum(latencies_us)
        values[self._rows] += rows


class WorkerMetrics:
    """Everything that one worker counts, on its slot. Single-threaded.

    Attributes:
        evidence: its counts for rollouts.
    """

    def __init__(self, slot_writer: SlotWriter, fold_at: float = _FOLD_AT) -> None:
        """Take over the slot. Requests that were in flight when a predecessor was killed are counted as lost.

        Args:
            fold_at: the used share of the slot from which on room is made.
        """
        self._writer = slot_writer
        self._fold_at = fold_at
        slot_writer.take(self._count_lost)
        self._records_lost = slot_writer.place(_RECORDS_LOST)
        self._refused: dict[tuple[str, str], int] = {}
        self._queues: dict[str, Gauge] = {}
        self._bound: dict[str, BoundMetrics] = {}
        self._probes: dict[tuple[str, str], int] = {}
        self._counted: dict[tuple[str, ...], int] = {}
        self._timed: dict[str, RunTimes] = {}
        self._shadowing: dict[str, Gauge] = {}
        self._on_thread: dict[str, int] = {}
        self._hanging: frozenset[str] = frozenset()
        self.evidence = EvidenceCells(slot_writer)
        self._log_lines = slot_writer.place(_LOG_LINES)
        self._log_lines_before = slot_writer.values[self._log_lines]

    def _count_lost(self, left: Mapping[str, int]) -> None:
        for name, value in left.items():
            kind, _, key = name.partition(_SEPARATOR)
            if kind == _IN_FLIGHT and value > 0:
                self._writer.values[self._writer.place(_LOST + _SEPARATOR + key)] += value

    @property
    def boot(self) -> str:
        """16 hex digits that name this process's time in the slot."""
        return self._writer.boot

    @property
    def restarted(self) -> bool:
        """Whether another process held this slot before."""
        return self._writer.starts > 1

    def bind(self, endpoint: str, generation: int, version: str, digest: str) -> BoundMetrics:
        """The cells for requests that `version` ("flights:3", with its package `digest`) answers for `endpoint`."""
        key = _SEPARATOR + _SEPARATOR.join((endpoint, str(generation), version, digest.removeprefix("sha256:")))
        if key not in self._bound:
            self._bound[key] = BoundMetrics(self._writer, key)
            if self._writer.fullness > self._fold_at:
                self._fold()
        return self._bound[key]

    def _fold(self) -> None:
        """Make room: join the counts of earlier generations of each endpoint, and of the probes of their versions. Sums over an
        endpoint do not change, and the control plane has had the counts of each generation in telemetry."""
        names = [name.split(_SEPARATOR) for name in self._writer.names()]
        newest: dict[str, int] = {}
        for parts in names:
            if parts[0] in _OF_A_VERSION:
                newest[parts[1]] = max(newest.get(parts[1], 0), int(parts[2]))
        for _, endpoint, generation, *_ in (key.split(_SEPARATOR) for key in self._bound):
            newest[endpoint] = int(generation)  # the last one bound is in service
        versions = {parts[3] for parts in names if parts[0] in _OF_A_VERSION and int(parts[2]) == newest[parts[1]]}
        into: dict[str, str] = {}
        for kind, *parts in names:
            name = _SEPARATOR.join((kind, *parts))
            if kind in _OF_A_VERSION and parts[2] != _OTHER and int(parts[1]) != newest[parts[0]]:
                into[name] = _SEPARATOR.join((kind, parts[0], "0", _OTHER, "", *parts[4:]))
            elif kind in (_PROBES, _PROBE_LAST) and parts[0] not in versions | {_OTHER}:
                into[name] = _SEPARATOR.join((kind, _OTHER, *parts[1:]))
        into.update(self.evidence.folds())
        live = {key.split(_SEPARATOR)[4] for key in self._bound if _ROWS + key not in into}
        into.update(self._fold_run_times(live))
        into.update(self._fold_idle_threads(live))
        self._writer.fold(into)
        for key in [key for key in self._bound if _ROWS + key in into]:
            self._bound.pop(key).move(into[_ROWS + key].removeprefix(_ROWS))
        self._probes.clear()

    def _fold_run_times(self, live: set[str]) -> dict[str, str]:
        live = live | set(self._shadowing)
        for digest in [digest for digest in self._timed if digest not in live]:
            self._timed.pop(digest).keep_in(self._writer.values, self._run_time_cells(_OTHER))
        names = [name.split(_SEPARATOR) for name in self._writer.names()]
        return {
            _SEPARATOR.join((kind, *parts)): _SEPARATOR.join((kind, _OTHER, *parts[1:]))
            for kind, *parts in names
            if kind == _RUN_TIMES and parts[0] not in live | {_OTHER}
        }

    def _fold_idle_threads(self, live: set[str]) -> dict[str, str]:
        idle = [name for name, cell in self._on_thread.items() if name not in live and not self._writer.values[cell]]
        for name in idle:
            del self._on_thread[name]
        return {_SEPARATOR.join((_ON_THREAD, name)): _SEPARATOR.join((_ON_THREAD, _OTHER)) for name in idle}

    def time_runs(self, digest: str, times: RunTimes) -> None:
        """Count `times` as those of the version with this digest. When a worker dies during a run on a thread, a gauge names the
        version, even if its requests have been told that their deadlines passed."""
        name = digest.removeprefix("sha256:")
        if self._timed.get(name) is not times:
            self._timed[name] = times
            times.keep_in(self._writer.values, self._run_time_cells(name))
            times.on_thread = partial(self._count_on_thread, name)

    def _count_on_thread(self, name: str, change: int) -> None:
        cell = self._on_thread.get(name)
        if cell is None:
            cell = self._on_thread[name] = self._writer.place(_SEPARATOR.join((_ON_THREAD, name)), kind=GAUGE)
        self._writer.values[cell] += change

    def _run_time_cells(self, name: str) -> list[int]:
        cells: list[int] = []
        for part in range(0, BINS, _RUN_TIMES_A_RUN):
            label = _SEPARATOR.join((_RUN_TIMES, name, str(part)))
            first = self._writer.place(label, width=_RUN_TIMES_A_RUN)
            cells += range(first, first + _RUN_TIMES_A_RUN)
        return cells

    def shadowing(self, digest: str) -> Gauge:
        """Mirrored requests that a shadowed version has not answered yet. They count for no endpoint, but when a worker dies of
        one, this gauge names the version."""
        name = digest.removeprefix("sha256:")
        gauge = self._shadowing.get(name)
        if gauge is None:
            cell = self._writer.place(_SHADOWING + _SEPARATOR + name, kind=GAUGE)
            gauge = self._shadowing[name] = Gauge(self._writer.values, cell)
        return gauge

    def probed(self, version: str, result: str, seconds: float) -> None:
        """Count a golden probe of `version` ("flights:3"), and how long it took."""
        cell = self._probes.get((version, result))
        if cell is None:
            cell = self._writer.place(_SEPARATOR.join((_PROBES, version, result)))
            self._probes[version, result] = cell
        values = self._writer.values
        values[cell] += 1
        values[self._writer.place(_SEPARATOR.join((_PROBE_LAST, version)), kind=GAUGE)] = int(seconds * 1e6)

    def log_lines_dropped(self, count: int) -> None:
        """Set how many lines this process's log has dropped so far."""
        self._writer.values[self._log_lines] = self._log_lines_before + count

    def refused(self, endpoint: str, code: str) -> None:
        """Count a request that reached no version.

        Args:
            endpoint: a name from the snapshot; "" for any other name, since callers must not be able to create series.
            code: the error's stable code.
        """
        cell = self._refused.get((endpoint, code))
        if cell is None:
            cell = self._writer.place(_SEPARATOR.join((_REFUSED, endpoint, code)))
            self._refused[endpoint, code] = cell
        self._writer.values[cell] += 1

    def queue(self, endpoint: str) -> Gauge:
        """The gauge of requests of `endpoint` that wait for a batch; keep the returned object."""
        gauge = self._queues.get(endpoint)
        if gauge is None:
            cell = self._writer.place(_QUEUE + _SEPARATOR + endpoint, kind=GAUGE)
            gauge = self._queues[endpoint] = Gauge(self._writer.values, cell)
        return gauge

    def count(self, *labels: str) -> None:
        """Add one to the counter with these labels; the first label is one of COUNTED."""
        cell = self._counted.get(labels)
        if cell is None:
            cell = self._counted[labels] = self._writer.place(_SEPARATOR.join(labels))
        self._writer.values[cell] += 1

    def shared(self, *labels: str) -> tuple[memoryview[int], Callable[[], list[tuple[list[int], bool]]]]:
        """MAX_WIDTH numbers that every worker has under these labels, of which the first is BREAKER: this worker's own cells, and
        a function that reads those of all workers, each with whether that worker is alive."""
        name = _SEPARATOR.join(labels)
        first = self._writer.place(name, width=MAX_WIDTH)
        return self._writer.values[first : first + MAX_WIDTH], partial(self._writer.everywhere, name)

    def shared_cache(self, *, connected: bool) -> None:
        """Set whether the shared cache answers this worker. Call it only where there is a shared cache."""
        cell = self._writer.place(_SHARED_STATE, kind=GAUGE)
        self._writer.values[cell] = 2 if connected else 1  # 0: never set

    def lost_records(self, count: int) -> None:
        """Count prediction records that this process had to drop."""
        self._writer.values[self._records_lost] += count

    def state(self, text: str) -> None:
        """Set STARTING, READY or DRAINING (`foundation/slab.py`). The supervisor waits for READY before it stops a
        predecessor."""
        self._writer.state(text)

    def another_serves(self) -> bool:
        """Whether another worker answers new connections; then this one need not accept any before it can answer."""
        agents = self._writer.slots - 1
        return any(slot not in (self._writer.slot, agents) for slot in self._writer.serving_slots())

    def heartbeat(self, hanging: Collection[str] = ()) -> None:
        """Show that this process is alive; about once a second. While runs hang, name their versions (digests) instead: no
        heartbeat is shown, so that the supervisor replaces this process."""
        names = frozenset(digest.removeprefix("sha256:") for digest in hanging)
        for name in names ^ self._hanging:
            self._writer.values[self._writer.place(_SEPARATOR.join((_HANGING, name)), kind=GAUGE)] = int(name in names)
        self._hanging = names
        if not names:
            self._writer.heartbeat()

    def close(self) -> None:
        """Release the slot with nothing in flight. The last call of an orderly stop."""
        self._writer.release()


def executing(left: Mapping[str, int]) -> set[str]:
    """The digests of the versions that had requests in flight or ran on a thread, by the gauges of a worker's slot."""
    busy = [name.split(_SEPARATOR) for name, value in left.items() if value > 0]
    live = {f"sha256:{parts[4]}" for parts in busy if parts[0] == _IN_FLIGHT and len(parts) == 5}
    return live | {f"sha256:{parts[1]}" for parts in busy if parts[0] in (_SHADOWING, _ON_THREAD)}


def suspects(left: Mapping[str, int]) -> set[str]:
    """The digests of the versions that may have ended a worker, by the gauges that it left: those with a run that hung, else all
    that it executed."""
    names = [name.split(_SEPARATOR) for name, value in left.items() if value > 0]
    return {f"sha256:{parts[1]}" for parts in names if parts[0] == _HANGING} or executing(left)


def open_worker_metrics(path: Path, slot: int) -> WorkerMetrics:
    """Open slot `slot` of the slab at `path`.

    Raises:
        ValueError: the file is no slab of this release, or has no such slot.
        OSError: the file cannot be opened.
    """
    return WorkerMetrics(SlotWriter(path, slot))


def open_member_metrics(path: Path, slot: int) -> WorkerMetrics:
    """Open a slot for embedded endpoints. A run in it that is not sound is removed: it was written by another application.

    Raises:
        ValueError: the file is no slab of this release, or has no such slot.
        OSError: the file cannot be opened.
    """
    return WorkerMetrics(SlotWriter(path, slot, is_sound), _FOLD_MEMBER_AT)


@dataclass(frozen=True, slots=True)
class Bound:
    """The labels of one series of counts. `digest` is `sha256:…`."""

    endpoint: str
    generation: int
    version: str
    digest: str


@dataclass(slots=True)
class Totals:
    """Sums over all slots since the slab was made.

    Attributes:
        requests: answered requests, by series and outcome.
        latency: histogram cells by series: one per bucket, not cumulative, then the sum in microseconds.
        rows: answered rows.
        in_flight: requests admitted and not yet answered, in live workers.
        lost: requests in flight in workers that died.
        refused: by (endpoint, code). queue: waiting requests by endpoint.
        records_lost: dropped prediction records. log_lines_lost: dropped log lines.
        probes: golden probes by (version, result). probe_us: how long the last one of a version took, in the slowest live worker.
        counted: of each kind in COUNTED, by its labels. sharing: live workers with a shared cache, by whether it answers them.
        breakers: by (endpoint, index of the variant), each worker's numbers and whether it is alive.
        evidence: counts for rollouts. streams: counts of answers in parts.
        run_times: by digest, requests in each bin of RUN_TIME_BOUNDS_US and above.
        slots: the state of each worker's slot, and last the agent's. members: of the slots of embedded endpoints.
    """

    requests: dict[tuple[Bound, str], int] = field(default_factory=lambda: defaultdict(int))
    latency: dict[Bound, list[int]] = field(default_factory=dict)
    rows: dict[Bound, int] = field(default_factory=lambda: defaultdict(int))
    in_flight: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    lost: dict[Bound, int] = field(default_factory=lambda: defaultdict(int))
    refused: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    queue: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    records_lost: int = 0
    log_lines_lost: int = 0
    probes: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    probe_us: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    counted: dict[tuple[str, ...], int] = field(default_factory=lambda: defaultdict(int))
    sharing: dict[bool, int] = field(default_factory=lambda: defaultdict(int))
    breakers: dict[tuple[str, int], list[tuple[tuple[int, ...], bool]]] = field(default_factory=lambda: defaultdict(list))
    evidence: EvidenceTotals = field(default_factory=EvidenceTotals)
    streams: StreamTotals = field(default_factory=StreamTotals)
    run_times: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0] * BINS))
    slots: list[SlotStatus] = field(default_factory=list)
    members: list[SlotStatus] = field(default_factory=list)


def read_totals(reader: SlabReader, endpoints: Container[str] | None = None) -> Totals:
    """Add up all slots. A dead worker's requests in flight count as lost from the moment of its death.

    Args:
        endpoints: the names for which embedded endpoints may count; None: any.
    """
    totals = Totals()
    for slot in range(reader.slots):
        status, runs = reader.read(slot)
        if slot in reader.members:
            totals.members.append(status)
            if not status.alive and is_running(status.pid):  # silent: what it has in flight may still be answered
                runs = [cells for cells in runs if cells.kind != GAUGE]
            sound = ((cells.name, cells) for cells in runs if is_sound(cells, endpoints))
            runs = list(dict(islice(sound, MEMBER_RUNS)).values())
        else:
            totals.slots.append(status)
        for cells in runs:
            _add(totals, cells, alive=status.alive)
    return totals


def _add(totals: Totals, cells: NamedCells, *, alive: bool) -> None:
    kind, parts, bound = _parsed(cells.name)
    value = cells.values[0]
    if bound is not None:
        _add_version(totals, (kind, *parts[4:]), bound, cells.values, alive=alive)
    elif kind in EVIDENCE:
        totals.evidence.add(kind, parts, cells.values)
    elif kind == _RUN_TIMES:
        _add_run_times(totals, parts, cells.values)
    elif kind in (_PROBES, _PROBE_LAST):
        _add_probes(totals, kind, parts, value if alive or kind == _PROBES else 0)
    elif kind == _RECORDS_LOST:
        totals.records_lost = min(totals.records_lost + value, MOST)
    elif kind == _LOG_LINES:
        totals.log_lines_lost += value
    elif kind in COUNTED:
        totals.counted[kind, *parts] += value
    elif kind == _SHARED_STATE:
        totals.sharing[value == 2] += int(alive and value > 0)
    elif kind == BREAKER:
        totals.breakers[parts[0], int(parts[1])].append((cells.values, alive))
    elif kind == _REFUSED:
        totals.refused[parts[0], parts[1]] += value
    elif kind == _QUEUE:
        totals.queue[parts[0]] += value if alive else 0


def _add_probes(totals: Totals, kind: str, parts: tuple[str, ...], value: int) -> None:
    if kind == _PROBES:
        totals.probes[parts[0], parts[1]] += value
    else:
        totals.probe_us[parts[0]] = max(totals.probe_us[parts[0]], value)


def _add_run_times(totals: Totals, parts: tuple[str, ...], values: tuple[int, ...]) -> None:
    if parts[0] != _OTHER:
        sums = totals.run_times[f"sha256:{parts[0]}"]
        for place, value in enumerate(values[: BINS - int(parts[1])], int(parts[1])):
            sums[place] = min(sums[place] + value, MOST)


def _add_version(totals: Totals, kinds: tuple[str, ...], bound: Bound, values: tuple[int, ...], *, alive: bool) -> None:
    kind, value = kinds[0], values[0]
    if kind in OF_STREAMS:
        totals.streams.add(kinds, (bound.endpoint, bound.version), values, alive=alive)
    elif kind == _REQUESTS:
        totals.requests[bound, kinds[1]] += value
    elif kind == _LATENCY:
        totals.latency[bound] = summed(totals.latency.get(bound), values)
    elif kind == _ROWS:
        totals.rows[bound] += value
    elif kind == _LOST:
        totals.lost[bound] += value
    else:
        totals.in_flight[bound.endpoint] += value if alive else 0
        if not alive:
            totals.lost[bound] += max(value, 0)


@lru_cache(8_192)
def _parsed(name: str) -> tuple[str, tuple[str, ...], Bound | None]:
    """Kind, other parts, and the series if the run belongs to a version. Cached, since every scrape reads the same names."""
    kind, *parts = name.split(_SEPARATOR)
    return kind, tuple(parts), _bound(parts) if kind in _OF_A_VERSION else None


def _bound(parts: list[str]) -> Bound:
    endpoint, generation, version, digest = parts[:4]
    return Bound(endpoint, int(generation), version, f"sha256:{digest}" if digest else "")
