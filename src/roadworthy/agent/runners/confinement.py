"""Finds out once which parts of the confinement hold on this machine, by a process that confines itself as a runner does."""

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
    """The confinement of this machine.

    Args:
        folder: the gateway's.
        policy: REQUIRED or BEST_EFFORT.

    Attributes:
        held: whether each part holds; empty until known.
    """

    def __init__(self, folder: Path, policy: str) -> None:
        self._folder = folder
        self._policy = policy
        self.held: Mapping[str, bool] = {}

    async def find_out(self) -> None:
        """Find out which parts hold, log them, and write them to a file for `roadworthy status`."""
        try:
            self.held = await asyncio.to_thread(self._ask)
        except OSError as error:
            _log.warning("cannot find out how packages' code is confined", reason=str(error))
            return
        lacking = [part for part, holds in self.held.items() if not holds]
        facts = {
            "held": [part for part, holds in self.held.items() if holds],
            "missing": lacking,
            "policy": self._policy,
        }
        if missing(self.held) and self._policy == REQUIRED:
            _log.error("packages' code cannot be confined here, so it is not executed", **facts)
        elif lacking:
            _log.warning("packages' code is only partly confined", **facts)
        else:
            _log.info("packages' code is confined", **facts)
        document = json.dumps({"policy": self._policy, "parts": dict(self.held)})
        with contextlib.suppress(OSError):  # a full disk, which is logged elsewhere
            write_atomic(confinement_file(self._folder), document.encode("ascii"))

    def _ask(self) -> Mapping[str, bool]:
        with tempfile.TemporaryDirectory(prefix="roadworthy-confinement-") as scratch:
            place = f"{scratch}/{{pid}}"
            packages = self._folder / "packages"
            bounds = Bounds(self._policy)
            return parts_held(make_plan(package=packages, write=Path(scratch), place=place, bounds=bounds))


def confinement_file(folder: Path) -> Path:
    """The file in the gateway's `folder` that says which parts hold."""
    return folder / "run" / "confinement.json"
