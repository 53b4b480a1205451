"""The start document of runners, and their state file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec

from roadworthy.foundation.child import EXIT_REFUSED
from roadworthy.runtime.runners.isolated import state
from roadworthy.runtime.runners.isolated.launch import RunnerStart, runner_address, runner_command, runner_document
from roadworthy.runtime.runners.isolated.state import RunnerState, StateWriter
from tests.waiting import DEADLINE_S

DIGEST = f"sha256:{'ab' * 32}"


def test_the_document_survives_json(tmp_path: Path) -> None:
    """The runner reads what the parent wrote; each copy has its own address."""
    addresses = [str(runner_address(tmp_path, DIGEST, copy)) for copy in (0, 1)]
    assert len(set(addresses)) == 2
    start = RunnerStart(str(tmp_path), DIGEST, addresses[1], 7.0, "me", copy=1, max_rows=5)
    assert msgspec.convert(json.loads(json.dumps(runner_document(start))), RunnerStart) == start


def test_a_runner_by_hand_refuses() -> None:
    """Without a start document it says so and exits with EXIT_REFUSED."""
    result = subprocess.run(
        [sys.executable, *runner_command()[1:]],
        input="",
        capture_output=True,
        text=True,
        timeout=4 * DEADLINE_S,
        check=False,
    )
    assert result.returncode == EXIT_REFUSED
    assert "by hand" in result.stderr


def test_the_state_is_read_by_pid_and_by_address(tmp_path: Path) -> None:
    """While loading by pid only; with the address by both; after the exit by neither."""
    address = tmp_path / "a.sock"
    writer = StateWriter(address)
    me = os.getpid()
    assert RunnerState.read(address) is None
    loading = RunnerState.read(address, me)
    assert loading is not None
    assert (loading.pid, loading.state, loading.runs) == (me, state.LOADING, 0)
    assert loading.busy_s > 0
    writer.take_address()
    writer.move(state.READY)
    writer.begin()
    busy = RunnerState.read(address)
    assert busy is not None
    assert busy.busy_since_ns > 0
    writer.end()
    idle = RunnerState.read(address)
    assert idle is not None
    assert (idle.state, idle.busy_s, idle.runs) == (state.READY, 0.0, 1)
    writer.remove()
    assert RunnerState.read(address) is RunnerState.read(address, me) is None
    (tmp_path / "a.sock.state").write_bytes(b"short")
    assert RunnerState.read(address) is None
