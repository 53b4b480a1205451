"""D9: a process killed at any step of writing a package leaves the old or the new one, never a part."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from roadworthy.foundation.files import sweep_temporary
from roadworthy.package.archive import open_package, pack_file, unpack
from tests.waiting import DEADLINE_S
from tests.warm import nursery
from tests.warm_up import MODULES

KEPT = Path(__file__).parents[1] / "formats" / "format-1.rw"

# Counts every step that reaches the disk, and ends by SIGKILL right before step `fatal`.
CHILD = """
import os, signal, sys
from pathlib import Path
from roadworthy.package import archive

verb, source, target, fatal = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
steps = 0

def counted(call):
    def wrapper(*arguments, **named):
        global steps
        if steps == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        steps += 1
        return call(*arguments, **named)
    return wrapper

os.fsync = counted(os.fsync)
for name in ("rename", "replace", "mkdir"):
    setattr(Path, name, counted(getattr(Path, name)))
archive.blocks = counted(archive.blocks)
getattr(archive, verb)(source, target)
print(steps)
"""


def run(verb: str, source: Path, target: Path, fatal: int) -> subprocess.CompletedProcess[str]:
    """Run the verb in a process that dies before step `fatal`."""
    command = ["-c", CHILD, verb, source, target, str(fatal)]
    return nursery(*MODULES).run(command, timeout=4 * DEADLINE_S, cwd=source.parent, env=os.environ)


def steps_of(verb: str, source: Path, target: Path) -> int:
    """Number of steps of the verb when it is not killed."""
    done = run(verb, source, target, -1)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def chosen(steps: int) -> list[int]:
    """The first and last steps and some in between; the last are the folder's fsync, the rename, and the fsync after it."""
    return sorted({0, 1, 2, steps // 2, *range(steps - 4, steps)})


def test_d9_unpack_killed_at_any_step_leaves_nothing_or_all(tmp_path: Path) -> None:
    """After each kill the folder is absent or complete; remains are deleted at start, and a second try succeeds."""
    whole = open_package(KEPT)
    steps = steps_of("unpack", KEPT, tmp_path / "counting" / "package")
    assert steps > len(whole.manifest.files) * 2
    found = []
    for fatal in chosen(steps):
        home = tmp_path / f"killed-{fatal}"
        assert run("unpack", KEPT, home / "package", fatal).returncode == -signal.SIGKILL
        there = (home / "package").exists()
        if there:
            assert open_package(home / "package").digest == whole.digest
        found.append(there)
        left = [entry.name for entry in home.iterdir() if entry.name != "package"] if home.exists() else []
        assert sweep_temporary(home) == len(left)
        assert unpack(KEPT, home / "package").digest == whole.digest
        assert [entry.name for entry in home.iterdir()] == ["package"]
    assert found[0] is False
    assert found[-1] is True


@pytest.mark.parametrize("before", ["old", "nothing"])
def test_d9_a_packed_file_killed_at_any_step_is_old_or_new(before: str, tmp_path: Path) -> None:
    """The file has its old bytes, or all the new ones."""
    folder = unpack(KEPT, tmp_path / "package").path
    new = pack_file(folder, tmp_path / "new.rw").path.read_bytes()
    home = tmp_path / "home"
    home.mkdir()
    target = home / "model.rw"
    steps = steps_of("pack_file", folder, tmp_path / "counting.rw")
    found = []
    for fatal in chosen(steps)[-5:]:
        target.unlink(missing_ok=True)
        if before == "old":
            target.write_bytes(b"old")
        assert run("pack_file", folder, target, fatal).returncode == -signal.SIGKILL
        data = target.read_bytes() if target.exists() else None
        assert data in (b"old" if before == "old" else None, new)
        found.append(data == new)
        left = len(list(home.iterdir())) - target.exists()
        assert sweep_temporary(home) == left
    assert (found[0], found[-1]) == (False, True)
