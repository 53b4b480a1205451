"""Runs what a worker runs, on one event loop in one thread of the application's process, for all its embedded endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec
import structlog
import uvloop

from roadworthy.agent.runners.keeper import Runners, RunnerSettings
from roadworthy.agent.runners.quarantine import Limit, Quarantine
from roadworthy.agent.runners.watch import Growth
from roadworthy.client.connection import error_from
from roadworthy.codecs.predict_json import JsonProbe
from roadworthy.contract.local import read_part
from roadworthy.contract.snapshot import EndpointEntry, Snapshot
from roadworthy.contract.telemetry import FAILED, VersionState, WorkerReport
from roadworthy.embedded.edge import EmbeddedEdge, OpenCall, endpoint_closed
from roadworthy.embedded.membership import NO_AGENT, Membership
from roadworthy.embedded.runners import OwnChildren
from roadworthy.embedded.scratch import Scratch
from roadworthy.embedded.sources import Offer, Source, drop_links, hold, stable_alone
from roadworthy.foundation.confine.plan import REQUIRED, Bounds
from roadworthy.foundation.errors import InvalidRequest, PackageError, RoadworthyError
from roadworthy.foundation.files import private_folder
from roadworthy.foundation.ids import PredictionIds
from roadworthy.foundation.slab import create_slab
from roadworthy.gateway.http.routes import Routing
from roadworthy.gateway.http.scheduler import StepScheduler
from roadworthy.gateway.readers.pool import Readers
from roadworthy.runtime.layers.rules import Rules
from roadworthy.runtime.loading import package_loader, without_code
from roadworthy.runtime.manager import Isolation, Manager, Version
from roadworthy.runtime.placement import placer
from roadworthy.runtime.record import Recorder
from roadworthy.serving.admission import Admission, Keys
from roadworthy.serving.endpoint import Endpoint
from roadworthy.serving.health.golden_probe import GoldenProbes
from roadworthy.serving.health.pressure import Limits, Pressure, measure
from roadworthy.serving.health.readiness import ProcessHealth, Readiness
from roadworthy.serving.metrics import open_worker_metrics
from roadworthy.serving.pipeline import Identified, Instruments
from roadworthy.serving.reload import Identity, ServingState
from roadworthy.settings import Settings

_LOOK_S = 1.0
_NO_LIMITS = Limits(1.0, 1.0, 0)
T = TypeVar("T")
log = logging.getLogger("roadworthy.embedded")


class Mounted(Protocol):
    """Routes of one mount."""

    def serve(self, keys: Keys, served: Mapping[str, Endpoint], waiting: Mapping[str, Admission]) -> None:
        """See `Edge` in `serving/reload.py`."""
        ...

    def keep_alive(self, now: float) -> None:
        """Send a comment to each stream that was silent for long. `now`: monotonic clock, seconds."""
        ...


@dataclass(slots=True)
class _Opened:
    """An endpoint that is being opened, or is open.

    Attributes:
        alone: its rollout's canary cannot be loaded here, and must not keep it from being opened.
    """

    source: Source
    offer: Offer
    bound: Future[None]
    calls: set[OpenCall]
    alone: bool = False

    @property
    def entry(self) -> EndpointEntry:
        """The endpoint as it should be served now. Once it is open, what cannot be loaded leaves it as it is."""
        return stable_alone(self.offer.entry) if self.alone and not self.bound.done() else self.offer.entry


class Core:
    """The core of this process. All methods but `start` and `stop` belong to its event loop; use `call` from other threads.

    Attributes:
        pid: the process that started it; in a fork it is dead.
        edges: the endpoints in service, by name. Reading it is safe from any thread.
        loop: its event loop.
    """

    def __init__(self, settings: Settings) -> None:
        self.pid = os.getpid()
        self.edges: dict[str, EmbeddedEdge] = {}
        self._ids, self._ids_lock = PredictionIds(), threading.Lock()
        self.loop: asyncio.AbstractEventLoop
        self._settings = settings
        self._opened: dict[str, _Opened] = {}
        self._mounts: list[Mounted] = []
        self._failures: dict[str, BaseException] = {}
        self._kept_out: dict[str, dict[str, str]] = {}
        self._joining: asyncio.Task[None] | None = None
        self._revision = 0
        self._changes = False
        self._scratch = Scratch()
        self.folder = private_folder(self._scratch.path / "gateway")
        self.slab = self.folder / "run" / "slab"
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, name="roadworthy", daemon=True)

    # From any thread.

    def start(self) -> None:
        """Start the thread; return when it serves."""
        _log_to_logging()
        self._thread.start()
        self._started.result()

    def call(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Run a function on the core's loop."""
        result: Future[T] = Future()

        def run() -> None:
            try:
                result.set_result(function(*arguments))
            except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
                result.set_exception(error)

        self.loop.call_soon_threadsafe(run)
        return result

    def next_id(self) -> str:
        """A prediction's id."""
        with self._ids_lock:
            return self._ids.next()

    def stop(self) -> None:
        """End the thread, the runners and the folder."""
        with contextlib.suppress(RuntimeError):  # its loop has ended already
            self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def forget(self) -> None:
        """Release in a fork what it inherited."""
        self._children.forget()
        self._membership.forget()

    # The endpoints.

    def open(self, name: str, source: Source) -> Future[None]:
        """Serve an endpoint; the future has the error of a package that cannot be loaded."""
        source.again()
        source.follow(self._membership.snapshot if self._joins(source) else None)
        offer = source.read()
        if offer is None:
            raise AssertionError("a source gives its endpoint when asked again")
        bound: Future[None] = Future()
        self._opened[name] = _Opened(source, offer, bound, set())
        try:
            if self._joins(source):
                self._join()
            if not self._joins(source) or self._membership.tried:
                self._offer()  # else as soon as it is known whether there is an agent
        except BaseException:
            del self._opened[name]
            raise
        return bound

    async def close(self, name: str, grace_s: float) -> None:
        """Stop serving an endpoint, after its calls in progress or `grace_s`."""
        opened = self._opened.get(name)
        if opened is None:
            return
        edge = self.edges.get(name)
        until = self.loop.time() + (0.0 if edge is not None and edge.in_parts else grace_s)
        while opened.calls and self.loop.time() < until:  # noqa: ASYNC110 - calls must not pay for an event
            await asyncio.sleep(0.005)
        for call in list(opened.calls):
            call.give_up(endpoint_closed(name))
        del self._opened[name]
        self._offer()
        if self._joining is not None and not any(self._joins(each.source) for each in self._opened.values()):
            await self._leave()

    def calls(self, name: str) -> set[OpenCall]:
        """The calls of an endpoint in progress."""
        opened = self._opened.get(name)
        return set() if opened is None else opened.calls

    def versions(self, name: str) -> list[VersionState]:
        """The states of the versions of an endpoint."""
        opened = self._opened.get(name)
        wanted = () if opened is None else opened.offer.packages
        return [state for state in self._manager.states() if state.digest in wanted]

    def apart(self, name: str) -> str | None:
        """Why an endpoint takes no part in a gateway; None while it does."""
        opened = self._opened.get(name)
        if opened is None or opened.source.gateway is None:
            return "it was opened from a package; an endpoint of the home folder takes part in its gateway"
        if not self._joins(opened.source):
            return f"this process belongs to the gateway in {self._membership.folder}"
        return self._membership.reason if self._membership.tried else NO_AGENT

    def mount(self, mounted: Mounted) -> None:
        """Keep the routes of a mount up to date, for as long as the core lives."""
        self._mounts.append(mounted)
        self._serving.refresh()

    @property
    def ending(self) -> bool:
        """Whether no further request is taken."""
        return self._stop.is_set()

    def readiness(self) -> Readiness:
        """See `ServingState`."""
        return self._serving.readiness()

    # As the edge of `ServingState`.

    def serve(self, keys: Keys, served: Mapping[str, Endpoint], waiting: Mapping[str, Admission]) -> None:
        """See `Edge`."""
        self.edges = {
            name: before
            if (before := self.edges.get(name)) is not None and before.endpoint is endpoint
            else EmbeddedEdge(endpoint, self.instruments, self.calls(name), self.next_id)
            for name, endpoint in served.items()
        }
        for mounted in self._mounts:
            mounted.serve(keys, served, waiting)

    def head(self, label: str, version: Version) -> bytes:
        """See `Edge`."""
        return Routing.head(label, version)

    def _offer(self) -> None:
        """Offer a snapshot of all open endpoints. What fails is tried again at the next look."""
        self._changes = True
        self._revision += 1
        packages = {digest: held for opened in self._opened.values() for digest, held in opened.offer.packages.items()}
        for digest, (_, unpacked) in packages.items():
            hold(self.folder, digest, unpacked)
        snapshot = Snapshot(
            epoch="embedded",
            revision=self._revision,
            packages=tuple(entry for entry, _ in packages.values()),
            endpoints=tuple(opened.entry for opened in self._opened.values()),
            keys=None,
        )
        for digest in [digest for digest in self._failures if digest not in packages]:
            del self._failures[digest]
        metrics = self._membership.metrics
        joined = [name for name, opened in self._opened.items() if metrics is not None and self._joins(opened.source)]
        self._serving.count_in({} if metrics is None else dict.fromkeys(joined, metrics))
        self._runners.take_snapshot(snapshot)
        self._serving.offer(snapshot)
        self._changes = False

    # The gateway of the home folder.

    def _joins(self, source: Source) -> bool:
        return source.gateway == self._membership.folder

    def _join(self) -> None:
        if self._joining is None:
            self._joining = self.loop.create_task(self._membership.run())

    async def _leave(self) -> None:
        if self._joining is not None:
            self._joining.cancel()
            await asyncio.wait([self._joining])
            self._joining = None
        self.instruments.recorder.flush()
        self._membership.lost_records(self.instruments.recorder.clear())
        await self._membership.close()
        self._keep_out("gateway", {})

    def _membership_changed(self) -> None:
        """Serve the endpoints of the home folder as its gateway does, or as without an agent."""
        for opened in self._opened.values():
            if self._joins(opened.source):
                opened.source.follow(self._membership.snapshot)
                self._take_change(opened)
        try:
            if self._changes or any(not opened.bound.done() for opened in self._opened.values()):
                self._offer()
        except Exception as error:  # what is open is served as before, and this is tried again at the next look
            log.exception("cannot serve the embedded endpoints as their gateway does")
            for name in [name for name, opened in self._opened.items() if not opened.bound.done()]:
                self._opened.pop(name).bound.set_exception(error)

    def _report(self, slot: int, boot: str) -> WorkerReport:
        """The state of this process, for the agent."""
        snapshot = self._membership.snapshot
        return msgspec.structs.replace(
            self._serving.report(),
            slot=slot,
            boot=boot,
            epoch=None if snapshot is None else snapshot.epoch,
            revision=0 if snapshot is None else snapshot.revision,
            offered=0 if snapshot is None else snapshot.revision,
        )

    def _count_refused(self, endpoint: str, code: str) -> None:
        opened, metrics = self._opened.get(endpoint), self._membership.metrics
        if metrics is None or opened is None or not self._joins(opened.source):
            metrics = self._metrics
        metrics.refused(endpoint, code)

    def _count_crash(self, rollout: str) -> None:
        if self._membership.metrics is not None:
            self._membership.metrics.evidence.crash(rollout)

    def _changed(self) -> None:
        """Tell those who open endpoints what became of them, and the agent."""
        self._membership.report()
        for name, opened in list(self._opened.items()):
            if opened.bound.done():
                continue
            if name in self.edges:
                opened.bound.set_result(None)
                if opened.alone:
                    log.warning("the canary of %s cannot be loaded here; the stable version answers alone", name)
                    self.loop.call_soon(self._offer)
            elif not opened.alone and self._canary_failed(opened.offer.entry):
                opened.alone = True
                self.loop.call_soon(self._offer)
            elif (error := self._failure(name, opened)) is not None:
                del self._opened[name]
                self.loop.call_soon(self._offer)
                opened.bound.set_exception(error)

    def _canary_failed(self, entry: EndpointEntry) -> bool:
        failed = {state.digest for state in self._manager.states() if state.state == FAILED}
        return entry.rollout is not None and entry.rollout.canary in failed and entry.rollout.stable not in failed

    def _failure(self, name: str, opened: _Opened) -> RoadworthyError | None:
        """Why an endpoint will not be served; None while it may still be."""
        digests = [variant.digest for variant in opened.entry.split]
        failed = {state.digest: state for state in self._manager.states() if state.state == FAILED}
        for digest in digests:
            if digest in failed:
                return _as_public(self._failures.get(digest), failed[digest])
        reason = self._serving.refused().get(name)
        if reason is None and all(self._manager.version(digest) is not None for digest in digests):
            reason = self._serving.reasons().get(name)
        if reason is None:
            return None
        return InvalidRequest(
            f"the endpoint {name} cannot be served here: {reason}", code="invalid-policy", hint="change the policy that it names"
        )

    # The thread.

    def _main(self) -> None:
        loop = uvloop.new_event_loop()
        try:
            loop.run_until_complete(self._run())
            loop.run_until_complete(loop.shutdown_asyncgens())
        except BaseException as error:  # raised by `start`, or logged
            if self._started.done():
                log.exception("the core of the embedded endpoints has ended")
            else:
                self._started.set_exception(error)
        finally:
            loop.close()  # does not wait for its executor: an interpreter that exits starts no thread that could (Python 3.12)
            self._scratch.delete()

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._wire()
        tasks = [
            self.loop.create_task(work) for work in (self._children.run(), self._runners.run(), self._look(), self._probes.run())
        ]
        self._started.set_result(None)
        await self._stop.wait()
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("a task of the embedded endpoints has failed", exc_info=result)
        for opened in self._opened.values():
            for call in list(opened.calls):
                call.give_up(endpoint_closed(opened.offer.entry.name))
        self._opened.clear()
        self._offer()
        await self._leave()
        await self._manager.close()
        await self._children.stop()
        self.readers.close()
        self._metrics.close()

    def _wire(self) -> None:
        gateway, general = self._settings.gateway, self._settings.general
        private_folder(self.folder / "packages")
        create_slab(self.slab, slots=2, names=1_024, cells=8_192)
        self._metrics = metrics = open_worker_metrics(self.slab, 0)
        self._serving = ServingState(Identity(0, os.getpid(), metrics.boot), metrics, self._changed)
        self._membership = Membership(
            general.home / "gateway",
            self._report,
            self._membership_changed,
            partial(self._keep_out, "gateway"),
            lambda: self.instruments.recorder.flush(),  # noqa: PLW0108 - made below
        )
        self._children = OwnChildren(lambda message: self._runners.handle(message))  # noqa: PLW0108 - made below
        place = placer(self.folder, general.confinement)
        self._rules = Rules(self.folder)
        home = (general.home,) if general.home.is_absolute() else ()
        self._runners = Runners(
            RunnerSettings(
                self.folder,
                Growth(gateway.growth_mb << 20 or None),
                bounds=Bounds(general.confinement, general.grants, home),
                log_level="warning",
            ),
            place,
            Quarantine(Limit(gateway.crashes_to_quarantine)),
            self._children,
            held=lambda part: any(state.digest == read_part(part)[0] for state in self._manager.states()),
            keep_out=partial(self._keep_out, "here"),
            count_crash=self._count_crash,
        )
        load = package_loader(self.folder, gateway.threads)
        load = without_code(load) if general.confinement == REQUIRED else load
        self._manager = Manager(load, self._serving.refresh, self._load_failed, Isolation(self.folder, place))
        self.readers, self.scheduler = Readers(self.loop), StepScheduler(self.loop)
        recorder = Recorder(self.loop, self._membership, self._membership.lost_records)
        self.instruments = Instruments(self._count_refused, recorder, self._log_fault)
        self._serving.attach(self._manager, self, self._rules)
        pressure = Pressure(_NO_LIMITS, partial(measure, self.folder))  # the memory is the application's matter
        every_s = gateway.golden_probe_s or None
        self._probes = GoldenProbes(
            self.folder, lambda: self._serving.endpoints, every_s, metrics.probed, self._serving.refresh, JsonProbe
        )
        self.health = self._serving.health = ProcessHealth(self._probes, pressure)

    async def _look(self) -> None:
        """Take changes of endpoints from their sources, and keep the streams of mounts alive."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self._membership.beat()
            self._serving.gauge_queues()
            for opened in self._opened.values():
                if opened.bound.done():
                    self._take_change(opened)
            try:
                for mounted in self._mounts:
                    mounted.keep_alive(time.monotonic())
                if self._changes:
                    self._offer()
                known = {state.digest for state in self._manager.states()}
                drop_links(self.folder, known.union(*(opened.offer.packages for opened in self._opened.values())))
            except Exception:  # the endpoints are served as before
                log.exception("cannot take a change of an embedded endpoint")

    def _take_change(self, opened: _Opened) -> None:
        """Note a change of an endpoint. One that is gone from its source, or cannot be read, is served as before."""
        try:
            offer = opened.source.read()
        except RoadworthyError:
            return
        except Exception:  # the other endpoints have theirs
            log.exception("cannot read a change of the embedded endpoint %s", opened.offer.entry.name)
            return
        if offer is not None:
            opened.offer = offer
            self._changes = True

    def _keep_out(self, said_by: str, said: dict[str, str]) -> None:
        self._kept_out[said_by] = said
        reasons = {part: reason for each in self._kept_out.values() for part, reason in each.items()}
        self._rules.keep_out(reasons)
        self._manager.keep_out({part: reason for part, reason in reasons.items() if not read_part(part)[1]})

    def _load_failed(self, digest: str, error: BaseException) -> None:
        self._failures[digest] = error

    def _log_fault(self, endpoint: str, request: Identified, error: Exception) -> None:
        code = getattr(error, "code", "internal")
        log.error("a prediction of %s failed: %s (%s)", endpoint, code, request.prediction_id, exc_info=error)


def _as_public(error: BaseException | None, state: VersionState) -> RoadworthyError:
    """The error of a failed load, of the class that its code has."""
    if isinstance(error, RoadworthyError) and type(error) is not RoadworthyError:
        return error
    reason, code = state.reason or "the package could not be loaded", state.code or "load-failed"
    public: RoadworthyError = error_from({"error": reason, "code": code}, 500)
    if not isinstance(public, PackageError):
        public = PackageError(reason, code=code, hint="the log has the details")
    public.__cause__ = error
    return public


def _log_to_logging() -> None:
    """Send our log lines to the standard library's loggers below "roadworthy", unless the application has set up structlog."""
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[_as_text],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=_logger,
    )


def _logger(*names: str) -> logging.Logger:
    return logging.getLogger("roadworthy." + ".".join(names).removeprefix("roadworthy."))


def _as_text(_logger: object, _method: str, event: structlog.typing.EventDict) -> tuple[tuple[str], dict[str, Any]]:
    """An event as the arguments of a standard logger: its name and its values in the text."""
    raised, text = event.pop("exc_info", None), str(event.pop("event"))
    return (" ".join((text, *(f"{name}={value!r}" for name, value in event.items()))),), {"exc_info": raised}
