"""D7: the disk is full, with any amount of space left: no file is torn, serving continues, and with space all recovers.

The disk is a small one in memory, mounted for the test; without the permission to mount, the tests are skipped.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from roadworthy.contract.snapshot import Snapshot, decode_snapshot
from roadworthy.foundation.files import TEMPORARY_MARK, write_atomic
from roadworthy.foundation.slab import SlotWriter, create_slab
from roadworthy.package.archive import open_package
from tests.agent.conftest import GATEWAY_KEY, RunningAgent, fake_control, packed  # noqa: F401 - fixtures
from tests.agent.records import record
from tests.control_plane import ControlProcess
from tests.waiting import eventually

PAGE = 4_096
ROOM = [0, 1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48]
"""Numbers of free pages to try, from none to more than enough."""


class Disk:
    """A disk of a few megabytes."""

    def __init__(self, path: Path, size: str) -> None:
        self.path = path
        path.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"a disk cannot be mounted here: {done.stderr.strip()}")
        self._filler = path / "filler"

    def fill(self, pages_left: int = 0) -> None:
        """Fill the disk up to that many free pages."""
        free = os.statvfs(self.path).f_bavail - pages_left
        with self._filler.open("ab") as filler:
            for _ in range(max(free, 0)):
                filler.write(b"\1" * PAGE)
                filler.flush()

    def empty(self) -> None:
        """Free all the space."""
        self._filler.unlink(missing_ok=True)

    def temporary(self) -> list[Path]:
        """The remains of unfinished writes."""
        return [path for path in self.path.rglob(f"{TEMPORARY_MARK}*") if path.exists()]

    def unmount(self) -> None:
        """Gone."""
        subprocess.run(["umount", "-l", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Eight megabytes."""
    made = Disk(tmp_path / "disk", "8m")
    yield made
    made.unmount()


def test_d7_a_file_is_old_or_new_at_every_amount_of_room(disk: Disk) -> None:
    """A file that cannot be written completely is not written at all, and leaves nothing."""
    path = disk.path / "file"
    old, new = b"o" * 9 * PAGE, b"n" * 9 * PAGE
    write_atomic(path, old)
    failed = 0
    for pages in ROOM:
        disk.fill(pages)
        try:
            write_atomic(path, new)
        except OSError:
            failed += 1
            assert path.read_bytes() == old
        else:
            assert path.read_bytes() == new
        assert disk.temporary() == []
        disk.empty()
        write_atomic(path, old)
    assert 0 < failed < len(ROOM)


def test_d7_a_slab_is_whole_or_not_there(disk: Disk) -> None:
    """All its space is allocated when it is made, so that later counting cannot meet a full disk."""
    path = disk.path / "run" / "slab"
    disk.fill(100)
    with pytest.raises(OSError, match="No space left"):
        create_slab(path, 4)
    assert not path.exists()
    assert disk.temporary() == []
    disk.empty()
    create_slab(path, 3)
    disk.fill()
    writer = SlotWriter(path, 0)
    writer.take()
    for number in range(4_000):
        writer.values[writer.place(f"run {number}", width=8)] += 1
    assert writer.fullness > 0.9


def test_d7_control_actions_fail_cleanly_at_every_amount_of_room(
    disk: Disk,
    make_package: Callable[..., Path],
) -> None:
    """An action is done, or refused with 503 "disk-full" and not done. The database stays intact, blobs match their names,
    reading continues, and with space everything works."""
    control = ControlProcess(disk.path / "control")
    package = make_package().read_bytes()
    try:
        with control.client(control.admin_key) as admin:
            keys = 2
            codes = set()
            for pages in ROOM:
                disk.fill(pages)
                for reply in (
                    admin.post("/api/v1/keys", json={"role": "predictor"}),
                    admin.post("/api/v1/packages", content=package),
                    admin.put("/api/v1/endpoints/line", json={"version": "line:1"}),
                ):
                    codes.add((reply.status_code, reply.json().get("code")))
                    keys += reply.request.url.path.endswith("keys") and reply.status_code == 201
                assert admin.get("/livez").status_code == 200
                assert admin.get("/docs").status_code == 200
                disk.empty()
                assert disk.temporary() == []
            assert codes <= {(503, "disk-full"), (201, None), (200, None), (202, None), (404, "unknown-version")}, codes
            assert (503, "disk-full") in codes
            assert len(admin.get("/api/v1/keys").json()["items"]) == keys
            assert admin.post("/api/v1/packages", content=package).status_code in (200, 201)
            assert admin.put("/api/v1/endpoints/line", json={"version": "line:1"}).status_code in (200, 202)
        with closing(sqlite3.connect(control.folder / "roadworthy.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        blobs = [path for path in (control.folder / "blobs").rglob("*") if path.is_file()]
        assert len(blobs) == 1
        assert open_package(blobs[0]).digest == f"sha256:{blobs[0].name}"
    finally:
        control.kill()


def test_d7_the_data_plane_serves_on(
    disk: Disk,
    fake_control: Any,  # noqa: F811 - the fixture
    packed: Any,  # noqa: F811 - the fixture
) -> None:
    """A full disk under an agent: snapshots reach workers from memory, the one on disk stays intact, lost records are counted,
    and a package that does not fit is fetched when it does."""
    entry, data = packed
    folder = disk.path / "gateway"
    agent = RunningAgent(folder, control_url=fake_control.url, key=GATEWAY_KEY, disk_reserve_bytes=0)
    try:
        worker = agent.worker()
        worker.hello()
        fake_control.offer(Snapshot("e", 1))
        assert worker.snapshot().revision == 1
        disk.fill()
        fake_control.packages[entry.digest] = data
        fake_control.offer(Snapshot("e", 2, (entry,)))
        assert worker.snapshot().revision == 2
        assert decode_snapshot((folder / "snapshot.json").read_bytes()).revision == 1
        assert not (folder / "packages" / entry.digest[7:]).exists()
        worker.send_records([record() for _ in range(500)])
        eventually(lambda: agent.metrics()["roadworthy_records_lost_total"] == 500, "records are counted as lost")
        assert agent.metrics()["roadworthy_disk_free_bytes"] == 0
        assert [path for path in disk.temporary() if path.parent.name != "packages"] == []
        disk.empty()
        assert worker.snapshot().revision == 2  # the same again: now its package is present
        assert (folder / "packages" / entry.digest[7:] / "manifest.json").exists()
        worker.send_records([record() for _ in range(500)])
        eventually(lambda: fake_control.records, "records are kept and shipped again")
        assert agent.metrics()["roadworthy_records_lost_total"] == 500
    finally:
        assert agent.stop() == 0


def test_d7_records_leave_a_reserve(disk: Disk) -> None:
    """Below the reserve no records are written, which leaves space for snapshots and packages; each change is logged once."""
    folder = disk.path / "gateway"
    agent = RunningAgent(folder, disk_reserve_bytes=64 * PAGE)
    try:
        worker = agent.worker()
        worker.hello()
        disk.fill(50)
        for _ in range(3):
            worker.send_records([record() for _ in range(10)])
        eventually(lambda: agent.metrics()["roadworthy_records_lost_total"] == 30, "records are counted as lost")
        assert agent.files() == []
        disk.empty()
        worker.send_records([record() for _ in range(10)])
        eventually(agent.files, "they are kept again")
    finally:
        assert agent.stop() == 0
    log = (folder / "log").read_text()
    assert log.count("the disk is nearly full") == 1
    assert log.count("has room again") == 1
