"""Our own kinds of runners as placement and manager find them, by entry points like those of plug-ins."""

from __future__ import annotations

from roadworthy.runtime.runners.runner import Executable


class Inline:
    """Executes a version in each worker."""

    name = "inline"
    interface = 1
    isolates = False

    def runner(self, executable: Executable, threads: int) -> Executable:  # noqa: ARG002 - an interface's parameters
        """As in RunnerKind."""
        return executable


class Process:
    """Executes a version in confined processes that all workers of the machine share."""

    name = "process"
    interface = 1
    isolates = True

    def processes(self, copies: int) -> int:
        """As in IsolatingKind."""
        return copies

    def runner(self, executable: Executable, threads: int) -> Executable:  # noqa: ARG002 - an interface's parameters
        """As in RunnerKind."""
        return executable


INLINE, PROCESS = Inline(), Process()
