"""The control plane's background threads: one looks at deployments and rollouts, one keeps the store within bounds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import structlog

from roadworthy.control.context import ControlContext
from roadworthy.control.controllers import rollout_controller
from roadworthy.control.controllers.quarantine import retreat
from roadworthy.control.resources import feedback, idempotency
from roadworthy.control.resources.telemetry import trim_records
from roadworthy.foundation.errors import RoadworthyError
from roadworthy.monitoring import gateways
from roadworthy.rollout import endpoints, rollouts

_TICK_S = 1.0
_TRIM_EVERY = 60
_log = structlog.get_logger()


class Controllers:
    """Looks at all projects in one thread: every second, and whenever `context.wake` rings. Housekeeping has another thread, so
    that no slow deletion of records delays a rollback. What fails is logged and tried again a second later."""

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._stop = threading.Event()
        self._rounds = 0
        self._threads = [threading.Thread(target=each, name=each.__name__, daemon=True) for each in (self._look, self._tidy)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop after the current look."""
        self._stop.set()
        self._context.wake.ring()
        for thread in self._threads:
            thread.join(timeout=5.0)

    def _look(self) -> None:
        wake = self._context.wake
        while not self._stop.is_set():
            calls = wake.wait(_TICK_S)
            for context in tuple(self._context.projects.values()):
                _attempt(partial(look, context))
            wake.looked(calls)
        wake.end()

    def _tidy(self) -> None:
        while not self._stop.wait(_TICK_S):
            self._rounds += 1
            trims = self._rounds % _TRIM_EVERY == 0
            _attempt(self._context.database.lead.renew)
            _attempt(self._context.find_projects)
            for context in tuple(self._context.projects.values()):
                _attempt(partial(_tidy_project, context, trims=trims))


def _attempt(act: Callable[[], object]) -> None:
    try:
        act()
    except RoadworthyError as error:
        _log.warning("controller-tick-failed", code=error.code, message=error.message)
    except Exception:  # noqa: BLE001  (the loop must outlive any failure of one look; the log has it)
        _log.exception("controller-tick-failed")


def _tidy_project(context: ControlContext, *, trims: bool) -> None:
    """Keep the keys of requests that are being carried out, notice what other control planes wrote, and delete what exceeds the
    bounds."""
    idempotency.renew(context)
    context.publisher.catch_up()
    context.stream.look()
    if trims and context.database.lead.held:
        trim_records(context)
        feedback.trim(context)


def look(context: ControlContext) -> None:
    """Look once at every endpoint, rollout and deployment."""
    with context.lock:
        with context.database.begin() as connection:
            known = endpoints.list_all(connection)
            found = gateways.list_live(connection, context.clock.now_us()) if known else []
            running = {each.endpoint: each for each in rollouts.list_open(connection) if each.running}
            moved = [retreat(context, connection, each, found, running.get(each.name)) for each in known]
        if running:
            moved.append(rollout_controller.drive(context))
        if any(moved):
            context.publisher.refresh()
    context.stream.catch_up()
