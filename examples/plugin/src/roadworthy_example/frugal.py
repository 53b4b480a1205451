"""A kind of runner for large models: one confined process on each machine, which runs a long request in parts."""

from __future__ import annotations

from roadworthy.runtime.runners.runner import Executable, Loaded
from roadworthy.schema.batch import Batch

MOST_ROWS = 64
"""Rows of one run of the model."""


class InParts:
    """Runs the model on at most MOST_ROWS rows at a time, so that what it needs for one run stays small."""

    concurrent = False

    def __init__(self, executable: Executable) -> None:
        self._executable = executable
        self.parts = executable.parts

    def run(self, batch: Batch) -> Batch:
        """Answer all rows, in order."""
        starts = range(0, batch.rows, MOST_ROWS)
        return Batch.concatenate(
            [self._executable.run(batch.slice(start, min(start + MOST_ROWS, batch.rows))) for start in starts]
        )

    def close(self) -> None:
        """Close the model."""
        self._executable.close()


class Frugal:
    """The kind. It isolates, so it may get packages that carry code."""

    name = "frugal"
    interface = 1
    isolates = True

    def processes(self, copies: int) -> int:
        """One, whatever the policy or the cost of a row asks for: the model is in memory once."""
        return 1

    def runner(self, executable: Executable, threads: int) -> Loaded:
        """Called in that process."""
        return InParts(executable)


RUNNER = Frugal()
