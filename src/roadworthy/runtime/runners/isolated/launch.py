"""How a runner process is started, and what its parent reads from its exit. The agent's keeper and tests are the callers."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from roadworthy.foundation.confine.plan import Bounds, confined, make_plan
from roadworthy.runtime.loading import package_folder

EXIT_LOAD_FAILED = 75
"""The package could not be loaded, and somebody asked to try again: no crash, start it again."""

LOAD_S = 120.0
"""How long loading and proving may take unless the start document says otherwise."""


class RunnerStart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The start document of a runner, one line of JSON on its standard input.

    Attributes:
        folder: the gateway's folder; the package lies in packages/.
        digest: which package. rule: which of its rules is executed; "" executes its model.
        address: the Unix socket that workers connect to, from `runner_address`.
        allowed_by: who allowed the package's code to execute, or None.
        copy: which one of the version's runners.
        threads: bound of every native thread pool.
        hang_s: a run that lasts longer ends this process.
        load_s: a load that lasts longer has failed.
        max_rows: rows of one joined run at most; None finds out what pays.
        log_level: "debug" to "error".
        confine: what is open for it, from `confinement`; the launcher has read it, and left the listening socket. None for a
            runner that was started without one.
    """

    folder: str
    digest: str
    address: str
    allowed_by: str | None = None
    rule: str = ""
    copy: int = 0
    threads: int = 1
    hang_s: float = 120.0
    load_s: float = LOAD_S
    max_rows: int | None = None
    log_level: str = "info"
    confine: dict[str, Any] | None = None


def runner_stem(digest: str, rule: str = "") -> str:
    """What the runners of a version, or of one of its rules, are called by: in names of processes, and of folders."""
    digits = digest.removeprefix("sha256:")[:16]
    return f"{digits}-{rule}" if rule else digits


def read_stem(stem: str) -> tuple[str, str]:
    """The digest's first digits and the rule, "" for the version itself."""
    digits, _, rule = stem.partition("-")
    return digits, rule


def runner_address(folder: Path, digest: str, copy: int = 0, rule: str = "") -> Path:
    """Where the runners of a version, or of one of its rules, are reached: one socket a copy, in a folder that no other runner
    can open, below the gateway's `folder`."""
    return folder / "run" / "runners" / f"{runner_stem(digest, rule)}-{copy}" / "runner.sock"


def runner_command() -> list[str]:
    """The command line. `-P`: modules are never looked for in the present folder."""
    return [sys.executable, "-P", "-m", "roadworthy.runtime.runners.isolated"]


def confined_command() -> list[str]:
    """The same, confined by what `RunnerStart.confine` says."""
    return confined(runner_command())


def confinement(
    folder: Path, digest: str, address: Path, bounds: Bounds, grants: tuple[str, ...] = ()
) -> dict[str, Any]:
    """What is open for a runner of the version: its package, the folder of its address, and what the package was granted.

    Args:
        folder: the gateway's.
        bounds: of this machine.
    """
    return make_plan(
        package=package_folder(folder, digest),
        write=address.parent,
        place=f"{address}.{{pid}}.cwd",
        listen=address,
        grants=grants,
        bounds=replace(bounds, private=(folder.parent, *bounds.private)),
    )


def runner_document(start: RunnerStart) -> dict[str, object]:
    """The start document, JSON-ready."""
    document: dict[str, object] = msgspec.to_builtins(start)
    return document
