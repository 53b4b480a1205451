"""Runs process plans until a stop signal and announces when they are ready, for `up`, `serve`, `gateway` and `control`.

The main thread runs the supervisor. A second thread calls the probes until all succeed, then announces once.
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
"""Start of the line that names what is not ready at the announcement."""
_PROBE_S = 0.02
_SLOW_S = 15.0
_FAILED_S = 3.0
"""A failed version is loaded again when the agent is there."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Processes to run, and how to tell that they are ready.

    Attributes:
        plans: the child processes.
        slab: the workers' slab, or None.
        probes: addresses; the launch is ready when all answer 200.
        announce: called once, when the launch is ready.
        limits: limits of the workers.
        failed: maps a probe's answer to an error when the launch can never become ready.
        ready_timeout_s: longest wait for the probes, in seconds; a probe that reports a failed version shortens it. None waits
            without limit.
        doors: the listening sockets, each with its delay before it closes.
        optional: by probe, the name of the child process that may refuse to start.
    """

    plans: Sequence[ChildPlan]
    slab: Path | None
    probes: Sequence[str]
    announce: Callable[[], None]
    limits: WorkerLimits | None = None
    failed: Callable[[Mapping[str, Any]], RoadworthyError | None] = lambda _answer: None
    ready_timeout_s: float | None = None
    doors: Sequence[SharedListener] = ()
    optional: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Watch:
    over: threading.Event = field(default_factory=threading.Event)
    error: RoadworthyError | None = None


def run(launch: Launch) -> None:
    """Run the processes until they have stopped in order.

    Raises:
        RoadworthyError: "start-refused" when a process could not start, "stopped-by-force" when one had to be killed, or the
            error of `failed`.
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
            hint="the lines above name the process and the reason",
        )
    if status != 0:
        raise RoadworthyError(
            "stopped, but one process did not end in time and was killed",
            code="stopped-by-force",
            hint="a request or a model was still running when the time limit passed",
        )


def _watch(launch: Launch, watch: _Watch, supervisor: Supervisor) -> None:
    begun = time.monotonic()
    warned = False
    while not watch.over.wait(_PROBE_S):
        refused = supervisor.refused()
        url, status, answer = _first_not_ready(launch, refused)
        if url is None:
            for name in sorted(refused & set(launch.optional.values())):
                say(f"{GOING_ON} although {name} refused to start; it is started again until it succeeds")
            launch.announce()
            return
        watch.error = launch.failed(answer)
        if watch.error is not None:
            supervisor.stop()
            return
        waited = time.monotonic() - begun
        bearable = status != 0 or url in launch.optional
        if bearable and launch.ready_timeout_s is not None and waited > _timeout(launch.ready_timeout_s, answer):
            say(f"{GOING_ON} although {url} is not ready ({_reason(answer)})")
            launch.announce()
            return
        if not warned and waited > _SLOW_S:
            warned = True
            say(f"still waiting for {url} ({_reason(answer)})")


def _timeout(longest_s: float, answer: Mapping[str, Any]) -> float:
    return min(longest_s, _FAILED_S) if answer.get("reason") == "failed" else longest_s


def _first_not_ready(launch: Launch, refused: Collection[str]) -> tuple[str | None, int, Mapping[str, Any]]:
    """The first address that is not ready, with status and answer. A worker answers for itself only, so the slab is read too."""
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
    """A probe's status and JSON answer; status 0 without an answer. `key`: an API key to send."""
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
    """The bound sockets for predictions and for metrics. A port in use is an error before any process starts."""
    gateway = settings.gateway
    with (
        contextlib.closing(listen(gateway.host, gateway.port, setting="--port")) as listener,
        contextlib.closing(listen(gateway.metrics_host, gateway.metrics_port, setting="--metrics-port")) as metrics,
    ):
        _tell_hosts(hosts_note("gateway", gateway.host, gateway.allowed_hosts))
        yield listener, metrics


def gateway_listeners(sockets: Sequence[socket.socket], settings: Settings) -> list[SharedListener]:
    """After a stop signal, predictions are accepted until load balancers have noticed it, metrics until the end."""
    return [SharedListener(sockets[0], settings.gateway.drain_delay_s), SharedListener(sockets[1], None)]


@contextlib.contextmanager
def control_socket(settings: Settings, setting: str) -> Iterator[socket.socket]:
    """The bound socket of the control plane. `setting` is the flag that chooses another port."""
    with contextlib.closing(listen(settings.control.host, settings.control.port, setting=setting)) as listener:
        _tell_hosts(hosts_note("control", settings.control.host, settings.control.allowed_hosts))
        yield listener


def _tell_hosts(note: str | None) -> None:
    if note is not None:
        say(note)


def tell(descriptor: int | None, message: Mapping[str, object]) -> None:
    """Write one line of JSON to the waiting parent process (`detach.py`), if there is one."""
    if descriptor is not None:
        with contextlib.suppress(OSError):
            os.write(descriptor, json.dumps(message).encode("utf-8") + b"\n")
            os.close(descriptor)
