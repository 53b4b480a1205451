"""The control plane's background threads: one looks at deployments and rollouts, one notices what other processes wrote, and one
keeps the store within bounds."""

from __future__ import annotations

import threading
import time

from roadworthy.control.context import ControlContext
from roadworthy.control.controllers import rollout_controller
from roadworthy.control.logs import failures_logged
from roadworthy.control.resources import feedback, idempotency
from roadworthy.control.resources.telemetry import trim_records

_TICK_S = 1.0
_TRIM_S = 60.0
_REST_S = 0.2
"""Longest pause after a look. Without it, looks that follow each other leave no transaction to frames and verbs."""
_FAILED = "controller-tick-failed"


class Controllers:
    """Looks at all projects in one thread: every second, and whenever `context.wake` rings. Deleting what exceeds the bounds has
    a thread of its own, so that a slow blob store delays nothing else. What fails is logged and tried again."""

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._stop = threading.Event()
        jobs = (self._look, self._follow, self._trim)
        self._threads = [threading.Thread(target=each, name=each.__name__, daemon=True) for each in jobs]

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
            began = time.monotonic()
            for context in self._context.readable():
                with failures_logged(_FAILED):
                    look(context)
            wake.looked(calls)
            wake.rest(min(time.monotonic() - began, _REST_S))
        wake.end()

    def _follow(self) -> None:
        while not self._stop.wait(_TICK_S):
            for act in (self._context.database.lead.renew, self._context.find_projects):
                with failures_logged(_FAILED):
                    act()
            for context in self._context.readable():
                with failures_logged(_FAILED):
                    _follow_others(context)

    def _trim(self) -> None:
        while not self._stop.wait(_TRIM_S):
            for context in self._context.readable():
                if context.database.lead.held:
                    for trim in (trim_records, feedback.trim):
                        with failures_logged(_FAILED):
                            trim(context)


def _follow_others(context: ControlContext) -> None:
    """Keep the keys of requests that are being carried out, and notice what other control planes wrote."""
    idempotency.renew(context)
    context.publisher.catch_up()
    context.stream.look()


def look(context: ControlContext) -> None:
    """Look once at every endpoint, rollout and deployment."""
    with context.lock:
        if rollout_controller.drive(context):
            context.publisher.refresh()
    context.stream.catch_up()
