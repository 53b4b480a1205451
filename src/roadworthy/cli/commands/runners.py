"""The runner processes of this machine for `roadworthy status`, read from their state files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roadworthy.cli.output import short, size, table
from roadworthy.foundation.resident import resident

if TYPE_CHECKING:
    from roadworthy.contract.api.endpoints import Endpoint


def local_runners(folder: Path) -> list[dict[str, Any]]:
    """The live runners below a gateway's `folder`: the digest's first digits, rule (None for the version itself), copy, pid,
    state, completed runs and resident_bytes."""
    from roadworthy.runtime.runners.isolated.launch import read_stem
    from roadworthy.runtime.runners.isolated.state import NAMES, RunnerState

    found = []
    for path in sorted((folder / "run" / "runners").glob("*/runner.sock.*.state")):
        pid = path.name.removesuffix(".state").removeprefix("runner.sock.")
        stem, _, copy = path.parent.name.rpartition("-")
        digest, rule = read_stem(stem)
        state = RunnerState.read(path.with_name("runner.sock"), int(pid)) if pid.isdigit() else None
        memory = resident(int(pid)) if pid.isdigit() else None
        if state is not None and memory is not None:
            found.append(
                {
                    "digest": short(digest),
                    "rule": rule or None,
                    "copy": int(copy),
                    "pid": state.pid,
                    "state": NAMES.get(state.state, "-"),
                    "runs": state.runs,
                    "resident_bytes": memory.total,
                }
            )
    return found


def local_confinement(folder: Path) -> dict[str, Any] | None:
    """The confinement that the gateway in `folder` found: the policy, and for each part whether it works; None if unknown."""
    from roadworthy.agent.runners.confinement import confinement_file

    try:
        told = json.loads(confinement_file(folder).read_bytes())
        return {
            "policy": str(told["policy"]),
            "parts": {str(part): bool(holds) for part, holds in told["parts"].items()},
        }
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def confinement_line(told: dict[str, Any]) -> str:
    """The confinement in one line."""
    held = ", ".join(part for part, holds in told["parts"].items() if holds) or "nothing"
    lacking = ", ".join(part for part, holds in told["parts"].items() if not holds)
    return f"code of packages is confined by {held}" + (f"; not available on this machine: {lacking}" if lacking else "")


def runner_table(runners: Sequence[Mapping[str, Any]], endpoints: Sequence[Endpoint]) -> str:
    """The runners as a table, with the names of deployed versions."""
    names: dict[str, str] = {}
    for endpoint in endpoints:
        for version in (endpoint, endpoint.pending):
            if version is not None and version.digest and version.version:
                names[short(version.digest)] = version.version
    lines = [
        (
            names.get(runner["digest"], runner["digest"]),
            runner["rule"],
            runner["copy"],
            runner["pid"],
            runner["state"],
            size(runner["resident_bytes"]),
            runner["runs"],
        )
        for runner in runners
    ]
    return table(("RUNNER OF", "RULE", "COPY", "PID", "STATE", "MEMORY", "RUNS"), lines)
