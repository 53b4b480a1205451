"""The control plane's background loop: moves traffic to versions that became ready, and keeps stored records within bounds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import structlog

from roadworthy.control.context import ControlContext
from roadworthy.control.resources import feedback, idempotency
from roadworthy.control.resources.endpoints import step
from roadworthy.control.resources.telemetry import trim_records
from roadworthy.foundation.errors import RoadworthyError

_TICK_S = 1.0
_TRIM_EVERY = 60
_log = structlog.get_logger()


class Controllers:
    """Runs the loop of all projects in one thread. A tick that fails is logged, and the next tick tries again."""

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="controllers", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current tick."""
        self._stop.set()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        ticks = 0
        while not self._stop.wait(_TICK_S):
            ticks += 1
            _attempt(self._context.database.lead.renew)
            _attempt(self._context.find_projects)
            for context in tuple(self._context.projects.values()):
                _attempt(partial(_tick, context, trims=ticks % _TRIM_EVERY == 0))


def _attempt(act: Callable[[], object]) -> None:
    try:
        act()
    except RoadworthyError as error:
        _log.warning("controller-tick-failed", code=error.code, message=error.message)
    except Exception:  # noqa: BLE001  (the loop must outlive any failure of one tick; the log has it)
        _log.exception("controller-tick-failed")


def _tick(context: ControlContext, *, trims: bool) -> None:
    """One tick of one project."""
    idempotency.renew(context)
    context.publisher.catch_up()
    context.stream.look()
    step(context)
    if trims and context.database.lead.held:
        trim_records(context)
        feedback.trim(context)
