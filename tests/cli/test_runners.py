"""The part of `roadworthy status` about the runner processes of this machine."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from msgspec import structs

from roadworthy.cli.commands.runners import local_runners, runner_table
from roadworthy.contract.api.endpoints import Endpoint
from tests.contract.filled import filled


def test_runners_that_live_are_shown(tmp_path: Path) -> None:
    """From their state files; files of killed runners, and other files, are ignored."""
    folder = tmp_path / "run" / "runners" / f"{'ab' * 8}-1"
    assert local_runners(tmp_path) == []
    folder.mkdir(parents=True)
    dead = 1 << 22  # above every process number
    for pid in (os.getpid(), dead):
        (folder / f"runner.sock.{pid}.state").write_bytes(struct.pack("=5q", pid, 2, 0, 7, 0))
    of_rule = tmp_path / "run" / "runners" / f"{'cd' * 8}-my-rule.v2-0"
    of_rule.mkdir()
    (of_rule / f"runner.sock.{os.getpid()}.state").write_bytes(struct.pack("=5q", os.getpid(), 1, 0, 0, 0))
    (folder / "runner.sock.state").write_bytes(b"")
    (folder / f"runner.sock.{os.getpid()}x.state").write_bytes(b"")
    runner, rule = local_runners(tmp_path)
    assert runner.pop("resident_bytes") > 1 << 20
    assert runner == {"digest": "ab" * 6, "rule": None, "copy": 1, "pid": os.getpid(), "state": "READY", "runs": 7}
    assert (rule["digest"], rule["rule"], rule["copy"], rule["state"]) == ("cd" * 6, "my-rule.v2", 0, "LOADING")
    endpoint = structs.replace(filled(Endpoint), digest=f"sha256:{'ab' * 32}", version="sums:2", pending=None)
    text = runner_table([{**runner, "resident_bytes": 3 << 20}, rule], [endpoint])
    assert "sums:2" in text
    assert "READY" in text
    assert "my-rule.v2" in text
