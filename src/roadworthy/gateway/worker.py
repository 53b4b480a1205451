"""The main program of a worker, `python -m roadworthy.gateway.worker`. The supervisor starts it with a start document on standard
input.

It wires the parts together, serves on an inherited socket, and stops in order: the readiness probe says no, requests in flight
are finished, records are handed over, exit status 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path

import msgspec
import structlog
import uvloop

from roadworthy.codecs.predict_json import JsonProbe
from roadworthy.contract.local import read_part
from roadworthy.contract.snapshot import Snapshot, decode_snapshot
from roadworthy.foundation.child import EXIT_REFUSED, read_start_message, separate_log, watch_parent
from roadworthy.foundation.confine.plan import REQUIRED
from roadworthy.foundation.errors import RoadworthyError
from roadworthy.foundation.host import begin_hosting, keep_handlers, leave
from roadworthy.foundation.ids import PredictionIds
from roadworthy.foundation.slab import CLOSING, DRAINING, READY, STARTING
from roadworthy.gateway.accepting import AcceptLock
from roadworthy.gateway.http.app import App
from roadworthy.gateway.http.connection import ClientTimeouts, ConnectionContext, sweep
from roadworthy.gateway.http.documents import Documents
from roadworthy.gateway.http.header_checks import HeaderChecks
from roadworthy.gateway.http.routes import Routing
from roadworthy.gateway.http.scheduler import StepScheduler
from roadworthy.gateway.http.server import Server
from roadworthy.gateway.link import AgentLink
from roadworthy.gateway.readers.pool import Readers
from roadworthy.runtime.layers.rules import Rules
from roadworthy.runtime.loading import Loader, package_loader, without_code
from roadworthy.runtime.logs import configure_logs, lines_dropped
from roadworthy.runtime.manager import Isolation, Manager
from roadworthy.runtime.placement import Place, placer
from roadworthy.runtime.record import Recorder
from roadworthy.serving.cache.redis import RedisServer
from roadworthy.serving.cache.shared import SharedCache
from roadworthy.serving.health.golden_probe import GoldenProbes
from roadworthy.serving.health.pressure import Limits, Pressure, measure
from roadworthy.serving.health.readiness import ProcessHealth
from roadworthy.serving.metrics import SHARED_CACHE, WorkerMetrics, open_worker_metrics
from roadworthy.serving.pipeline import Identified, Instruments, Request
from roadworthy.serving.reload import Identity, ServingState

_LOOK_AGAIN_S = 0.02
_YIELD_S = 5.0
HEARTBEAT_S = 1.0
_GC_THRESHOLDS = (50_000, 20, 100)
_SWITCH_INTERVAL_S = 0.001
"""How long another thread may keep the interpreter while the event loop waits for it."""


_TIMEOUTS = ClientTimeouts()


class WorkerStart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The start document. What the settings decide has its default there.

    Attributes:
        folder: the gateway's folder: snapshot.json, packages/, run/agent.sock.
        fd: descriptor of the listening socket.
        slot, slab: this worker's slot in the slab at that path.
        threads: bound of every native thread pool.
        allowed_hosts: host names that the Host header may have; "*" for any.
        default_endpoint: answers on paths that name no endpoint; None as in the settings.
        log_level: "debug" to "error". access_log: whether each request is logged.
        runners: whether the agent keeps runner processes, so that versions may be placed in them.
        confinement: "required": the worker executes no code of packages; "best-effort": it does where a policy places it here.
        golden_probe_s: mean pause between golden probes of a version, seconds; None disables them.
        memory_close_share, memory_refuse_share, disk_reserve_mb: see `Limits` in `pressure.py`.
        drain_delay_s: how long connections are still accepted after the probe says no, so that load balancers notice.
        grace_s: how long open requests may take after that.
        cache_url: of the Redis server of the shared cache, a secret; None without one.
        cache_wait_ms: how long a request may wait for the shared cache.
        header_timeout_s, body_timeout_s, write_timeout_s, keep_alive_s: see `ClientTimeouts` in `connection.py`.
    """

    folder: str
    fd: int
    slot: int
    slab: str
    threads: int
    allowed_hosts: tuple[str, ...]
    default_endpoint: str | None = None
    log_level: str
    access_log: bool
    runners: bool = False
    confinement: str = REQUIRED
    golden_probe_s: float | None
    memory_close_share: float
    memory_refuse_share: float
    disk_reserve_mb: int
    drain_delay_s: float
    grace_s: float = 25.0
    cache_url: str | None = None
    cache_wait_ms: float
    header_timeout_s: float = _TIMEOUTS.head_s
    body_timeout_s: float = _TIMEOUTS.body_s
    write_timeout_s: float = _TIMEOUTS.write_s
    keep_alive_s: float = _TIMEOUTS.keep_alive_s

    def pressure(self) -> Limits:
        """The thresholds of a shortage of memory or disk."""
        return Limits(self.memory_close_share, self.memory_refuse_share, self.disk_reserve_mb << 20)

    def timeouts(self) -> ClientTimeouts:
        """How long clients may take."""
        return ClientTimeouts(
            head_s=self.header_timeout_s,
            body_s=self.body_timeout_s,
            write_s=self.write_timeout_s,
            keep_alive_s=self.keep_alive_s,
        )


