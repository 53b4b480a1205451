"""Frame kinds between a worker and its agent over their Unix socket (`foundation/frames.py` frames them).

The worker connects, sends HELLO (JSON WorkerReport), then REPORT (JSON WorkerReport) whenever a state changes and RECORDS
(`contract/record.py`) as they come. The agent sends SNAPSHOT (JSON Snapshot) at connect and at each change; every package in
it is on disk, verified, before it is sent.
"""

from __future__ import annotations

HELLO = 1
REPORT = 2
RECORDS = 3
LOST = 4
"""JSON integer: records that the worker had to drop since its last LOST frame."""
SNAPSHOT = 16
