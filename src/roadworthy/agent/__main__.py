"""`python -m roadworthy.agent`: the agent's main, started by the supervisor and configured by one line on standard input.

It wires the parts of this folder together, runs them until SIGTERM or until the supervisor is gone, then spools the remaining
records, and tries a last time to write and ship them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import structlog
import uvloop

from roadworthy.agent.metrics.exposition import CONTENT_TYPE, AgentFacts, GatewayCollector, render
from roadworthy.agent.metrics.http import serve_pages
from roadworthy.agent.records.files import RecordFolder
from roadworthy.agent.records.privacy import Scrubber, load_hash_key
from roadworthy.agent.records.records import RecordSink
from roadworthy.agent.runners.confinement import Confinement
from roadworthy.agent.runners.keeper import Keeping, Runners, RunnerSettings
from roadworthy.agent.runners.orders import Orders
from roadworthy.agent.runners.quarantine import Limit, Quarantine, crash_reason
from roadworthy.agent.runners.watch import Growth
from roadworthy.agent.sync.control import ControlLink
from roadworthy.agent.sync.packages import PackageStore
from roadworthy.agent.sync.shipping import Frames, GatewayState, Shipping
from roadworthy.agent.sync.sync import Sync
from roadworthy.agent.worker_registry import WorkerRegistry, serves_earlier
from roadworthy.contract.local import read_part
from roadworthy.contract.runners import runs_in_worker
from roadworthy.contract.snapshot import Snapshot
from roadworthy.contract.telemetry import UNLOADED
from roadworthy.foundation.child import (
    EXIT_REFUSED,
    LIFE_S,
    read_start_message,
    separate_log,
    show_life,
    watch_parent,
)
from roadworthy.foundation.clock import SystemClock
from roadworthy.foundation.confine.plan import REQUIRED, Bounds
from roadworthy.foundation.errors import RoadworthyError
from roadworthy.foundation.keys import key_id
from roadworthy.foundation.slab import GAUGE, READY, SlabReader, SlotWriter
from roadworthy.runtime.logs import configure_logs, lines_dropped
from roadworthy.runtime.placement import placer
from roadworthy.schema.signature import Signature
from roadworthy.serving.health.pressure import measure
from roadworthy.serving.metrics import Totals, WorkerMetrics, executing, read_totals, suspects

LAST_ATTEMPT_S = 2.0
"""How long writing the last files, and then shipping them with a frame, may take at the end; the next start does the rest."""

_log = structlog.get_logger(__name__)


class StartDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The agent's start document. Fields that settings decide have their defaults in `settings.py`.

    Attributes:
        gateway: the instance's name; the control plane calls the gateway `<key's name>/<instance>`.
        folder: the gateway's folder: snapshot.json, packages/, records/, run/.
        slab: path of the workers' slab; the agent's slot is the last.
        control_url, key: the control plane and a key of the role gateway, or None to serve what is on disk.
        metrics_fd: inherited listening socket for /metrics, or None for no metrics.
        metrics_host: where that socket listens, for the log.
        record_max_bytes: bound of all records on disk. disk_reserve_bytes: free space that records leave to others.
        children_fd: inherited channel to the supervisor (`orders.py`), or None: then nothing executes in isolation.
        crashes_to_quarantine: number of crashes of a version within ten minutes that lead to quarantine.
        growth_mb: a runner that grew by more is replaced; 0 for no bound.
        give_up_epoch: the epoch whose endpoints may be replaced by an empty snapshot of another epoch.
        confinement: whether packages' code executes where it cannot be confined: "required" (no) or "best-effort" (yes).
        grants: the grants that packages may get here. private: folders and files that can never be granted.
        log_level: "debug", "info", "warning" or "error".
    """

    gateway: str
    folder: str
    slab: str
    control_url: str | None = None
    key: str | None = None
    metrics_fd: int | None = None
    metrics_host: str
    record_max_bytes: int
    disk_reserve_bytes: int
    children_fd: int | None = None
    crashes_to_quarantine: int
    growth_mb: int
    give_up_epoch: str | None = None
    confinement: str = REQUIRED
    grants: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    log_level: str


@dataclass(slots=True)
class _Agent:
    """The wired parts of the agent."""

    metrics: WorkerMetrics
    registry: WorkerRegistry
    sink: RecordSink
    sync: Sync
    control: ControlLink | None
    shipping: Shipping | None
    orders: Orders | None
    runners: Runners | None
    collector: GatewayCollector
    confinement: Confinement


