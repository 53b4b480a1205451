"""How a process that the supervisor starts gets its configuration, and how it learns that its parent is gone.

The parent writes ONE line of JSON to the child's standard input and keeps that end open for as long as it lives. End of file
means that the parent died, however it died: the kernel closes it even after `kill -9`. Nothing secret stands in a command line or
in the environment. The supervisor's children have a socket there, on which they also say that they get on.

    document = read_start_message()
    watch_parent(lambda: loop.call_soon_threadsafe(stop))
    show_life()  # every LIFE_S, from the loop that does the work
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from roadworthy.foundation.errors import SettingsError
from roadworthy.foundation.files import keep_private
from roadworthy.foundation.host import end_at_once, forget_in_forks

EXIT_REFUSED = 78
"""Exit status of a child that could not start and would not, however often it were tried: the supervisor then stops everything
instead of trying again. The child has written why to its standard error."""

LIFE_S = 1.0
"""How often a child shows life, in seconds."""
_MAX_LINE_BYTES = 1 << 20
_pipe: list[int] = []


def read_start_message() -> dict[str, Any]:
    """The start document. Call once, first thing: standard input reads as empty afterwards, for any code of a model that asks,
    and what the process writes is its own user's only.

    Raises:
        SettingsError: code "no-start-document": standard input has no line of JSON with an object; the process was started by
            hand.
    """
    keep_private()
    descriptor = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    _pipe.append(descriptor)
    forget_in_forks(partial(os.close, descriptor))
    line = bytearray()
    while not line.endswith(b"\n") and len(line) < _MAX_LINE_BYTES:
        block = os.read(descriptor, 65536)
        if not block:
            break
        line += block
    try:
        document = json.loads(bytes(line))
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise SettingsError(
            "this process is started by Roadworthy's supervisor, not by hand",
            code="no-start-document",
            hint="run `roadworthy up` or `roadworthy serve`",
        )
    return document


def show_life() -> None:
    """Tell the parent that this process gets on. Call it where the work is done: that a thread runs says little."""
    with contextlib.suppress(OSError):  # the parent is gone, or gave no socket, and so does not judge by it
        _line(_pipe[-1]).send(b".", socket.MSG_DONTWAIT)


@cache
def _line(descriptor: int) -> socket.socket:
    return socket.fromfd(descriptor, socket.AF_UNIX, socket.SOCK_STREAM)


def keep_log_apart() -> int:
    """The descriptor for this process's own log, which goes where standard error went. Whatever else is printed, by a model, a
    native library or a process that one of them starts, goes to standard output, from where the parent brings it into the log.
    Call once, after `read_start_message` and before the log is set up."""
    log = os.dup(2)
    with contextlib.suppress(OSError):  # standard output is closed
        os.dup2(1, 2)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # both are TextIOWrapper here
    return log


def watch_parent(on_gone: Callable[[], None], *, exit_after_s: float | None = 4.0) -> None:
    """Call `on_gone` once, in a thread of its own, when the parent is gone; needs `read_start_message` before.

    Args:
        on_gone: begins an orderly stop; must not block for long.
        exit_after_s: end this process and its descendants by force that long after `on_gone` if it is still there; None
            never does.
    """
    descriptor = _pipe[-1]

    def wait() -> None:
        try:
            while os.read(descriptor, 4096):
                pass
        except OSError:
            pass  # the pipe is unusable: as good as closed
        try:
            on_gone()
        finally:
            if exit_after_s is not None:
                threading.Event().wait(exit_after_s)
                end_at_once(1)

    threading.Thread(target=wait, name="watch-parent", daemon=True).start()
