"""A file that children open by its path, and find there even after it or its folder was deleted."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from roadworthy.foundation.files import private_folder


class Kept:
    """The file that is at a path now. On systems without /proc a deleted file stays deleted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def stay(self) -> None:
        """If the file was deleted, make its path link to the descriptor that this process holds."""
        held = Path(f"/proc/{os.getpid()}/fd/{self._descriptor}")
        with contextlib.suppress(OSError):  # tried again at the next look
            if held.exists() and not self._path.exists():
                private_folder(self._path.parent)
                self._path.unlink(missing_ok=True)
                self._path.symlink_to(held)

    def close(self) -> None:
        """Close the descriptor; the file is kept no longer."""
        os.close(self._descriptor)
