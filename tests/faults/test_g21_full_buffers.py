"""G21: a full buffer resumes by itself once it has room; losses are counted and reported at once."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.agent.conftest import GATEWAY_KEY, RunningAgent, fake_control  # noqa: F401 - the fixture
from tests.waiting import eventually

ROWS = [[1.0, 2.0, 3.0]] * 4_000
"""A body of about 60 kB: a few hundred of them fill the worker's buffer."""


def test_g21_an_agent_stands_still_until_the_workers_buffer_is_full(
    start_worker: Callable[..., Any],
    make_plan: Any,
    tmp_path: Path,
    fake_control: Any,  # noqa: F811 - the fixture
) -> None:
    """SIGSTOP until records are dropped, then SIGCONT: all buffered records arrive without further requests, and all later ones
    do. The loss is on /metrics, in telemetry and in the worker's log, and requests are answered throughout."""
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)])
    worker = start_worker(plan, folder=tmp_path / "gateway").wait_ready()
    agent = RunningAgent(tmp_path / "gateway", control_url=fake_control.url, key=GATEWAY_KEY)
    asked = 0

    def ask(times: int = 1) -> None:
        nonlocal asked
        for _ in range(times):
            assert worker.predict("sum", ROWS).status_code == 200
            asked += 1

    def recorded() -> int:
        """The number of records reported to the control plane."""
        files = {file.blob: file.rows for frame in fake_control.frames for file in frame.record_files}
        return sum(files.values())

    def log() -> list[dict[str, Any]]:
        *lines, _unfinished = (tmp_path / "gateway" / "log").read_text().split("\n")
        return [json.loads(line) for line in lines]

    try:
        ask()
        eventually(lambda: recorded() == 1, "the first record arrives")
        agent.process.send_signal(signal.SIGSTOP)
        try:
            eventually(lambda: ask(10) or "records-dropped" in str(log()), "records are dropped, and the log says so")
        finally:
            agent.process.send_signal(signal.SIGCONT)
        lost = int(eventually(lambda: agent.metrics()["roadworthy_records_lost_total"], "/metrics tells the loss"))
        eventually(lambda: fake_control.frames[-1].lost_records == lost, "telemetry tells it")
        eventually(lambda: recorded() == asked - lost, "all that was kept arrives")
        ask(20)
        eventually(lambda: recorded() == asked - lost, "all later ones arrive")
        assert agent.metrics()["roadworthy_records_lost_total"] == lost

        def told() -> int:
            """Over all ends: a slow agent lets the buffer become full again before it has caught up."""
            return sum(line["dropped"] for line in log() if line["event"] == "records-kept-again")

        eventually(lambda: told() == lost, "the log tells the end")
    finally:
        agent.stop()


def test_g21_dropped_log_lines_are_told_to_the_control_plane(
    tmp_path: Path,
    fake_control: Any,  # noqa: F811 - the fixture
) -> None:
    """For an agent whose log cannot be written; each worker's report has the number for the whole gateway."""
    folder = tmp_path / "gateway"
    folder.mkdir()
    (folder / "log").symlink_to("/dev/full")
    agent = RunningAgent(folder, control_url=fake_control.url, key=GATEWAY_KEY, log_level="debug")
    try:
        agent.worker().hello()
        eventually(
            lambda: any(worker.log_lines_dropped for frame in fake_control.frames for worker in frame.workers),
            "telemetry tells them",
        )
    finally:
        agent.stop()
