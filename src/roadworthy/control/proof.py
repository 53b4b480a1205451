"""Proves a pushed package in a process of its own: no database, no keys, and none of its code unless that is allowed."""

from __future__ import annotations

import tempfile
from pathlib import Path

from roadworthy.package.archive import unpack
from roadworthy.package.replay import Replay, replay_apart


def prove_apart(file: Path, *, allow_code: bool, timeout_s: float) -> None:
    """Unpack the package in `file`, construct the runtime that serves, and replay its golden examples.

    Raises:
        PackageError: it is refused, or its answers are not those of training.
    """
    with tempfile.TemporaryDirectory(prefix="roadworthy-proof-") as scratch:
        folder = Path(scratch) / "package"
        unpack(file, folder)
        replay_apart(folder, Replay(every_runtime=False, allow_code=allow_code, bare=True, timeout_s=timeout_s))
