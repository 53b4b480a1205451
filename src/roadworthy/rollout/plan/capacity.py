"""Estimates whether every machine has capacity for a version, before the version is sent there. Pure.

The estimate rests on the stable's memory and on the packages' sizes; only loading proves it. It is low rather than high: a
refused version would hardly have fitted, and an accepted one may still be too large and end as FAILED, without any traffic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from roadworthy.contract.telemetry import READY, WorkerReport

INLINE_FACTOR = 3
"""Bytes of memory that a version takes in each worker per byte of its package, as measured with small graphs."""
DISK_FACTOR = 2
"""The packed file and its unpacked files."""


@dataclass(frozen=True, slots=True)
class Sized:
    """A version such as "flights:2", its package's digest, and the size of the packed file."""

    name: str
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Machine:
    """A gateway and its live workers."""

    name: str
    workers: tuple[WorkerReport, ...]


def shortages(canary: Sized, stable: Sized, machines: Sequence[Machine]) -> tuple[str, ...]:
    """A sentence for each machine with less memory or disk left than the version is likely to take. A machine that already holds
    the version needs nothing, and a machine that does not report what it has left is not judged."""
    return tuple(text for machine in machines for text in _shortages(canary, stable, machine))


def _shortages(canary: Sized, stable: Sized, machine: Machine) -> Iterator[str]:
    workers = machine.workers
    if not workers or all(_holds(worker, canary.digest) for worker in workers):
        return
    memory, why = _memory(canary, stable, workers)
    left = min((each.memory_free_bytes for each in workers if each.memory_free_bytes is not None), default=None)
    if left is not None and memory > left:
        yield f"{machine.name} has {_mib(left)} of memory left, but {canary.name} needs about {_mib(memory)}, {why}"
    disk = DISK_FACTOR * canary.size_bytes
    left = min((each.disk_free_bytes for each in workers if each.disk_free_bytes is not None), default=None)
    if left is not None and disk > left:
        yield f"{machine.name} has {_mib(left)} of disk left, but {canary.name} needs about {_mib(disk)}"


def _holds(worker: WorkerReport, digest: str) -> bool:
    return any(each.digest == digest and each.state == READY for each in worker.versions)


def _memory(canary: Sized, stable: Sized, workers: Sequence[WorkerReport]) -> tuple[int, str]:
    """Bytes on one machine, and the basis of the estimate."""
    isolated = [
        each.processes * each.memory_bytes
        for worker in workers
        for each in worker.versions
        if each.digest == stable.digest and each.memory_bytes is not None
    ]
    if isolated:  # all workers of a machine report the same processes
        larger = max(1.0, canary.size_bytes / max(1, stable.size_bytes))
        return int(max(isolated) * larger), f"judging by {stable.name}, which takes {_mib(max(isolated))}"
    return INLINE_FACTOR * canary.size_bytes * len(workers), f"in {len(workers)} workers"


def _mib(number: int) -> str:
    return f"{max(0, number) / (1 << 20):,.0f} MiB"
