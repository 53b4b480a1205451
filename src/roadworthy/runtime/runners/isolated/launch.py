"""How a runner process starts: its address, command line, confinement and start document."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from roadworthy.contract.runners import PROCESS
from roadworthy.foundation import plugins
from roadworthy.foundation.confine.plan import Bounds, confined, make_plan
from roadworthy.runtime.loading import package_folder

EXIT_LOAD_FAILED = 75
"""Exit status of a runner that could not load its package and was asked to try again: not a crash, start it again."""

LOAD_S = 120.0
"""How long loading and proving may take by default, in seconds."""


class RunnerStart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The start document of a runner, one line of JSON on its standard input.

    Attributes:
        folder: the gateway's folder; the package is in packages/.
        digest: of the package. rule: the rule to execute; "" executes the package's model.
        address: the Unix socket that workers connect to, from `runner_address`.
        hang_s: a run that lasts longer ends this process.
        allowed_by: who allowed the package's code to execute, or None.
        copy: number of this runner among the version's runners.
        threads: bound of every native thread pool.
        runner: the name of the kind of runner, which says how the model is executed.
        load_s: a load that lasts longer has failed.
        max_rows: most rows of one joined run; None learns how many pay off.
        log_level: "debug" to "error".
        confine: the confinement plan, from `confinement`; the launcher has applied it and left the listening socket. None for a
            runner that started without a launcher.
    """

    folder: str
    digest: str
    address: str
    hang_s: float
    allowed_by: str | None = None
    rule: str = ""
    copy: int = 0
    threads: int = 1
    load_s: float = LOAD_S
    max_rows: int | None = None
    log_level: str = "info"
    confine: dict[str, Any] | None = None
    runner: str = PROCESS


def runner_stem(digest: str, rule: str = "") -> str:
    """The name of a version, or of one of its rules, in the names of its processes and folders."""
    digits = digest.removeprefix("sha256:")[:16]
    return f"{digits}-{rule}" if rule else digits


def read_stem(stem: str) -> tuple[str, str]:
    """Split a stem into the digest's first digits and the rule, "" for the version itself."""
    digits, _, rule = stem.partition("-")
    return digits, rule


def runner_address(folder: Path, digest: str, copy: int = 0, rule: str = "") -> Path:
    """The socket of a copy of a version's runner, or of a rule's, below the gateway's `folder`. Its own folder cannot be opened
    by other runners."""
    return folder / "run" / "runners" / f"{runner_stem(digest, rule)}-{copy}" / "runner.sock"


def runner_command() -> list[str]:
    """The command line. With `-P` modules are never looked for in the current folder."""
    return [sys.executable, "-P", "-m", "roadworthy.runtime.runners.isolated"]


def confined_command() -> list[str]:
    """The command line that confines the runner by `RunnerStart.confine`."""
    return confined(runner_command())


def confinement(folder: Path, digest: str, address: Path, bounds: Bounds, grants: tuple[str, ...] = ()) -> dict[str, Any]:
    """The confinement plan of a runner: open are its package, the folder of its address, and what the package was granted.

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
    """The start document, JSON-ready. The runner may load the plug-ins that this process may load."""
    return {**msgspec.to_builtins(start), **plugins.start_member()}
