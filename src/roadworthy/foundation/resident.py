"""Measures from outside how much memory a process holds. The supervisor measures workers, the agent runners."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Resident:
    """Resident memory of a process, in bytes.

    Attributes:
        total: all of it, including mapped files and shared memory.
        private: without mapped files and shared memory: only this process can make it grow.
    """

    total: int
    private: int


def resident(pid: int) -> Resident | None:
    """The memory of a process now; None when the process is gone, or on systems without /proc."""
    try:
        _, total, shared, *_ = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    page = os.sysconf("SC_PAGE_SIZE")
    return Resident(int(total) * page, (int(total) - int(shared)) * page)