class Worker:
    """Everything of one worker process; `run` serves until `stop`."""

    def __init__(self, start: WorkerStart, metrics: WorkerMetrics, load: Loader, place: Place | None) -> None:
        self._start = start
        self._metrics = metrics
        self._log = structlog.get_logger("worker").bind(slot=start.slot)
        self._loop = asyncio.get_running_loop()
        self._serving = ServingState(Identity(start.slot, os.getpid(), metrics.boot), metrics, self._changed)
        address = Path(start.folder, "run", "agent.sock")
        self._link = AgentLink(address, self._serving.report, self._offer, self._keep_out, self._linked)
        self._recorder = Recorder(self._loop, self._link, metrics.lost_records)
        self._dropped_before = self._dropped_logged = 0
        self._hanging: frozenset[str] = frozenset()
        isolation = None if place is None else Isolation(Path(start.folder), place)
        self._manager = Manager(load, self._serving.refresh, self._load_failed, isolation)
        log_access = self._log_access if start.access_log else None
        self._readers = Readers(self._loop)
        instruments = Instruments(metrics.refused, self._recorder, self._log_fault, log_access, lambda: self._pressure.refuse)
        folder = Path(start.folder)
        documents = Documents(folder, Path(start.slab))
        edge = instruments, self._readers, StepScheduler(self._loop)
        routing = Routing(*edge, self._serving.readiness, documents, start.default_endpoint)
        self._shared = self._shared_cache(start)
        self._rules = Rules(folder)
        self._serving.attach(self._manager, routing, self._rules, self._shared)
        self._pressure = Pressure(start.pressure(), partial(measure, folder / "records"))
        self._probes = GoldenProbes(
            folder, lambda: self._serving.endpoints, start.golden_probe_s, metrics.probed, self._changed, JsonProbe
        )
        self._serving.health = routing.health = ProcessHealth(self._probes, self._pressure, self._shared)
        checks = HeaderChecks(start.allowed_hosts)
        refused = partial(metrics.refused, "")
        self._context = ConnectionContext(
            routing.find, routing.head_cache, PredictionIds().next, checks, start.timeouts(), refused
        )
        app = App(lambda: routing.table, routing.unknown, routing.error_keys, checks, refused, self._log_fault)
        self._server = Server(
            app,
            self._context,
            drain_delay_s=start.drain_delay_s,
            grace_s=start.grace_s,
            access_log=start.access_log,
            closed=partial(metrics.state, CLOSING),
        )
        self._accept_lock = AcceptLock(Path(start.slab))
        self._settled = False
        self._refused: dict[str, str] = {}
        self._settled_changed = asyncio.Event()
        self._yield_until = time.monotonic() + (_YIELD_S if metrics.restarted else 0.0)

    def _shared_cache(self, start: WorkerStart) -> SharedCache | None:
        if start.cache_url is None:
            return None
        count = partial(self._metrics.count, SHARED_CACHE)
        return SharedCache(RedisServer(start.cache_url), start.cache_wait_ms / 1_000, count, self._sharing_changed)

    async def run(self) -> int:
        """Serve until `stop`, then drain.

        Returns:
            how many requests were given up: answered with the error "stopping".
        """
        self._metrics.state(STARTING)
        for name in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(name, self.stop)
        keep_handlers()
        watch_parent(self._parent_gone)
        self._take_snapshot_from_disk()
        link = asyncio.create_task(self._link.run())
        beat = asyncio.create_task(self._beat())
        sweeping = asyncio.create_task(sweep(self._server.connections))
        checking = asyncio.create_task(self._probes.run())
        sharing = None
        if self._shared is not None:
            self._sharing_changed()
            sharing = asyncio.create_task(self._shared.run())
        self._changed()
        listener = socket.socket(fileno=self._start.fd)
        accepting = asyncio.create_task(self._accept(listener))
        try:
            await self._server.serve(sockets=[listener])
        finally:
            accepting.cancel()
            beat.cancel()
            sweeping.cancel()
            checking.cancel()
            if sharing is not None:
                sharing.cancel()
                await asyncio.wait([sharing])
            self._readers.close()
            self._recorder.flush()
            link.cancel()
            await self._link.close()
            if len(self._recorder):
                self._metrics.lost_records(len(self._recorder))
            self._metrics.close()
        if self._server.given_up:
            self._log.error("given-up", requests=self._server.given_up, reason="they took longer than the grace period")
        return self._server.given_up

    async def _accept(self, listener: socket.socket) -> None:
        """Accept connections, or leave them to another worker, until cancelled. While this worker leaves them to another, each of
        its answers closes its connection."""
        while True:
            self._settled_changed.clear()
            may = None if self._settled else self._should_accept
            await self._server.accept(listener, wanted=self._should_accept(), may=may)
            self._choose_closing()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if self._settled and self._server.accepting else _LOOK_AGAIN_S):
                    await self._settled_changed.wait()

    def _should_accept(self) -> bool:
        """Whether this worker should accept connections.

        A ready worker accepts, also while it drains. Without one, workers with nothing left to load accept, and one that is
        loading: it answers probes and what it has loaded, and other predictions with 503. The replacement of a dead worker first
        leaves connections in the socket's queue for a moment: a short wait is better than a refusal."""
        yields = self._metrics.another_serves() or time.monotonic() < self._yield_until
        if self._settled or yields or not self._serving.loading:
            self._accept_lock.release()
            return self._settled or not yields
        return self._accept_lock.acquire()

    def _choose_closing(self) -> None:
        if not self._server.should_exit:  # after that the server decides
            self._context.closing = self._pressure.close_connections or not self._server.accepting

    def _parent_gone(self) -> None:
        self._loop.call_soon_threadsafe(self.stop)

    def stop(self) -> None:
        """Begin an orderly stop; a second call ends it at once."""
        self._server.force_exit = self._server.should_exit
        if not self._serving.stopping:
            self._log.info("stopping")
            self._serving.stopping = True
            self._metrics.state(DRAINING if self._settled else CLOSING)
        self._server.should_exit = True

    def _take_snapshot_from_disk(self) -> None:
        try:
            data = Path(self._start.folder, "snapshot.json").read_bytes()
        except FileNotFoundError:
            return
        try:
            self._offer(decode_snapshot(data))
        except ValueError as error:
            self._log.error("snapshot-unreadable", reason=str(error))

    def _offer(self, snapshot: Snapshot) -> None:
        try:
            taken = self._serving.offer(snapshot)
        except Exception as error:  # noqa: BLE001 - an unexpected snapshot must end neither the link nor the service
            self._log.error("snapshot-failed", etag=snapshot.etag(), exc_info=error)
        else:
            if not taken:
                self._log.warning("snapshot-refused", etag=snapshot.etag(), reason="it is older than the current one")

    async def _beat(self) -> None:
        while True:
            self._show_life()
            self._serving.gauge_queues()
            self._metrics.log_lines_dropped(lines_dropped())
            self._log_dropped_records()
            if self._pressure.look():
                self._log.warning("pressure", warnings=self._pressure.warnings)
                self._changed()
            self._choose_closing()
            await asyncio.sleep(HEARTBEAT_S)

    def _show_life(self) -> None:
        hanging = self._manager.hanging()
        self._metrics.heartbeat(hanging)
        if hanging - self._hanging:
            reason = "a long request has been running for longer than placement.hang_s; unless it ends, this worker is replaced"
            self._log.error("run-hangs", digests=sorted(hanging), reason=reason)
        self._hanging = hanging

    def _log_dropped_records(self) -> None:
        """Log that records are being dropped, and afterwards how many were. In between, the metrics have the count."""
        dropped, before = self._recorder.dropped, self._dropped_before
        self._dropped_before = dropped
        if before == self._dropped_logged and dropped > before:
            self._log.error("records-dropped", reason="the agent accepts none")
        elif dropped == before > self._dropped_logged:
            self._log.warning("records-kept-again", dropped=dropped - self._dropped_logged)
            self._dropped_logged = dropped

    def _changed(self) -> None:
        """React to a change of what this worker serves: report it, and set the state in the slab."""
        self._link.report()
        if self._settled != self._serving.settled and not self._serving.stopping:
            self._settled = self._serving.settled
            if self._settled:
                self._become_ready()
            else:  # the first snapshot arrived, with packages that are not loaded yet
                self._metrics.state(STARTING)
            self._settled_changed.set()
        for endpoint, reason in self._serving.reasons().items():
            self._log.debug("endpoint-waits", endpoint=endpoint, reason=reason)
        refused = self._serving.refused()
        for endpoint, reason in refused.items():
            if self._refused.get(endpoint) != reason:
                self._log.error("endpoint-refused", endpoint=endpoint, reason=reason)
        self._refused = refused

    def _become_ready(self) -> None:
        # The loaded objects stay: exempt them from garbage collection.
        gc.collect()
        gc.freeze()
        self._metrics.state(READY)
        self._log.info("ready", endpoints=self._serving.readiness().endpoints)

    def _sharing_changed(self) -> None:
        self._metrics.shared_cache(connected=self._shared is not None and self._shared.connected)
        self._link.report()

    def _keep_out(self, reasons: dict[str, str]) -> None:
        versions: dict[str, str] = {}
        for part, reason in reasons.items():
            digest, rule = read_part(part)
            if rule:
                self._log.error("rule-kept-out", digest=digest, rule=rule, reason=reason)
            else:
                self._log.error("version-kept-out", digest=digest, reason=reason)
                versions[digest] = reason
        self._rules.keep_out(reasons)
        self._manager.keep_out(versions)

    def _linked(self) -> None:
        self._recorder.flush()

    def _load_failed(self, digest: str, error: BaseException) -> None:
        if isinstance(error, RoadworthyError):
            self._log.error("load-failed", digest=digest, code=error.code, reason=error.message, hint=error.hint)
        else:
            self._log.error("load-failed", digest=digest, code="load-failed", exc_info=error)

    def _log_access(self, endpoint: str, call: Request, status: int, latency_s: float) -> None:
        self._log.info(
            "request",
            endpoint=endpoint,
            request_id=call.id,
            prediction_id=call.prediction_id,
            caller=call.caller,
            status=status,
            code=call.code,
            latency_ms=round(latency_s * 1_000, 3),
        )

    def _log_fault(self, endpoint: str, request: Identified, error: Exception) -> None:
        self._log.error(
            "request-failed",
            endpoint=endpoint,
            request_id=request.id,
            prediction_id=request.prediction_id,
            code=getattr(error, "code", "internal"),
            exc_info=error,
        )


