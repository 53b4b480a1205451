"""The child's side of a supervised process: its configuration, its signs of life, and the exit of its parent.

The parent writes ONE line of JSON to the child's standard input and keeps its end open as long as it lives. End of file means
that the parent is gone, however it exited: the kernel closes the pipe even after `kill -9`. No secret is in a command line or in
the environment. The supervisor's children have a socket as standard input, on which they also show life.

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

from roadworthy.foundation import plugins
from roadworthy.foundation.errors import SettingsError
from roadworthy.foundation.files import keep_private
from roadworthy.foundation.host import end_at_once, forget_in_forks

EXIT_REFUSED = 78
"""Exit status of a child for which another start is pointless: the supervisor then stops everything instead of trying again. The
child writes the reason to its standard error."""

LIFE_S = 1.0
"""Seconds between two signs of life of a child."""
_MAX_LINE_BYTES = 1 << 20
_pipe: list[int] = []


def read_start_message() -> dict[str, Any]:
    """Read the start document. Its member that names the distributions whose plug-ins this process may load is taken out; they
    are allowed here. Call it once, first: afterwards standard input is empty for any code of a model that reads it, and files
    that the process creates are private to its user.

    Raises:
        SettingsError: code "no-start-document": standard input has no line with a JSON object; the process was started by hand.
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
    plugins.allow(document.pop(plugins.MEMBER, ()))
    return document


def show_life() -> None:
    """Show the parent that this process makes progress. Call it from the loop that does the work, not from a separate thread."""
    with contextlib.suppress(OSError):  # the parent is gone, or gave no socket and does not judge by signs of life
        _line(_pipe[-1]).send(b".", socket.MSG_DONTWAIT)


@cache
def _line(descriptor: int) -> socket.socket:
    return socket.fromfd(descriptor, socket.AF_UNIX, socket.SOCK_STREAM)


def separate_log() -> int:
    """Separate this process's log from other output; return the log's descriptor, the former standard error. Everything else that
    is printed, by a model, a native library or a process of theirs, goes to standard output; the parent brings it into the log.
    Call once, after `read_start_message` and before the log is configured."""
    log = os.dup(2)
    with contextlib.suppress(OSError):  # standard output is closed
        os.dup2(1, 2)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # both are TextIOWrapper here
    return log


def watch_parent(on_gone: Callable[[], None], *, exit_after_s: float | None = 4.0) -> None:
    """Call `on_gone` once, in a separate thread, when the parent is gone. Call `read_start_message` first.

    Args:
        on_gone: begins an orderly stop; must not block for long.
        exit_after_s: seconds after `on_gone` until this process and its descendants are killed; None: never.
    """
    descriptor = _pipe[-1]

    def wait() -> None:
        try:
            while os.read(descriptor, 4096):
                pass
        except OSError:
            pass  # an unusable pipe counts as closed
        try:
            on_gone()
        finally:
            if exit_after_s is not None:
                threading.Event().wait(exit_after_s)
                end_at_once(1)

    threading.Thread(target=wait, name="watch-parent", daemon=True).start()
