"""Frame kinds between a worker and its agent over their Unix socket (`foundation/frames.py` frames them).

The worker connects, sends HELLO (JSON WorkerReport), then REPORT (JSON WorkerReport) whenever a state changes and RECORDS
(`contract/record.py`) as they come. The agent sends SNAPSHOT (JSON Snapshot) at connect and at each change; every package in
it is on disk, verified, before it is sent. KEPT_OUT names the versions that may not execute on this machine for now.
"""

from __future__ import annotations

HELLO = 1
REPORT = 2
RECORDS = 3
SNAPSHOT = 16
KEPT_OUT = 17
"""JSON object, reasons by digest: versions that crashed their processes too often. Always the whole of them."""
