"""Sets up a process that executes a package's code: worker, runner, and the process that proves a package at pack and push.

Models start processes. A fork must not react to the signals of this process, hold its connections or continue its work, and all
processes that a model starts must end with this one. Runner and proof share this setup, so that the proof holds for serving.

    begin_hosting()  # before anything registers exit handlers
    hear_stop(stop)
    leave(status)  # last
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from roadworthy.foundation.descendants import Descendants, take_mark

_STOPS: dict[signal.Signals, Any] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
"""The signals that stop this process, and their handlers in a fresh process."""
_EXIT_HANDLERS_S = 1.5
"""How long a model's own exit handlers may take; then all descendants are killed, and after the same time again this process."""


class _Host:
    """The state of hosting in this process.

    Attributes:
        pid: of the process that began to host; a fork has another id.
        status: its exit status, once it leaves.
        ending: whether forks are refused because the process ends.
        forget: functions to call in each fork.
    """

    pid = 0
    status: int | None = None
    ending = False
    forget: list[Callable[[], object]]
    handlers: dict[signal.Signals, Any]
    stop: Callable[[], None] | None = None


_host = _Host()
_host.handlers, _host.forget = {}, []
_blocked = threading.local()


def begin_hosting() -> None:
    """Mark this process and its descendants, and make forks start like fresh processes. Call in the main thread."""
    take_mark()
    _host.pid = os.getpid()
    os.register_at_fork(before=_hold_signals, after_in_parent=_release_signals, after_in_child=_begin_fork)
    atexit.register(_end)


def hear_stop(stop: Callable[[], None]) -> None:
    """Call `stop` on SIGTERM and ignore SIGINT, whatever handlers a model has installed. Call in the main thread."""
    _host.stop = stop
    handlers = {signal.SIGTERM: _on_stop_signal, signal.SIGINT: _ignore}
    for number, handler in handlers.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)
    _host.handlers = handlers


def forget_in_forks(forget: Callable[[], object]) -> None:
    """Call `forget` in each fork of this process, to release what only this process may use."""
    _host.forget.append(forget)


def keep_handlers() -> None:
    """Remember the current handlers of SIGTERM and SIGINT; forks do not inherit them."""
    _host.handlers = {number: signal.getsignal(number) for number in _STOPS}


def end_fork(pid: int) -> None:
    """Exit if this process is a fork of process `pid`. Call it where a model's code returns."""
    if os.getpid() == pid:
        return
    error = sys.exc_info()[1]
    code = getattr(error, "code", None) if isinstance(error, SystemExit) else int(error is not None)
    _flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def end_descendants() -> None:
    """Kill all descendants of this process, and refuse further forks."""
    _host.ending = True
    Descendants.of(os.getpid()).end()


def end_at_once(status: int) -> NoReturn:
    """Exit at once, without exit handlers, and kill all descendants. From any thread."""
    end_descendants()
    _flush()
    os._exit(status)


def leave(status: int) -> NoReturn:
    """Exit in order: exit handlers of models run, but within a time limit. Call in the main thread."""
    _host.status = status
    threading.Thread(target=_hurry, args=(status,), name="leave", daemon=True).start()
    sys.exit(status)


def _hurry(status: int) -> None:
    threading.Event().wait(_EXIT_HANDLERS_S)
    end_descendants()
    threading.Event().wait(_EXIT_HANDLERS_S)
    end_at_once(status)


def _end() -> None:
    """The last exit handler to run, because it was registered first."""
    if _host.status is not None and os.getpid() == _host.pid:
        end_at_once(_host.status)


def _on_stop_signal(_number: int, _frame: FrameType | None) -> None:
    if _host.stop is not None:
        _host.stop()


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing. Unlike SIG_IGN, a handler is not inherited through exec."""


def _hold_signals() -> None:
    _blocked.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)


def _release_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _blocked.mask)


def _begin_fork() -> None:
    """Set up a fork before a signal can reach it: a pool stops its processes by SIGTERM, sometimes at once."""
    if _host.ending:
        os._exit(1)
    signal.set_wakeup_fd(-1)
    for number, handler in _host.handlers.items():
        if signal.getsignal(number) == handler:
            signal.signal(number, _STOPS[number])
    # A fork of this fork has nothing left to release: a descriptor of the same number would be its own.
    for forget in _host.forget:
        forget()
    _host.forget.clear()
    _release_signals()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
