"""As `ahead.py`, with two signals of a plug-in: `sign`, with three bins, and `moody`, which raises errors in the control plane
while the file MOODY lies next to the file of seconds. While BROKEN lies there, looking at a rollout raises an error.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roadworthy.control.controllers import observation
from roadworthy.foundation.plugins import SIGNALS, Kind
from roadworthy.rollout.plan import counting
from roadworthy.signals import discovery
from roadworthy.signals.signal import BinJudge, BinSignal, Judge, OutcomeSignal, Use

GIVEN = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
MOODY, BROKEN = "moody", "broken"


class Sign(BinSignal):
    """The sign of an answer."""

    name = "sign"
    interface = 1
    event = "sign of the answer"
    bins = ("negative", "zero", "positive")

    def bind(self, use: Use) -> BinJudge:
        """Works everywhere."""
        return lambda _rows: 0


class Moody(OutcomeSignal):
    """Has an attribute that raises an error while a file exists."""

    name = "moody"
    interface = 1
    event = "a bad mood"

    @property
    def unmeasurable(self) -> str | None:  # type: ignore[override]  # the fault under test
        """Never, if it says so."""
        if (GIVEN.parent / MOODY).exists():
            raise RuntimeError("in a bad mood")
        return None

    def bind(self, use: Use) -> Judge:
        """Works everywhere."""
        return lambda _seen: False


if __name__ == "__main__":
    real = discovery.plugins
    planted = {"sign": Sign(), "moody": Moody()}

    def plugins(kind: Kind) -> Mapping[str, Any]:
        """Those of the process, and the two."""
        return {**real(kind), **planted} if kind is SIGNALS else real(kind)

    def uncounted(*given: Any) -> list[tuple[str, str]]:
        """As the real one, but for the file."""
        if (GIVEN.parent / BROKEN).exists():
            raise RuntimeError("a fault of ours")
        return list(counting.uncounted(*given))

    observation.uncounted = uncounted  # type: ignore[assignment]  # the fault under test
    discovery.plugins = plugins  # type: ignore[assignment]  # as if a distribution with them were allowed
    runpy.run_path(str(Path(__file__).with_name("ahead.py")), run_name="__main__")