def main() -> int:
    """Run the agent; return the process's exit status. An error after it was ready is raised: another agent is then started."""
    ready = threading.Event()
    try:
        document = msgspec.convert(read_start_message(), StartDocument)
        configure_logs("agent", document.log_level, separate_log())
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(document, ready))
    except (RoadworthyError, msgspec.ValidationError, ValueError, OSError) as error:
        if ready.is_set():
            raise
        hint = getattr(error, "hint", None)
        print(f"the agent cannot start: {error}" + (f"; {hint}" if hint else ""), file=sys.stderr)
        return EXIT_REFUSED
    return 0


async def _run(document: StartDocument, ready: threading.Event) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def parent_gone() -> None:
        loop.call_soon_threadsafe(stop.set)

    watch_parent(parent_gone)
    agent = _wire(document)
    agent.sync.load()
    await agent.registry.start(Path(document.folder) / "run" / "agent.sock")
    pages = await _serve_pages(document, agent)
    agent.metrics.state(READY)
    ready.set()
    gc.collect()
    gc.freeze()  # these objects stay; scanning them at each collection would cost as much as reading the frames
    _log.info("the agent is ready", gateway=document.gateway, revision=getattr(agent.sync.current, "revision", None))
    tasks = _start(agent)
    asking = asyncio.create_task(agent.confinement.find_out()) if agent.runners is not None else None
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    await _finish(agent, tasks if asking is None else [*tasks, asking])
    if pages is not None:
        pages.close()
    if not stop.is_set():
        raise next(error for task in tasks if not task.cancelled() and (error := task.exception()) is not None)


def _wire(document: StartDocument) -> _Agent:
    folder = Path(document.folder)
    reader = SlabReader(Path(document.slab))
    slot = SlotWriter(Path(document.slab), reader.slots - 1)
    metrics = WorkerMetrics(slot)
    sink = RecordSink(
        RecordFolder(folder / "records", document.record_max_bytes, document.disk_reserve_bytes), metrics.lost_records
    )
    hash_key = load_hash_key(folder / "privacy.key")

    def take_snapshot(snapshot: Snapshot) -> None:
        sink.add_scrubbers(_scrubbers(snapshot, hash_key))
        if runners is not None:
            runners.take_snapshot(snapshot)

    def read() -> Totals:
        return read_totals(reader, sink.endpoints)

    def changed() -> None:
        sync.mend()
        if shipping is not None:
            shipping.kick()

    def facts() -> AgentFacts:
        reading = measure(sink.folder.folder)
        return AgentFacts(
            snapshot=sync.current,
            reports=tuple(registry.reports()),
            control_up=None if control is None else sync.connected,
            files_waiting=len(sink.folder.names()),
            files_lost=sink.folder.files_lost,
            spool_bytes=sink.spool.size_bytes,
            keeping=Keeping() if runners is None else runners.facts(),
            disk_free_bytes=reading.disk_free_bytes,
            memory_used=reading.memory,
            snapshot_refused=sync.refused is not None,
            confinement=confinement.held,
            telemetry_refused=0 if shipping is None else shipping.refused,
        )

    def state() -> GatewayState:
        reading = measure(sink.folder.folder)
        processes = {} if runners is None else runners.processes()
        return GatewayState(sync.current, processes, reading.memory_free_bytes, reading.disk_free_bytes)

    registry = WorkerRegistry(reader, sink.offer, changed, lambda: sink.endpoints, metrics.lost_records)
    confinement = Confinement(folder, document.confinement)
    orders, runners = _wire_runners(document, registry, reader, metrics)
    sync = Sync(folder / "snapshot.json", PackageStore(folder / "packages"), registry, take_snapshot, document.give_up_epoch)
    control = shipping = None
    if document.control_url is not None:
        name = _name(document)
        control = ControlLink(document.control_url, document.key or "", name)
        frames = Frames((name, reader.boot), slot, read, SystemClock(), state)
        shipping = Shipping(name, control, frames, sink, metrics.lost_records)
    collector = GatewayCollector(read, facts)
    return _Agent(metrics, registry, sink, sync, control, shipping, orders, runners, collector, confinement)


def _name(document: StartDocument) -> str:
    """The name under which this gateway reports. It includes the key's id: the instance alone could equal another gateway's
    key."""
    with contextlib.suppress(ValueError):
        return f"{key_id(document.key or '')}/{document.gateway}"
    return document.gateway


