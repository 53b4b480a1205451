"""How much memory a process holds, from outside. The supervisor asks for workers, the agent for runners."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Resident:
    """Bytes in memory.

    Attributes:
        total: all of it, with mapped files and shared memory.
        private: without those: what only this process can have made grow.
    """

    total: int
    private: int


def resident(pid: int) -> Resident | None:
    """What a process holds now; None when it is gone, or where the kernel does not tell (no /proc)."""
    try:
        _, total, shared, *_ = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    page = os.sysconf("SC_PAGE_SIZE")
    return Resident(int(total) * page, (int(total) - int(shared)) * page)
