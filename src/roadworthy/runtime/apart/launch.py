"""How a runner process is started, and what its parent reads from its exit. The agent's keeper and tests are the callers."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

EXIT_LOAD_FAILED = 75
"""The package could not be loaded, and somebody asked to try again: no crash, start it again."""

LOAD_S = 120.0
"""How long loading and proving may take unless the start document says otherwise."""


class RunnerStart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The start document of a runner, one line of JSON on its standard input.

    Attributes:
        folder: the gateway's folder; the package lies in packages/.
        digest: which package.
        address: the Unix socket that workers connect to, from `runner_address`.
        allowed_by: who allowed the package's code to execute, or None.
        copy: which one of the version's runners.
        threads: bound of every native thread pool.
        hang_s: a run that lasts longer ends this process.
        load_s: a load that lasts longer has failed.
        max_rows: rows of one joined run at most; None finds out what pays.
        log_level: "debug" to "error".
    """

    folder: str
    digest: str
    address: str
    allowed_by: str | None = None
    copy: int = 0
    threads: int = 1
    hang_s: float = 120.0
    load_s: float = LOAD_S
    max_rows: int | None = None
    log_level: str = "info"


def runner_address(folder: Path, digest: str, copy: int = 0) -> Path:
    """Where the runners of a version are reached: one socket a copy, below the gateway's `folder`."""
    return folder / "run" / "runners" / f"{digest.removeprefix('sha256:')[:16]}-{copy}.sock"


def runner_command() -> list[str]:
    """The command line. `-P`: modules are never looked for in the present folder."""
    return [sys.executable, "-P", "-m", "roadworthy.runtime.apart"]


def runner_document(start: RunnerStart) -> dict[str, object]:
    """The start document, JSON-ready."""
    document: dict[str, object] = msgspec.to_builtins(start)
    return document
