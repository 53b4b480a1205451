"""Allows one running Roadworthy per home folder, by a file that its process keeps locked and that holds the process id."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from roadworthy.foundation.errors import Conflict


@contextlib.contextmanager
def hold_pid_file(path: Path) -> Iterator[None]:
    """Hold `path` locked, with this process's id in it, inside the block. The lock ends with the process, however it exits.

    Raises:
        Conflict: code "already-running": another process holds the file; facts["pid"] is its id.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = _number(os.pread(descriptor, 32, 0))
            raise Conflict(
                "Roadworthy is already running in this home folder",
                code="already-running",
                hint="run `roadworthy stop` first, or choose another home folder",
                facts={"pid": pid},
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode("ascii"), 0)
        try:
            yield
        finally:
            # The file stays: if it were unlinked, two processes could lock two files of that name.
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def running_pid(path: Path) -> int | None:
    """The id of the process that holds `path`, or None when no process does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _number(os.pread(descriptor, 32, 0))
    finally:
        os.close(descriptor)
    return None


def _number(text: bytes) -> int | None:
    return int(text) if text.isdigit() else None
