"""The state file of a runner process: five numbers that can be read from outside even while its model holds the GIL.

The runner writes `<address>.<pid>.state` from its start, and links the same file as `<address>.state` once it has taken the
address. The agent's keeper reads it, and kills a runner that is busy for too long without the runner's help.

Layout: five native signed 64-bit integers: pid; state (LOADING to STOPPED); monotonic nanoseconds at which the current load or
run began, 0 while idle; number of finished runs; monotonic nanoseconds of the last step of its loop.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

LOADING, READY, FAILED, DRAINING, HUNG, STOPPED = range(1, 7)
NAMES = {LOADING: "LOADING", READY: "READY", FAILED: "FAILED", DRAINING: "DRAINING", HUNG: "HUNG", STOPPED: "STOPPED"}

STEP_S = 1.0
"""How often an idle runner takes a step."""
_LAYOUT = struct.Struct("=5q")
_PID, _STATE, _BUSY_SINCE, _RUNS, _STEPPED = range(5)


@dataclass(frozen=True, slots=True)
class RunnerState:
    """The state of a runner at one look.

    Attributes:
        pid: its process.
        state: LOADING, READY, FAILED (its package), DRAINING, HUNG or STOPPED.
        busy_since_ns: when the current load or run began, on the monotonic clock; 0 while idle.
        runs: number of finished runs.
        stepped_ns: when its loop took its last step; an idle runner takes one every STEP_S.
    """

    pid: int
    state: int
    busy_since_ns: int
    runs: int
    stepped_ns: int

    @property
    def busy_s(self) -> float:
        """Seconds since the current load or run began; 0 while idle."""
        return (time.monotonic_ns() - self.busy_since_ns) / 1e9 if self.busy_since_ns else 0.0

    @property
    def still_s(self) -> float:
        """Seconds without a step, outside of loads and runs."""
        return 0.0 if self.busy_since_ns else (time.monotonic_ns() - self.stepped_ns) / 1e9

    @classmethod
    def read(cls, address: Path, pid: int | None = None) -> RunnerState | None:
        """The state of the runner that holds `address`, or of the one with that pid, which may still load; None when unknown."""
        try:
            # The runner's model may have replaced the file: do not follow links, wait at a pipe, or read a large file.
            descriptor = os.open(state_file(address, pid), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                return cls(*_LAYOUT.unpack(os.read(descriptor, _LAYOUT.size + 1)))
            finally:
                os.close(descriptor)
        except (OSError, struct.error):
            return None


def state_file(address: Path, pid: int | None = None) -> Path:
    """The state file of the runner that holds `address`, or of the one with that pid."""
    return address.with_name(f"{address.name}.state" if pid is None else f"{address.name}.{pid}.state")


class StateWriter:
    """The only writer of a runner's state file."""

    def __init__(self, address: Path) -> None:
        self._address = address
        self._path = state_file(address, os.getpid())
        self._path.write_bytes(_LAYOUT.pack(os.getpid(), LOADING, time.monotonic_ns(), 0, time.monotonic_ns()))
        with self._path.open("r+b") as handle:
            self._mapped = mmap.mmap(handle.fileno(), _LAYOUT.size)
        self._cells = memoryview(self._mapped).cast("q")

    def take_address(self) -> None:
        """Show this state file under the address from now on."""
        temporary = self._path.with_suffix(".taking")
        temporary.unlink(missing_ok=True)
        temporary.hardlink_to(self._path)
        temporary.replace(state_file(self._address))

    def move(self, state: int) -> None:
        """Show another state, without a load or run under way."""
        self.step()
        self._cells[_STATE] = state
        self._cells[_BUSY_SINCE] = 0

    def begin(self) -> None:
        """Show that a load or a run begins."""
        self._cells[_BUSY_SINCE] = time.monotonic_ns()

    def step(self) -> None:
        """Show a step of the loop."""
        self._cells[_STEPPED] = time.monotonic_ns()

    def end(self) -> None:
        """Show that a run has ended, well or not."""
        self.step()  # first, so that it never looks still in between
        self._cells[_BUSY_SINCE] = 0
        self._cells[_RUNS] += 1

    @property
    def busy_s(self) -> float:
        """Seconds since the current load or run began; 0 while idle."""
        since = self._cells[_BUSY_SINCE]
        return (time.monotonic_ns() - since) / 1e9 if since else 0.0

    @property
    def state(self) -> int:
        """The shown state."""
        return int(self._cells[_STATE])

    def remove(self) -> None:
        """Delete the file; also under the address, if it is still this file there."""
        with contextlib.suppress(OSError):
            shown = state_file(self._address)
            if shown.samefile(self._path):
                shown.unlink()
        self._path.unlink(missing_ok=True)
