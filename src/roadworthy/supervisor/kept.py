"""A file that children open by its path, and find there also after somebody has deleted it or its folder."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from roadworthy.foundation.files import private_folder


class Kept:
    """What is at a path now. Where the system has no /proc, what is deleted stays so."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def stay(self) -> None:
        """When it was deleted, have its path lead to the descriptor that this process holds."""
        held = Path(f"/proc/{os.getpid()}/fd/{self._descriptor}")
        with contextlib.suppress(OSError):  # looked at again in a moment
            if held.exists() and not self._path.exists():
                private_folder(self._path.parent)
                self._path.unlink(missing_ok=True)
                self._path.symlink_to(held)

    def close(self) -> None:
        """Keep it no longer."""
        os.close(self._descriptor)
