"""Checks whether processes grow: fits a line to the memory, open files and threads of each process after warm-up.

The line is Theil and Sen's (the median of the slopes between all pairs of samples): a single spike moves it little, but a leak of
a few bytes per request tilts it. The bounds apply to its rise over the whole window, whether seconds or hours; the longer the
window, the smaller the leak they detect.
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import psutil

from bench.service import Service, role_of

MEMORY_MB, MEMORY_SHARE = 8.0, 0.05
"""Permitted rise of a process's memory over the window: so many MB, plus a share of its memory."""
FILES, THREADS = 4.0, 2.0
"""Permitted rise of its descriptors and threads."""
_MOST_SAMPLES = 400


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment: seconds on the monotonic clock, megabytes resident, open descriptors, threads."""

    at: float
    memory_mb: float
    files: int
    threads: int


@dataclass(frozen=True, slots=True)
class Growth:
    """One process over the window: the rise of each line, and its median memory."""

    role: str
    pid: int
    samples: int
    memory_mb: float
    files: float
    threads: float
    median_mb: float

    @property
    def allowed_mb(self) -> float:
        """Permitted rise of its memory, in MB."""
        return MEMORY_MB + MEMORY_SHARE * self.median_mb

    @property
    def faults(self) -> list[str]:
        """The quantities that rose by more than permitted."""
        found = []
        if self.memory_mb > self.allowed_mb:
            found.append(f"{self.role} {self.pid}: {self.memory_mb:+.1f} MB, allowed {self.allowed_mb:.1f}")
        if self.files > FILES:
            found.append(f"{self.role} {self.pid}: {self.files:+.1f} descriptors, allowed {FILES:g}")
        if self.threads > THREADS:
            found.append(f"{self.role} {self.pid}: {self.threads:+.1f} threads, allowed {THREADS:g}")
        return found


class Watch:
    """Samples of all processes of a service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._samples: dict[tuple[str, int], list[Sample]] = defaultdict(list)

    def look(self) -> None:
        """Take one sample of each running process."""
        now = time.monotonic()
        for member in self._service.members():
            with suppress(psutil.Error):
                with member.oneshot():
                    sample = Sample(now, member.memory_info().rss / 1e6, member.num_fds(), member.num_threads())
                self._samples[_named(member), member.pid].append(sample)

    def growths(self, since: float) -> list[Growth]:
        """The growth of each process that ran from `since` (monotonic clock) until the last look."""
        last = max(samples[-1].at for samples in self._samples.values())
        found = []
        for (role, pid), samples in self._samples.items():
            window = [sample for sample in samples if sample.at >= since]
            if samples[0].at <= since and window and window[-1].at == last:
                found.append(_growth(role, pid, window))
        return found

    def changed(self, since: float) -> list[str]:
        """Processes that started or ended after `since`."""
        last = max(samples[-1].at for samples in self._samples.values())
        return [
            f"{role} {pid} {'came' if samples[0].at > since else 'went'}"
            for (role, pid), samples in self._samples.items()
            if samples[-1].at >= since and (samples[0].at > since or samples[-1].at < last)
        ]


def rise(times: list[float], values: list[float]) -> float:
    """The rise of the line through the values from the first time to the last."""
    if len(times) < 2:
        return 0.0
    keep = np.unique(np.linspace(0, len(times) - 1, min(len(times), _MOST_SAMPLES)).astype(int))
    x, y = np.asarray(times)[keep], np.asarray(values, dtype=float)[keep]
    first, second = np.triu_indices(len(x), 1)
    return float(np.median((y[second] - y[first]) / (x[second] - x[first])) * (x[-1] - x[0]))


def _growth(role: str, pid: int, window: list[Sample]) -> Growth:
    times = [sample.at for sample in window]
    memory = [sample.memory_mb for sample in window]
    return Growth(
        role,
        pid,
        len(window),
        rise(times, memory),
        rise(times, [sample.files for sample in window]),
        rise(times, [sample.threads for sample in window]),
        float(np.median(memory)),
    )


def _named(process: psutil.Process) -> str:
    role = role_of(process)
    return "supervisor" if role == "other" else role
