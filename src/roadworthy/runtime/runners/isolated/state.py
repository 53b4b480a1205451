"""What a runner process shows of itself to who looks from outside, even while its model holds the GIL: five numbers in a file.

The runner writes `<address>.<pid>.state` from its first moment on, and shows the same file as `<address>.state` once it has taken
the address. The agent's keeper reads it and kills a runner that has been busy for too long; it needs no help of the runner's.

Layout: five native signed 64-bit integers: pid; state (LOADING to STOPPED); monotonic nanoseconds at which the present load or
run began, 0 when there is none; runs done; monotonic nanoseconds of the last step of its loop.
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
"""How often a runner that has nothing to do takes a step."""
_LAYOUT = struct.Struct("=5q")
_PID, _STATE, _BUSY_SINCE, _RUNS, _STEPPED = range(5)


@dataclass(frozen=True, slots=True)
class RunnerState:
    """One look at a runner.

    Attributes:
        pid: its process.
        state: LOADING, READY, FAILED (its package), DRAINING, HUNG or STOPPED.
        busy_since_ns: when the present load or run began, on the monotonic clock; 0 when it waits.
        runs: how many it has done.
        stepped_ns: when its loop took its last step; it takes one every STEP_S while no run is under way.
    """

    pid: int
    state: int
    busy_since_ns: int
    runs: int
    stepped_ns: int

    @property
    def busy_s(self) -> float:
        """For how long the present load or run has been going on; 0 when none is."""
        return (time.monotonic_ns() - self.busy_since_ns) / 1e9 if self.busy_since_ns else 0.0

    @property
    def still_s(self) -> float:
        """For how long it has neither taken a step nor been in a load or run."""
        return 0.0 if self.busy_since_ns else (time.monotonic_ns() - self.stepped_ns) / 1e9

    @classmethod
    def read(cls, address: Path, pid: int | None = None) -> RunnerState | None:
        """The runner that holds `address`, or the one of that pid, which may still be loading; None when nothing is known."""
        try:
            # the runner's model may have written it: neither a file of any length nor one that leads elsewhere or waits is read
            descriptor = os.open(state_file(address, pid), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                return cls(*_LAYOUT.unpack(os.read(descriptor, _LAYOUT.size + 1)))
            finally:
                os.close(descriptor)
        except (OSError, struct.error):
            return None


def state_file(address: Path, pid: int | None = None) -> Path:
    """The file of the runner that holds `address`, or of the one with that pid."""
    return address.with_name(f"{address.name}.state" if pid is None else f"{address.name}.{pid}.state")


class StateWriter:
    """The one writer of a runner's state."""

    def __init__(self, address: Path) -> None:
        self._address = address
        self._path = state_file(address, os.getpid())
        self._path.write_bytes(_LAYOUT.pack(os.getpid(), LOADING, time.monotonic_ns(), 0, time.monotonic_ns()))
        with self._path.open("r+b") as handle:
            self._mapped = mmap.mmap(handle.fileno(), _LAYOUT.size)
        self._cells = memoryview(self._mapped).cast("q")

    def take_address(self) -> None:
        """Be what is seen under the address from now on."""
        beside = self._path.with_suffix(".taking")
        beside.unlink(missing_ok=True)
        beside.hardlink_to(self._path)
        beside.replace(state_file(self._address))

    def move(self, state: int) -> None:
        """Show another state, and that nothing is under way."""
        self.step()
        self._cells[_STATE] = state
        self._cells[_BUSY_SINCE] = 0

    def begin(self) -> None:
        """A load or a run begins."""
        self._cells[_BUSY_SINCE] = time.monotonic_ns()

    def step(self) -> None:
        """The loop goes on."""
        self._cells[_STEPPED] = time.monotonic_ns()

    def end(self) -> None:
        """A run is over, well or not."""
        self.step()  # first: it must not look still between
        self._cells[_BUSY_SINCE] = 0
        self._cells[_RUNS] += 1

    @property
    def busy_s(self) -> float:
        """For how long the present load or run has been going on; 0 when none is."""
        since = self._cells[_BUSY_SINCE]
        return (time.monotonic_ns() - since) / 1e9 if since else 0.0

    @property
    def state(self) -> int:
        """The state that is shown."""
        return int(self._cells[_STATE])

    def remove(self) -> None:
        """Take the file away; under the address only when it is still this one."""
        with contextlib.suppress(OSError):
            shown = state_file(self._address)
            if shown.samefile(self._path):
                shown.unlink()
        self._path.unlink(missing_ok=True)
