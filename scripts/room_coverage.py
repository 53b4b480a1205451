"""`make coverage`: branch coverage of the rooms that decide, each of which must reach the least share by itself.

The tests of those rooms run, and those of the rooms that use them most. Arguments are passed on to pytest.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("serving", "rollout", "statistics", "package")
LEAST = 0.90
TESTS = ("serving", "rollout", "statistics", "package", "codecs", "runtime", "control", "store", "gateway")


def shares(report: dict[str, Any]) -> dict[str, float]:
    """For each room, the covered share of its statements and branches together."""
    totals = {room: [0, 0] for room in ROOMS}
    for name, file in report["files"].items():
        room = Path(name).relative_to("src/roadworthy").parts[0]
        found = file["summary"]
        totals[room][0] += found["covered_lines"] + found["covered_branches"]
        totals[room][1] += found["num_statements"] + found["num_branches"]
    return {room: covered / of if of else 0.0 for room, (covered, of) in totals.items()}


def main(arguments: list[str]) -> int:
    """Run the tests, print each room's share; 1 when a test fails or a room has too little."""
    report = ROOT / "build" / "coverage.json"
    report.parent.mkdir(exist_ok=True)
    rooms = [f"--cov=src/roadworthy/{room}" for room in ROOMS]
    reports = ["--cov-branch", "--cov-report=term-missing:skip-covered", f"--cov-report=json:{report}"]
    tests = [f"tests/{name}" for name in TESTS if (ROOT / "tests" / name).is_dir()]
    chosen = [] if any(argument.startswith("tests") for argument in arguments) else tests
    status = subprocess.run(
        [sys.executable, "-m", "pytest", *rooms, *reports, *arguments, *chosen], cwd=ROOT, check=False
    ).returncode
    found = shares(json.loads(report.read_text()))
    for room, share in found.items():
        print(f"{room:<12} {share:6.1%}{'' if share >= LEAST else f', less than {LEAST:.0%}'}")
    return status or int(min(found.values()) < LEAST)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
