"""`up --detach`: starts the same command in a new session, and returns once it is ready or raises its error.

The detached process writes its log to the home folder. To an inherited pipe it writes one line of JSON: the announcement or the
error. A new key travels through this pipe, never through the log.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roadworthy.cli.launch import GOING_ON
from roadworthy.cli.output import say
from roadworthy.foundation import errors
from roadworthy.foundation.errors import RoadworthyError

_REFUSES = "refuses-to-start"
_MAX_LOG_BYTES = 16 << 20
_LAST_LINES = 20


def detach(arguments: Sequence[str], log: Path) -> dict[str, Any]:
    """Start `roadworthy ARGUMENTS --ready-fd N` and return its announcement.

    Raises:
        RoadworthyError: the error that the process reported; code "start-failed" when it ended without a report, after its last
            log lines were printed.
    """
    reader, writer = os.pipe()
    _keep_small(log)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    begin = os.fstat(descriptor).st_size
    try:
        subprocess.Popen(  # noqa: S603 - our own command, again
            [sys.executable, "-P", "-m", "roadworthy.cli.main", *arguments, "--ready-fd", str(writer)],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            pass_fds=(writer,),
            start_new_session=True,
        )
    finally:
        os.close(writer)
        os.close(descriptor)
    with os.fdopen(reader, "rb") as pipe:
        line = pipe.readline()
    message: dict[str, Any] = json.loads(line) if line else {}
    if message and "error" not in message:
        for text in _tail(log, begin):
            if text.startswith(GOING_ON) or _REFUSES in text:
                say(f"  {text}")
        return message
    if message.get("code") in (None, "start-refused"):
        for text in _tail(log, begin):
            say(f"  {text}")
    if message:
        kind = getattr(errors, str(message["class"]))
        raise kind(message["error"], code=message["code"], hint=message["hint"])
    raise RoadworthyError(
        "the process ended before it was ready",
        code="start-failed",
        hint=f"the lines above are the end of its log, {log}",
    )


def _keep_small(log: Path) -> None:
    if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
        log.replace(log.with_suffix(".old.log"))


def _tail(log: Path, begin: int) -> list[str]:
    with log.open("rb") as handle:
        handle.seek(begin)
        return handle.read().decode("utf-8", "replace").splitlines()[-_LAST_LINES:]
