"""Kinds of runners, ours and those of plug-ins: which there are, and whether each isolates the versions that it executes.

A policy names one in `placement.where`. The control plane accepts only names that it has loaded, and a gateway refuses an
endpoint whose kind it has not loaded. Our own kinds are found in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from roadworthy.foundation.plugins import RUNNERS, foreign, plugins

AUTO = "auto"
"""In `placement.where`: the measured cost and the trust in the package choose one of the next two."""
INLINE, PROCESS = "inline", "process"
RUNNER_HINT = (
    "install the plug-in on the gateway's machine, name its distribution in general.plugins there, and start the gateway again; "
    "a gateway of a release without runners of plug-ins executes the version in its workers"
)


class RunnerDeclaration(Protocol):
    """What a policy needs to know of a kind of runner. `runtime/runners/runner.py` has the rest of the interface."""

    @property
    def name(self) -> str:
        """The name of its entry point, and its value of `placement.where`."""
        ...

    @property
    def interface(self) -> int:
        """The version of this interface that it was written for: 1."""
        ...

    @property
    def isolates(self) -> bool:
        """True: versions execute in confined processes, which the agent keeps. False: in each worker, which executes the code of
        a package only where an inline version's would."""
        ...


def runner_names() -> tuple[str, ...]:
    """The names of all kinds that this process has loaded."""
    return tuple(plugins(RUNNERS))


def plugin_runners() -> Mapping[str, RunnerDeclaration]:
    """The kinds of plug-ins by name. Imports nothing where the settings name no plug-in."""
    return foreign(RUNNERS)


def every_gateway_has(where: str) -> bool:
    """Whether this value of `placement.where` asks for nothing besides our own kinds."""
    return where == AUTO or (where in runner_names() and where not in plugin_runners())


def runs_in_worker(placement: str) -> bool:
    """Whether a version with this placement, as a worker reports it, executes in the worker itself. A kind that is unknown here
    counts as isolated."""
    kind: RunnerDeclaration | None = plugins(RUNNERS).get(placement.partition(":")[0])
    return kind is not None and not kind.isolates
