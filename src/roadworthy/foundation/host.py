"""Sets up a process that executes a package's code: worker, runner, and the process that proves a package at pack and push.

Models start processes. What they fork must not hear the signals of this process, hold its connections or go on in its place, and
all that they start ends with it. Runner and proof are set up alike, so that what was proved is what serves.

    begin_hosting()  # before anything that registers exit handlers
    hear_stop(stop)
    leave(status)  # last thing
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

from roadworthy.foundation.kin import Kin, take_mark

_STOPS: dict[signal.Signals, Any] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
"""The signals that tell this process to stop, and what a fresh process does with them."""
_PATIENCE_S = 1.5
"""How long a model's own exit handlers may take; then what they wait for is ended, and after the same time this process."""


class _Host:
    """What is known of this process.

    Attributes:
        pid: of the process that began to host; a fork has another one.
        status: its exit status, once it leaves.
        ending: nobody is forked any more.
        forget: all are called in each fork.
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
    """Have descendants carry the mark of this process, and forks begin as fresh processes do. Call in the main thread."""
    take_mark()
    _host.pid = os.getpid()
    os.register_at_fork(before=_hold_signals, after_in_parent=_release_signals, after_in_child=_begin_fork)
    atexit.register(_end)


def hear_stop(stop: Callable[[], None]) -> None:
    """Call `stop` at SIGTERM and pass over SIGINT, whatever handlers a model has put in place. In the main thread."""
    _host.stop = stop
    for number, handler in ((signal.SIGTERM, _told_to_stop), (signal.SIGINT, _pass_over)):
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)
    keep_handlers()


def forget_in_forks(forget: Callable[[], object]) -> None:
    """Call `forget` in each child that this process forks: it lets go of what only this process may use."""
    _host.forget.append(forget)


def keep_handlers() -> None:
    """Forks do not hear what the present handlers of SIGTERM and SIGINT hear."""
    _host.handlers = {number: signal.getsignal(number) for number in _STOPS}


def end_fork(pid: int) -> None:
    """End this process if it is not the one of that id but a fork of it. Called where a model's code comes back."""
    if os.getpid() == pid:
        return
    error = sys.exc_info()[1]
    code = getattr(error, "code", None) if isinstance(error, SystemExit) else int(error is not None)
    _flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def end_descendants() -> None:
    """End all that this process has started, and what that has started; and fork no more."""
    _host.ending = True
    Kin.of(os.getpid()).end()


def end_at_once(status: int) -> NoReturn:
    """End this process with all that it has started, without exit handlers. From any thread."""
    end_descendants()
    _flush()
    os._exit(status)


def leave(status: int) -> NoReturn:
    """End this process in order: exit handlers of models run, but not for long. Call in the main thread."""
    _host.status = status
    threading.Thread(target=_hurry, args=(status,), name="leave", daemon=True).start()
    sys.exit(status)


def _hurry(status: int) -> None:
    threading.Event().wait(_PATIENCE_S)
    end_descendants()
    threading.Event().wait(_PATIENCE_S)
    end_at_once(status)


def _end() -> None:
    """The last exit handler: it was registered first."""
    if _host.status is not None and os.getpid() == _host.pid:
        end_at_once(_host.status)


def _told_to_stop(_number: int, _frame: FrameType | None) -> None:
    if _host.stop is not None:
        _host.stop()


def _pass_over(_number: int, _frame: FrameType | None) -> None:
    """A handler, unlike SIG_IGN, is not inherited by what is executed."""


def _hold_signals() -> None:
    _blocked.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)


def _release_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _blocked.mask)


def _begin_fork() -> None:
    """In a forked child, before a signal can reach it: a pool ends its processes by SIGTERM, sometimes at once."""
    if _host.ending:
        os._exit(1)
    signal.set_wakeup_fd(-1)
    for number, handler in _host.handlers.items():
        if signal.getsignal(number) == handler:
            signal.signal(number, _STOPS[number])
    # What it forks in turn has nothing left to forget: a descriptor of that number would be another one, its own.
    for forget in _host.forget:
        forget()
    _host.forget.clear()
    _release_signals()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