def serve(start: WorkerStart, load: Loader, place: Place | None = None) -> int:
    """Run a worker until it is stopped. `place` decides which versions execute in runner processes; None executes all here.

    Returns:
        the exit status: 0 after an orderly stop, 1 if requests were given up.

    Raises:
        ValueError, OSError: the slab cannot be used.
    """
    metrics = open_worker_metrics(Path(start.slab), start.slot)
    gc.set_threshold(*_GC_THRESHOLDS)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)

    async def work() -> int:
        return await Worker(start, metrics, load, place).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return int(runner.run(work()) > 0)


def main() -> int:
    """Read the start document and serve; returns the exit status."""
    try:
        start = msgspec.convert(read_start_message(), WorkerStart)
    except (RoadworthyError, msgspec.ValidationError) as error:
        sys.stderr.write(f"worker: {error}\n")
        return EXIT_REFUSED
    begin_hosting()
    configure_logs(f"worker-{start.slot}", start.log_level, separate_log())
    try:
        folder = Path(start.folder)
        load = package_loader(folder, start.threads)
        place = placer(folder, start.confinement) if start.runners else None
        return serve(start, without_code(load) if start.confinement == REQUIRED else load, place)
    except (ValueError, OSError) as error:
        structlog.get_logger("worker").error("cannot-start", reason=str(error))
        return EXIT_REFUSED


if __name__ == "__main__":
    leave(main())
