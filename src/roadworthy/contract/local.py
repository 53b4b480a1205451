"""Kinds of frames between a worker and its agent over their Unix socket. `foundation/frames.py` has the framing. A process with
embedded endpoints speaks as a worker does.

The worker connects and sends HELLO (JSON WorkerReport), then REPORT (JSON WorkerReport) whenever a state changes and RECORDS
(`contract/record.py`) as they come. The agent answers HELLO with SNAPSHOT (JSON Snapshot), and sends it at each change; every
package in it is on disk, verified, before it is sent. KEPT_OUT names the versions and rules in quarantine on this machine.
"""

from __future__ import annotations

HELLO = 1
REPORT = 2
RECORDS = 3
SNAPSHOT = 16
KEPT_OUT = 17
"""JSON object of reasons by part, for parts that crashed their processes too often. Always complete."""


def part_of(digest: str, rule: str = "") -> str:
    """The name of a separately executed part: a version, named by its digest, or one of its rules."""
    return f"{digest}/{rule}" if rule else digest


def read_part(part: str) -> tuple[str, str]:
    """Digest and rule from a name that `part_of` made; the rule is "" for the version itself."""
    digest, _, rule = part.partition("/")
    return digest, rule
