"""`make demo`, to its end: it checks every step itself, and ends with 0 only if all succeeded."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.ports import free_ports
from tests.waiting import DEADLINE_S

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(12 * DEADLINE_S)
def test_the_demo_goes_to_its_end(tmp_path: Path) -> None:
    """A broken version is rolled back on printed evidence, a good one is promoted, and no process remains. It takes a
    quarter of the flights."""
    result = subprocess.run(
        [
            sys.executable,
            "demo/run.py",
            "--exit",
            "--every",
            "4",
            "--folder",
            str(tmp_path / "demo"),
            "--ports",
            *map(str, free_ports(3)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=10 * DEADLINE_S,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    told = result.stdout
    assert told.splitlines()[-1] == "Stopped."
    assert "verdict FAIL (worse), rolled-back by the controller:" in told
    found = re.search(r"flights:3 failed (\d+) of (\d+) requests, flights:1 0 of ([\d,]+);", told)
    assert found, told
    assert 3 <= int(found[1]) <= int(found[2])
    assert re.search(r"\(E [\d,]+, rolled back from [\d,]+ on; p ", told)
    assert re.search(r"none of [\d,]+ requests failed", told)
    assert (tmp_path / "demo" / "home" / "supervisor.pid").read_text() == ""
