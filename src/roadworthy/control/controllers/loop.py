"""The control plane's background loop: looks at deployments and rollouts, and keeps stored records within bounds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from roadworthy.control.context import ControlContext
from roadworthy.control.controllers import rollout_controller
from roadworthy.control.controllers.quarantine import retreat
from roadworthy.control.resources import feedback
from roadworthy.control.resources.telemetry import trim_records
from roadworthy.foundation.errors import RoadworthyError
from roadworthy.monitoring import gateways
from roadworthy.rollout import endpoints, rollouts

_TICK_S = 1.0
_TRIM_EVERY = 60
_log = structlog.get_logger()


class Controllers:
    """Runs the loop in one thread: at every tick, and whenever `context.wake` rings. What fails is logged and tried again at the
    next tick."""

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._stop = threading.Event()
        self._ticks = 0
        self._thread = threading.Thread(target=self._run, name="controllers", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current look."""
        self._stop.set()
        self._context.wake.ring()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        wake, due = self._context.wake, time.monotonic() + _TICK_S
        while not self._stop.is_set():
            calls = wake.wait(max(0.0, due - time.monotonic()))
            if time.monotonic() >= due:
                due = time.monotonic() + _TICK_S
                self._attempt(self._tick)
            self._attempt(lambda: look(self._context))
            wake.looked(calls)
        wake.end()

    def _tick(self) -> None:
        self._ticks += 1
        self._context.database.lead.renew()
        self._context.publisher.catch_up()
        self._context.stream.look()
        if self._ticks % _TRIM_EVERY == 0 and self._context.database.lead.held:
            trim_records(self._context)
            feedback.trim(self._context)

    def _attempt(self, what: Callable[[], None]) -> None:
        try:
            what()
        except RoadworthyError as error:
            _log.warning("controller-tick-failed", code=error.code, message=error.message)
        except Exception:  # noqa: BLE001  (the loop must outlive any failure of one look; the log has it)
            _log.exception("controller-tick-failed")


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
