"""`make coverage`: branch coverage of the rooms that decide. Each room must reach the least share by itself.

It runs the tests of these rooms and those of the rooms that use them most, and measures workers and proofs in their own processes
too (`[tool.coverage.run]` in pyproject.toml). Arguments are passed on to pytest.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("serving", "rollout", "statistics", "package")
LEAST = 0.90
TESTS = (
    *("serving", "rollout", "statistics", "package", "codecs", "runtime", "control", "store", "gateway"),
    *("faults/test_g2_packed_models.py", "faults/test_g4_lying_manifests.py"),
)
REPORT = ROOT / "build" / "coverage.json"


class Share(NamedTuple):
    """How much of some code the tests executed."""

    covered_branches: int = 0
    branches: int = 0
    covered_lines: int = 0
    lines: int = 0

    def plus(self, other: Share) -> Share:
        """The two together."""
        return Share(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def of_branches(self) -> float:
        """The covered share of the branches; of the lines where nothing branches."""
        return self.covered_branches / self.branches if self.branches else self.of_lines

    @property
    def of_lines(self) -> float:
        """The covered share of the lines; 0.0 without any."""
        return self.covered_lines / self.lines if self.lines else 0.0


def shares(report: dict[str, Any]) -> tuple[dict[str, Share], dict[str, Share]]:
    """The shares of each room, and of each file by its path in the package."""
    rooms, files = dict.fromkeys(ROOMS, Share()), {}
    for name, file in report["files"].items():
        path = Path(name).relative_to("src/roadworthy")
        found = file["summary"]
        share = Share(found["covered_branches"], found["num_branches"], found["covered_lines"], found["num_statements"])
        files[str(path)] = share
        rooms[path.parts[0]] = rooms[path.parts[0]].plus(share)
    return rooms, files


def table(shares: dict[str, Share]) -> str:
    """One line for each share."""
    width = max(map(len, shares))
    return "\n".join(
        f"{name:<{width}}  branches {share.of_branches:6.1%}  lines {share.of_lines:6.1%}  "
        f"missed: {share.branches - share.covered_branches} branches, {share.lines - share.covered_lines} lines"
        for name, share in shares.items()
    )


def main(arguments: list[str]) -> int:
    """Run the tests and print the share of each file that is not complete, then of each room. Return 1 when a room has less than
    the least share, and pytest's status when a test fails."""
    tests = [f"tests/{name}" for name in TESTS]
    chosen = [] if any(argument.startswith("tests") for argument in arguments) else tests
    REPORT.unlink(missing_ok=True)
    status = subprocess.run(
        [sys.executable, "-m", "pytest", "--cov", f"--cov-report=json:{REPORT}", *arguments, *chosen], cwd=ROOT, check=False
    ).returncode
    if not REPORT.exists():
        return status
    rooms, files = shares(json.loads(REPORT.read_text()))
    missed = {name: share for name, share in files.items() if share.covered_branches < share.branches}
    print(table(dict(sorted(missed.items(), key=lambda found: found[1].covered_branches - found[1].branches))), end="\n\n")
    print(table(rooms))
    lacking = [room for room, share in rooms.items() if share.of_branches < LEAST]
    if lacking:
        print(f"\nless than {LEAST:.0%} of the branches are covered in: {', '.join(lacking)}", file=sys.stderr)
    return status or int(bool(lacking))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
