"""Proves a pushed package in a separate process without database or keys; its code runs only if allowed."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from roadworthy.foundation.confine.plan import Bounds
from roadworthy.package.archive import unpack
from roadworthy.package.replay import Replay, replay_isolated

PROOF_S = 300.0


@dataclass(frozen=True, slots=True)
class Proving:
    """How packages are proved.

    Attributes:
        timeout_s: longest time of a proof, in seconds.
        bounds: what the package's code may access.
    """

    timeout_s: float = PROOF_S
    bounds: Bounds = field(default_factory=Bounds)


def prove_isolated(file: Path, how: Proving, *, allow_code: bool, grants: tuple[str, ...] = ()) -> None:
    """Unpack the package in `file`, construct the serving runtime, and replay the golden examples, all with the package's
    grants.

    Raises:
        PackageError: the package is refused, or its answers differ from those of training.
    """
    with tempfile.TemporaryDirectory(prefix="roadworthy-proof-") as scratch:
        folder = Path(scratch) / "package"
        unpack(file, folder)
        replay_isolated(
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
