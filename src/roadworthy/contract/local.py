"""Frame kinds between a worker and its agent over their Unix socket (`foundation/frames.py` frames them).

The worker connects, sends HELLO (JSON WorkerReport), then REPORT (JSON WorkerReport) whenever a state changes and RECORDS
(`contract/record.py`) as they come. The agent sends SNAPSHOT (JSON Snapshot) at connect and at each change; every package in
it is on disk, verified, before it is sent. KEPT_OUT names the versions and rules that may not execute on this machine for now.
"""

from __future__ import annotations

HELLO = 1
REPORT = 2
RECORDS = 3
SNAPSHOT = 16
KEPT_OUT = 17
"""JSON object, reasons by part: what crashed its processes too often. Always the whole of them."""


def part_of(digest: str, rule: str = "") -> str:
    """The name of what executes by itself: a version, which is called by its digest, or one of its rules."""
    return f"{digest}/{rule}" if rule else digest


def read_part(part: str) -> tuple[str, str]:
    """Digest and rule of what `part_of` has named; the rule is "" for the version itself."""
    digest, _, rule = part.partition("/")
    return digest, rule
