"""`python -m roadworthy.agent`: started by the supervisor, configured by one line on standard input.

Wires the parts of this folder together, runs them until SIGTERM or until the supervisor is gone, then writes what is left of the
records and makes one last attempt to ship it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sys
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
from roadworthy.agent.runners.keeper import Around, How, Keeping, Runners
from roadworthy.agent.runners.orders import Orders
from roadworthy.agent.runners.quarantine import Limit, Quarantine, crash_reason
from roadworthy.agent.runners.watch import Growth
from roadworthy.agent.sync.control import ControlLink
from roadworthy.agent.sync.packages import PackageStore
from roadworthy.agent.sync.shipping import Frames, Known, Shipping
from roadworthy.agent.sync.sync import Sync
from roadworthy.agent.worker_registry import WorkerRegistry
from roadworthy.contract.local import read_part
from roadworthy.contract.snapshot import Snapshot
from roadworthy.contract.telemetry import UNLOADED
from roadworthy.foundation.child import (
    EXIT_REFUSED,
    LIFE_S,
    keep_log_apart,
    read_start_message,
    show_life,
    watch_parent,
)
from roadworthy.foundation.clock import SystemClock
from roadworthy.foundation.confine.plan import REQUIRED, Bounds
from roadworthy.foundation.errors import RoadworthyError
from roadworthy.foundation.keys import key_id
from roadworthy.foundation.slab import GAUGE, READY, SlabReader, SlotWriter
from roadworthy.runtime.logs import configure_logs, lines_dropped
from roadworthy.runtime.placement import PROCESS, placer
from roadworthy.schema.signature import Signature
from roadworthy.serving.health.pressure import measure
from roadworthy.serving.metrics import Totals, WorkerMetrics, executing, read_totals

LAST_ATTEMPT_S = 2.0
"""How long the last files and frame may take at the end; what does not get through stays on disk for the next start."""

_log = structlog.get_logger(__name__)


class StartDocument(msgspec.Struct, frozen=True):
    """What the supervisor hands over.

    Attributes:
        gateway: the instance's name, of which the control plane makes `<key's name>/<instance>`.
        folder: the gateway's folder: snapshot.json, packages/, records/, run/.
        slab: the workers' slab; the agent's slot is its last.
        control_url, key: the control plane and a key of the role gateway, or None to serve what is on disk.
        metrics_fd: inherited listening socket for /metrics, or None to open none.
        metrics_host: where that socket listens, for the log.
        record_max_bytes: bound of all record files on disk. disk_reserve_bytes: free space that records leave to others.
        children_fd: inherited line to the supervisor (`orders.py`), or None: then nothing executes apart.
        crashes_to_quarantine: of a version, within ten minutes.
        growth_mb: a runner that has grown by more is replaced; 0 for no bound.
        give_up_epoch: endpoints of that epoch may be given up for an empty snapshot of another one.
        confinement: whether packages' code is executed where it cannot be confined: "required" or "best-effort".
        grants: what packages may be granted here at most. private: folders and files that they never are.
        log_level: "debug", "info", "warning" or "error".
    """

    gateway: str
    folder: str
    slab: str
    control_url: str | None = None
    key: str | None = None
    metrics_fd: int | None = None
    metrics_host: str = "127.0.0.1"
    record_max_bytes: int = 5 << 30
    disk_reserve_bytes: int = 256 << 20
    children_fd: int | None = None
    crashes_to_quarantine: int = 3
    growth_mb: int = 1_024
    give_up_epoch: str | None = None
    confinement: str = REQUIRED
    grants: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    log_level: str = "info"


@dataclass(slots=True)
class _Agent:
    """The parts, wired."""

    metrics: WorkerMetrics
    hub: WorkerRegistry
    sink: RecordSink
    sync: Sync
    control: ControlLink | None
    shipping: Shipping | None
    orders: Orders | None
    runners: Runners | None
    collector: GatewayCollector
    confinement: Confinement


def main() -> int:
    """Run the agent; the process's exit status."""
    try:
        document = msgspec.convert(read_start_message(), StartDocument)
        configure_logs("agent", document.log_level, keep_log_apart())
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(document))
    except (RoadworthyError, msgspec.ValidationError, ValueError, OSError) as error:
        hint = getattr(error, "hint", None)
        print(f"the agent cannot start: {error}" + (f"; {hint}" if hint else ""), file=sys.stderr)
        return EXIT_REFUSED
    return 0


async def _run(document: StartDocument) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def parent_gone() -> None:
        loop.call_soon_threadsafe(stop.set)

    watch_parent(parent_gone)
    agent = _wire(document)
    agent.sync.load()
    await agent.hub.start(Path(document.folder) / "run" / "agent.sock")
    pages = await _serve_pages(document, agent)
    agent.metrics.state(READY)
    gc.collect()
    gc.freeze()  # what is here stays: looking through it again and again would cost as much as reading the frames
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

    def know(snapshot: Snapshot) -> None:
        sink.know(_scrubbers(snapshot, hash_key))
        if runners is not None:
            runners.know(snapshot)

    def read() -> Totals:
        return read_totals(reader)

    def changed() -> None:
        sync.mend()
        if shipping is not None:
            shipping.kick()

    def facts() -> AgentFacts:
        connected = None if control is None else sync.connected
        keeping = Keeping() if runners is None else runners.facts()
        reading = measure(sink.folder.folder)
        resources = (reading.disk_free_bytes, reading.memory)
        files = (len(sink.folder.names()), sink.folder.files_lost)
        refused = sync.refused is not None
        known = (sync.current, tuple(hub.reports()), connected)
        frames = 0 if shipping is None else shipping.refused
        return AgentFacts(*known, *files, keeping, *resources, refused, confinement.held, frames)

    def known() -> Known:
        reading = measure(sink.folder.folder)
        processes = {} if runners is None else runners.processes()
        return Known(sync.current, processes, reading.memory_free_bytes, reading.disk_free_bytes)

    hub = WorkerRegistry(sink.offer, changed)
    confinement = Confinement(folder, document.confinement)
    orders, runners = _wire_runners(document, hub, reader, metrics)
    sync = Sync(folder / "snapshot.json", PackageStore(folder / "packages"), hub, know, document.give_up_epoch)
    control = shipping = None
    if document.control_url is not None:
        name = _name(document)
        control = ControlLink(document.control_url, document.key or "", name)
        frames = Frames((name, reader.boot), slot, read, SystemClock(), known)
        shipping = Shipping(name, control, frames, sink, metrics.lost_records)
    collector = GatewayCollector(read, facts)
    return _Agent(metrics, hub, sink, sync, control, shipping, orders, runners, collector, confinement)


def _name(document: StartDocument) -> str:
    """Under which this gateway reports, with the key's id: an instance alone might be the name of another gateway's key."""
    with contextlib.suppress(ValueError):
        return f"{key_id(document.key or '')}/{document.gateway}"
    return document.gateway


def _wire_runners(
    document: StartDocument, hub: WorkerRegistry, reader: SlabReader, metrics: WorkerMetrics
) -> tuple[Orders, Runners] | tuple[None, None]:
    if document.children_fd is None:
        return None, None

    def held(part: str) -> bool:
        digest, rule = read_part(part)
        if rule:  # an endpoint may use it for as long as a worker serves by an earlier snapshot
            return any(report.revision not in (0, runners.revision) for report in hub.reports())
        versions = (version for report in hub.reports() for version in report.versions if version.digest == digest)
        reported = any(
            version.state != UNLOADED and (version.placement or PROCESS).startswith(PROCESS) for version in versions
        )
        return reported or digest in _in_flight(reader)  # what waits in a worker is still to be answered

    def told(message: dict[str, Any]) -> None:
        runners.told(message)
        if message.get("left"):
            busy = executing(message["left"]) - runners.apart()
            why = message.get("reason") or crash_reason(int(message["status"]))
            if why is not None and len(busy) == 1:  # of several nobody knows which one it was
                runners.crashed(busy.pop(), why)

    folder = Path(document.folder)
    orders = Orders(document.children_fd, told)
    limit = Limit(document.crashes_to_quarantine)
    quarantine = Quarantine(limit, folder / "run" / "quarantine.json", reader.boot)
    growth = Growth(document.growth_mb << 20 or None)
    bounds = Bounds(document.confinement, document.grants, tuple(Path(path) for path in document.private))
    how = How(folder, bounds=bounds, log_level=document.log_level, growth=growth)
    runners = Runners(
        how,
        placer(folder, document.confinement),
        quarantine,
        Around(orders.order, orders.kill, held, hub.keep_out, metrics.evidence.crash),
    )
    return orders, runners


def _in_flight(reader: SlabReader) -> set[str]:
    """The digests of the versions that have requests in flight in live workers."""
    busy: set[str] = set()
    for slot in range(reader.slots):
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
    tasks = [asyncio.create_task(agent.sink.run()), asyncio.create_task(_beat(agent.metrics, agent.hub))]
    if agent.orders is not None and agent.runners is not None:
        tasks += [asyncio.create_task(agent.orders.run()), asyncio.create_task(agent.runners.run())]
    if agent.control is not None and agent.shipping is not None:
        tasks.append(asyncio.create_task(agent.sync.run(agent.control)))
        tasks.append(asyncio.create_task(agent.shipping.run(agent.hub)))
    return tasks


async def _beat(metrics: WorkerMetrics, hub: WorkerRegistry) -> None:
    while True:
        metrics.heartbeat()
        show_life()
        await hub.stay()
        metrics.log_lines_dropped(lines_dropped())
        await asyncio.sleep(LIFE_S)


async def _finish(agent: _Agent, tasks: list[asyncio.Task[None]]) -> None:
    await agent.hub.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await agent.sink.flush()
    if agent.control is not None and agent.shipping is not None:
        with contextlib.suppress(httpx.HTTPError, TimeoutError):
            async with asyncio.timeout(LAST_ATTEMPT_S):
                await agent.shipping.finish(agent.hub)
        await agent.control.close()
    agent.metrics.close()


if __name__ == "__main__":
    sys.exit(main())
