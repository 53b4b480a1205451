"""D8: a disk that has become read-only, and a log that cannot be written. Serving continues, and the loss is reported.

Folders are mounted read-only over themselves; without the permission to mount, the tests are skipped.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from roadworthy.contract.snapshot import Snapshot, decode_snapshot
from tests.agent.conftest import GATEWAY_KEY, RunningAgent, fake_control, packed  # noqa: F401 - fixtures
from tests.agent.records import record
from tests.control_plane import ControlProcess
from tests.waiting import eventually


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make `folder` read-only for everything opened inside the block."""
    for command in (["mount", "--bind", str(folder), str(folder)], ["mount", "-o", "remount,bind,ro", str(folder)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_d8_a_read_only_disk_under_an_agent(
    tmp_path: Path,
    fake_control: Any,  # noqa: F811 - the fixture
    packed: Any,  # noqa: F811 - the fixture
) -> None:
    """Snapshots reach the workers, lost records are counted, shipped files stay in place; the process is not replaced, and writes
    later what it could not write."""
    entry, data = packed
    folder = tmp_path / "gateway"
    agent = RunningAgent(folder, control_url=fake_control.url, key=GATEWAY_KEY)
    try:
        worker = agent.worker()
        worker.hello()
        fake_control.offer(Snapshot("e", 1))
        assert worker.snapshot().revision == 1
        fake_control.refuse_frames = 10**6  # shipped, but must not be forgotten yet
        worker.send_records([record() for _ in range(10)])
        eventually(lambda: fake_control.records, "a file is shipped")
        with read_only(folder):
            fake_control.packages[entry.digest] = data
            fake_control.offer(Snapshot("e", 2, (entry,)))
            assert worker.snapshot().revision == 2
            assert decode_snapshot((folder / "snapshot.json").read_bytes()).revision == 1
            worker.send_records([record() for _ in range(500)])
            eventually(lambda: agent.metrics()["roadworthy_records_lost_total"] == 500, "records are counted as lost")
            fake_control.refuse_frames = 0
            eventually(lambda: agent.metrics()["roadworthy_record_files"] == 0, "the shipped file is forgotten")
            assert agent.files(), "though it cannot be deleted"
            assert agent.process.poll() is None
        assert worker.snapshot().revision == 2  # the same again: now its package is present
        fake_control.offer(Snapshot("e", 3, (entry,)))
        assert worker.snapshot().revision == 3
        assert decode_snapshot((folder / "snapshot.json").read_bytes()).revision == 3
    finally:
        assert agent.stop() == 0
    log = (folder / "log").read_text()
    for told in ("cannot write the snapshot to disk", "records were lost", "cannot delete a record file"):
        assert told in log


def test_d8_a_read_only_disk_under_a_worker(start_worker: Callable[..., Any], make_plan: Any, tmp_path: Path) -> None:
    """A worker does not need to write."""
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)])
    folder = tmp_path / "gateway"
    worker = start_worker(plan, folder=folder, access_log=True).wait_ready()
    with read_only(folder):
        for _ in range(100):
            assert worker.predict("sum", [[1, 2, 3]]).json() == {"predictions": [6.0]}
        assert worker.client.get("/readyz").status_code == 200


def test_d8_a_read_only_disk_under_the_control_plane(
    tmp_path: Path,
    make_package: Callable[..., Path],
) -> None:
    """A push is refused with "disk-full", whose text says that the disk is not writable; afterwards it succeeds."""
    control = ControlProcess(tmp_path / "control")
    package = make_package().read_bytes()
    try:
        with control.client(control.admin_key) as admin:
            with read_only(tmp_path / "control" / "blobs"):
                reply = admin.post("/api/v1/packages", content=package)
                assert (reply.status_code, reply.json()["code"]) == (503, "disk-full")
                assert "blobs" not in reply.text
                assert admin.get("/readyz").status_code == 200
            assert admin.post("/api/v1/packages", content=package).status_code == 201
    finally:
        control.kill()


def test_d8_logs_on_a_full_disk(start_worker: Callable[..., Any], make_plan: Any, tmp_path: Path) -> None:
    """Every line of the access log fails with ENOSPC, and every request is answered."""
    folder = tmp_path / "gateway"
    folder.mkdir()
    (folder / "log").symlink_to("/dev/full")
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1), plan.package(2, "poison")])
    worker = start_worker(plan, folder=folder, access_log=True).wait_ready()
    for _ in range(200):
        assert worker.predict("sum", [[1, 2, 3]]).json() == {"predictions": [6.0]}
    assert worker.stop() == 0


def test_d8_lost_log_lines_are_told_by_the_metrics(tmp_path: Path) -> None:
    """For an agent whose log cannot be written."""
    folder = tmp_path / "gateway"
    folder.mkdir()
    (folder / "log").symlink_to("/dev/full")
    agent = RunningAgent(folder, log_level="debug")
    try:
        eventually(lambda: agent.metrics()["roadworthy_log_lines_dropped_total"] > 0, "they are counted")
    finally:
        assert agent.stop() == 0
