"""Proves a pushed package in a process of its own: no database, no keys, and none of its code unless that is allowed."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from roadworthy.foundation.confine.plan import Bounds
from roadworthy.package.archive import unpack
from roadworthy.package.replay import Replay, replay_apart

PROOF_S = 300.0


@dataclass(frozen=True, slots=True)
class Proving:
    """How packages are proved here.

    Attributes:
        timeout_s: how long it may take, in seconds.
        bounds: what their code may have.
    """

    timeout_s: float = PROOF_S
    bounds: Bounds = field(default_factory=Bounds)


def prove_isolated(file: Path, how: Proving, *, allow_code: bool, grants: tuple[str, ...] = ()) -> None:
    """Unpack the package in `file`, construct the runtime that serves, and replay its golden examples, all with what it was
    granted.

    Raises:
        PackageError: it is refused, or its answers are not those of training.
    """
    with tempfile.TemporaryDirectory(prefix="roadworthy-proof-") as scratch:
        folder = Path(scratch) / "package"
        unpack(file, folder)
        replay_apart(
            folder,
            Replay(
                every_runtime=False,
                allow_code=allow_code,
                bare=True,
                timeout_s=how.timeout_s,
                bounds=how.bounds,
                grants=grants,
            ),
        )
