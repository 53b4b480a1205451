"""Gates in files: a planted model at a closed gate waits until the test opens it, in any process.

A model passes with `with open(path) as gate: fcntl.flock(gate, fcntl.LOCK_SH)`. The gate of an ended test is open.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def closed(path: Path) -> Iterator[None]:
    """The gate at `path` is closed until the end of the block."""
    with path.open("a") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        yield
