"""Which parts of confinement hold on this machine: found out once, by a process that confines itself as a runner does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import structlog

from roadworthy.foundation.confine.plan import REQUIRED, Bounds, make_plan, missing, parts_held
from roadworthy.foundation.files import write_atomic

_log = structlog.get_logger(__name__)


class Confinement:
    """What is known of it.

    Args:
        folder: the gateway's.
        policy: REQUIRED or BEST_EFFORT.

    Attributes:
        held: by part; empty until it is known.
    """

    def __init__(self, folder: Path, policy: str) -> None:
        self._folder = folder
        self._policy = policy
        self.held: Mapping[str, bool] = {}

    async def find_out(self) -> None:
        """Ask the machine, log it, and write it down for `roadworthy status`."""
        try:
            self.held = await asyncio.to_thread(self._ask)
        except OSError as error:
            _log.warning("it could not be found out how packages' code is confined", reason=str(error))
            return
        lacking = [part for part, holds in self.held.items() if not holds]
        facts = {
            "held": [part for part, holds in self.held.items() if holds],
            "missing": lacking,
            "policy": self._policy,
        }
        if missing(self.held) and self._policy == REQUIRED:
            _log.error("packages' code cannot be confined here, and is not executed", **facts)
        elif lacking:
            _log.warning("packages' code is confined in part", **facts)
        else:
            _log.info("packages' code is confined", **facts)
        document = json.dumps({"policy": self._policy, "parts": dict(self.held)})
        with contextlib.suppress(OSError):  # a full disk, which is told elsewhere
            write_atomic(confinement_file(self._folder), document.encode("ascii"))

    def _ask(self) -> Mapping[str, bool]:
        with tempfile.TemporaryDirectory(prefix="roadworthy-confinement-") as scratch:
            place = f"{scratch}/{{pid}}"
            packages = self._folder / "packages"
            bounds = Bounds(self._policy)
            return parts_held(make_plan(package=packages, write=Path(scratch), place=place, bounds=bounds))


def confinement_file(folder: Path) -> Path:
    """Where the gateway's `folder` says it."""
    return folder / "run" / "confinement.json"
