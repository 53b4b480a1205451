"""Runs plans until they are told to stop, and tells when they are ready: `up`, `serve`, `gateway` and `control` all end here.

The main thread is the supervisor's; a second one asks the probes until all say yes, and announces it once.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from roadworthy.cli.output import say
from roadworthy.cli.plans import hosts_note
from roadworthy.foundation.child import EXIT_REFUSED
from roadworthy.foundation.errors import RoadworthyError
from roadworthy.foundation.files import keep_private
from roadworthy.foundation.slab import READY, SlabReader
from roadworthy.foundation.sockets import listen
from roadworthy.settings import Settings
from roadworthy.supervisor.listener import SharedListener
from roadworthy.supervisor.plan import ChildPlan, WorkerLimits
from roadworthy.supervisor.supervise import Supervisor

GOING_ON = "going on"
"""How the line begins that tells what is missing although it is announced."""
_PROBE_S = 0.02
_SLOW_S = 15.0
_FAILED_S = 3.0
"""A failed version is tried once more when the agent is there."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What to run and what to say about it.

    Attributes:
        plans: the children.
        slab: of the workers, or None.
        probes: addresses that all must answer 200 before it is ready.
        announce: called once, then.
        limits: of workers.
        failed: looks at a probe's answer; the error when it will never be ready.
        optional: by probe, the child without which it goes on when that refuses to start.
        patience_s: announce after that long even when a probe still answers no, and soon when it says that it failed; None waits
            on.
        doors: the listening sockets.
    """

    plans: Sequence[ChildPlan]
    slab: Path | None
    probes: Sequence[str]
    announce: Callable[[], None]
    limits: WorkerLimits | None = None
    failed: Callable[[Mapping[str, Any]], RoadworthyError | None] = lambda _answer: None
    patience_s: float | None = None
    doors: Sequence[SharedListener] = ()
    optional: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Watch:
    over: threading.Event = field(default_factory=threading.Event)
    error: RoadworthyError | None = None


def run(launch: Launch) -> None:
    """Stay until the planes have stopped in order.

    Raises:
        RoadworthyError: "start-refused" when a process could not start, "stopped-by-force" when one had to be killed, or what
            `failed` told.
    """
    keep_private()
    watch = _Watch()
    supervisor = Supervisor(launch.plans, slab=launch.slab, limits=launch.limits, listeners=launch.doors)
    thread = threading.Thread(target=_watch, args=(launch, watch, supervisor), name="readiness", daemon=True)
    thread.start()
    try:
        status = supervisor.run()
    finally:
        watch.over.set()
        thread.join()
    if watch.error is not None:
        raise watch.error
    if status == EXIT_REFUSED:
        raise RoadworthyError(
            "a process refused to start, so nothing was started",
            code="start-refused",
            hint="the lines above say which one and why",
        )
    if status != 0:
        raise RoadworthyError(
            "stopped, but a process had to be killed",
            code="stopped-by-force",
            hint="a request or a model was still busy when its time was up",
        )


def _watch(launch: Launch, watch: _Watch, supervisor: Supervisor) -> None:
    begun = time.monotonic()
    warned = False
    while not watch.over.wait(_PROBE_S):
        refused = supervisor.refused()
        url, status, answer = _first_not_ready(launch, refused)
        if url is None:
            for name in sorted(refused & set(launch.optional.values())):
                say(f"{GOING_ON} although {name} refused to start; it is tried again until it does")
            launch.announce()
            return
        watch.error = launch.failed(answer)
        if watch.error is not None:
            supervisor.stop()
            return
        waited = time.monotonic() - begun
        bearable = status != 0 or url in launch.optional
        if bearable and launch.patience_s is not None and waited > _patience(launch.patience_s, answer):
            say(f"{GOING_ON} although {url} is not ready ({_reason(answer)})")
            launch.announce()
            return
        if not warned and waited > _SLOW_S:
            warned = True
            say(f"still waiting for {url} ({_reason(answer)})")


def _patience(longest_s: float, answer: Mapping[str, Any]) -> float:
    return min(longest_s, _FAILED_S) if answer.get("reason") == "failed" else longest_s


def _first_not_ready(launch: Launch, refused: Collection[str]) -> tuple[str | None, int, Mapping[str, Any]]:
    """The first address that does not say yes, with its answer. A worker answers for itself only, so the slab is asked too."""
    for url in (url for url in launch.probes if launch.optional.get(url) not in refused):
        status, answer = probe(url)
        if status != 200:
            return url, status, answer
    slots = [plan.slot for plan in launch.plans if plan.slot is not None]
    if launch.slab is not None and not all(SlabReader(launch.slab).status(slot).state == READY for slot in slots):
        return launch.probes[-1], 503, {"reason": "loading"}
    return None, 200, {}


def _reason(answer: Mapping[str, Any]) -> str:
    missing = ", ".join(map(str, answer.get("missing") or ()))
    return f"{answer.get('reason') or 'no answer yet'}{': ' if missing else ''}{missing}"


def probe(url: str, key: str | None = None) -> tuple[int, Mapping[str, Any]]:
    """A probe's status and its JSON answer; 0 when nobody answers. `key`: an API key to send along."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        connection.request("GET", parts.path, headers={} if key is None else {"Authorization": f"Bearer {key}"})
        reply = connection.getresponse()
        body = reply.read()
        with contextlib.suppress(ValueError):
            document = json.loads(body)
            return reply.status, document if isinstance(document, dict) else {}
        return reply.status, {}
    return 0, {}


@contextlib.contextmanager
def gateway_sockets(settings: Settings) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The bound sockets for predictions and for metrics; a taken port is told before anything is started."""
    gateway = settings.gateway
    with (
        contextlib.closing(listen(gateway.host, gateway.port, setting="--port")) as listener,
        contextlib.closing(listen(gateway.metrics_host, gateway.metrics_port, setting="--metrics-port")) as metrics,
    ):
        _tell_hosts(hosts_note("gateway", gateway.host, gateway.allowed_hosts))
        yield listener, metrics


def gateway_doors(sockets: Sequence[socket.socket], settings: Settings) -> list[SharedListener]:
    """Predictions are taken until load balancers have noticed the stop, metrics are told to the end."""
    return [SharedListener(sockets[0], settings.gateway.drain_delay_s), SharedListener(sockets[1], None)]


@contextlib.contextmanager
def control_socket(settings: Settings, setting: str) -> Iterator[socket.socket]:
    """The bound socket of the control plane. `setting` is the flag that takes another port."""
    with contextlib.closing(listen(settings.control.host, settings.control.port, setting=setting)) as listener:
        _tell_hosts(hosts_note("control", settings.control.host, settings.control.allowed_hosts))
        yield listener


def _tell_hosts(note: str | None) -> None:
    if note is not None:
        say(note)


def tell(descriptor: int | None, message: Mapping[str, object]) -> None:
    """Write one line of JSON to the process that waits for this one (`detach.py`), if there is one."""
    if descriptor is not None:
        with contextlib.suppress(OSError):
            os.write(descriptor, json.dumps(message).encode("utf-8") + b"\n")
            os.close(descriptor)