def _wire_runners(
    document: StartDocument, registry: WorkerRegistry, reader: SlabReader, metrics: WorkerMetrics
) -> tuple[Orders, Runners] | tuple[None, None]:
    if document.children_fd is None:
        return None, None

    def held(part: str) -> bool:
        digest, rule = read_part(part)
        if rule:  # needed as long as a worker serves by an earlier snapshot
            return any(serves_earlier(report, runners.revision) for report in registry.reports())
        versions = (version for report in registry.reports() for version in report.versions if version.digest == digest)
        reported = any(version.state != UNLOADED and not runs_in_worker(version.placement or "") for version in versions)
        return reported or digest in _in_flight(reader)  # requests waiting in a worker must still be answered

    def on_message(message: dict[str, Any]) -> None:
        runners.handle(message)
        if message.get("left"):
            busy = suspects(message["left"]) - runners.isolated()
            why = message.get("reason") or crash_reason(int(message["status"]))
            if why is not None and len(busy) == 1:  # with several it is unknown which one crashed
                runners.crashed(busy.pop(), why)

    folder = Path(document.folder)
    orders = Orders(document.children_fd, on_message)
    limit = Limit(document.crashes_to_quarantine)
    quarantine = Quarantine(limit, folder / "run" / "quarantine.json", reader.boot)
    growth = Growth(document.growth_mb << 20 or None)
    bounds = Bounds(document.confinement, document.grants, tuple(Path(path) for path in document.private))
    runners = Runners(
        RunnerSettings(folder, growth, bounds=bounds, log_level=document.log_level),
        placer(folder, document.confinement),
        quarantine,
        orders,
        held=held,
        keep_out=registry.keep_out,
        count_crash=metrics.evidence.crash,
    )
    return orders, runners


def _in_flight(reader: SlabReader) -> set[str]:
    """The digests of the versions with requests in flight in live workers, not in members, which have runners of their own."""
    busy: set[str] = set()
    for slot in range(reader.members.start):
        status, runs = reader.read(slot)
        if status.alive:
            busy |= executing({run.name: run.values[0] for run in runs if run.kind == GAUGE})
    return busy


def _scrubbers(snapshot: Snapshot, key: bytes) -> dict[str, Scrubber]:
    scrubbers = {}
    for endpoint in snapshot.endpoints:
        with contextlib.suppress(RoadworthyError):  # without a readable signature no body is kept
            scrubbers[endpoint.name] = Scrubber(Signature.from_document(endpoint.signature), key)
    return scrubbers


async def _serve_pages(document: StartDocument, agent: _Agent) -> asyncio.Server | None:
    if document.metrics_fd is None:
        return None
    pages: dict[str, Any] = {
        "/metrics": (CONTENT_TYPE, lambda: render(agent.collector)),
        "/livez": ("application/json", lambda: b'{"status":"ok"}'),
    }
    return await serve_pages(socket.socket(fileno=document.metrics_fd), pages)


def _start(agent: _Agent) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(agent.sink.run()), asyncio.create_task(_beat(agent.metrics, agent.registry))]
    if agent.orders is not None and agent.runners is not None:
        tasks += [asyncio.create_task(agent.orders.run()), asyncio.create_task(agent.runners.run())]
    if agent.control is not None and agent.shipping is not None:
        tasks.append(asyncio.create_task(agent.sync.run(agent.control)))
        tasks.append(asyncio.create_task(agent.shipping.run(agent.registry)))
    return tasks


async def _beat(metrics: WorkerMetrics, registry: WorkerRegistry) -> None:
    while True:
        metrics.heartbeat()
        show_life()
        await registry.stay()
        metrics.log_lines_dropped(lines_dropped())
        await asyncio.sleep(LIFE_S)


async def _finish(agent: _Agent, tasks: list[asyncio.Task[None]]) -> None:
    await agent.registry.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await agent.sink.flush(LAST_ATTEMPT_S)
    if agent.control is not None and agent.shipping is not None:
        with contextlib.suppress(httpx.HTTPError, TimeoutError):
            async with asyncio.timeout(LAST_ATTEMPT_S):
                await agent.shipping.finish(agent.registry)
        await agent.control.close()
    agent.metrics.close()


if __name__ == "__main__":
    sys.exit(main())
