"""The agent's judgement of a runner by what it shows."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from roadworthy.agent.runners.watch import KILL, STILL, Growth, RunnerWatch
from roadworthy.runtime.placement import Placed
from roadworthy.runtime.runners.isolated.state import LOADING, READY, StateWriter


@pytest.mark.parametrize("state", [LOADING, READY])
def test_g10_a_runner_whose_folder_is_gone_is_replaced(tmp_path: Path, state: int) -> None:
    """No worker can connect to it any longer; its last state may have been LOADING, which has minutes."""
    address = tmp_path / "place" / "runner.sock"
    address.parent.mkdir()
    writer = StateWriter(address)
    if state != LOADING:
        writer.move(state)
    watch, placed = RunnerWatch(address, os.getpid(), 600.0), Placed("process", "planted")

    def verdict() -> tuple[str, str] | None:
        watch.look()
        return watch.judge(placed, Growth(None))

    assert [verdict() for _ in range(9)] == [None] * 9
    shutil.rmtree(address.parent)
    assert [verdict() for _ in range(4)] == [None, None, None, (KILL, STILL)]
