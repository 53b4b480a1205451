"""`roadworthy status` shows only what is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.control.fleet import Fleet
from tests.control_plane import ControlProcess


def test_g7_of_a_gateway_that_is_gone_nothing_is_known(
    run: Callable[..., Any], fleet: Fleet, control: ControlProcess, ahead_s: Path
) -> None:
    """Its versions are READY while it reports, and unknown after a long silence."""
    fleet.follow()

    def gateway() -> tuple[str, str]:
        shown = run("status", ROADWORTHY_CONTROL_URL=control.url, ROADWORTHY_KEY=control.admin_key).stdout
        return next(line for line in shown.splitlines() if line.split()[:1] and line.split()[0].endswith("/gw-1")), shown

    line, _ = gateway()
    assert line.split()[1] == "alive"
    assert "1 READY" in line
    ahead_s.write_text(str(400 * 3_600))
    line, shown = gateway()
    assert line.split()[1] == "AWAY"
    assert "unknown" in line
    assert "READY" not in shown
