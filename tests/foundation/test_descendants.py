"""All descendants of a process are found by the mark that they carry, wherever they went, and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import shared_memory
from pathlib import Path

import pytest

from roadworthy.foundation import descendants
from roadworthy.foundation.descendants import Descendants, Process, is_orphan
from tests.waiting import DEADLINE_S, eventually

SLEEP = "['setsid', 'env', '-i', 'sleep', '600']"


@contextmanager
def root(code: str, mark: bool = True) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process that runs `code`, which prints ids of processes, and then waits to be ended; all are killed at the end."""
    program = "import os, signal, subprocess, sys\nfrom roadworthy.foundation.descendants import take_mark\n"
    program += f"{'take_mark()' if mark else ''}\n{code}\nprint(flush=True)\nsignal.pause()\n"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    try:
        yield process, pids
    finally:
        process.kill()
        process.wait(DEADLINE_S)
        process.stdout.close()
        for pid in pids:
            if (left := Process.seen(pid)) is not None:
                left.kill()


def orphaned(code: str = "") -> str:
    """Has a process start one that leaves session, group, environment and parent."""
    return (
        f"{code}\nread, write = os.pipe()\n"
        "if os.fork() == 0:\n"
        f"    os.write(write, str(subprocess.Popen({SLEEP}).pid).encode())\n    os._exit(0)\n"
        "os.wait()\nprint(os.read(read, 99).decode(), end=' ')"
    )


@pytest.mark.parametrize("mark", [True, False])
def test_g8_what_left_its_session_and_parent_is_found_by_the_mark(mark: bool) -> None:
    """Even after its root was killed. Negative control: without a mark it is not found."""
    with root(orphaned(), mark) as (process, (left,)):
        family = Descendants.of(process.pid)
        eventually(lambda: Path(f"/proc/{left}/cmdline").read_bytes().startswith(b"sleep"), "it has executed")
        found = {member.pid for member in family.members()}
        assert (left in found) == mark
        process.kill()
        process.wait(DEADLINE_S)
        family.end()
        assert (Process.seen(left) is None) == mark


def test_g8_of_a_process_that_asks_for_its_own_kin_it_survives() -> None:
    """It kills its descendants, and continues."""
    code = (
        orphaned()
        + "\nfrom roadworthy.foundation.descendants import Descendants"
        + "\nDescendants.of(os.getpid()).end()\nprint(os.getpid(), end='')"
    )
    with root(code) as (process, (left, itself)):
        assert itself == process.pid
        assert Process.seen(left) is None


def test_g8_an_orphan_is_one_whose_root_has_ended() -> None:
    """Not one whose root lives; one that carries no mark is an orphan."""
    with root(orphaned()) as (process, (left,)):
        seen = Process.seen(left)
        assert seen is not None
        assert not is_orphan(seen)
        process.kill()
        eventually(lambda: is_orphan(seen), "its root has ended, although its parent has not waited for it")
    here = Process.seen(os.getpid())
    assert here is not None
    assert (here.carries, is_orphan(here)) == (0, True)


def test_g8_a_root_is_told_from_a_later_process_of_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its start time."""
    with root(orphaned()) as (process, (left,)):
        seen, first = Process.seen(left), Process.seen(process.pid)
        assert seen is not None
        assert first is not None
        later = Process(first.pid, first.parent, first.group, first.session, first.started + 1)
        monkeypatch.setattr(descendants.Process, "seen", lambda _pid: later)
        assert is_orphan(seen)


def test_g8_helpers_that_tidy_up_do_so_before_they_end() -> None:
    """The helper of multiprocessing removes shared memory of a killed owner, and is not killed before that."""
    code = (
        "from multiprocessing import shared_memory\nmemory = shared_memory.SharedMemory(create=True, size=64)\n"
        "print(memory.name.removeprefix('psm_').encode().hex().replace('a', '0') and int(memory.name[4:], 16), end='')"
    )
    with root(code) as (process, (number,)):
        name = f"psm_{number:08x}"
        shared_memory.SharedMemory(name).close()  # it is there
        family = Descendants.of(process.pid)
        assert any(member.tidies for member in family.members())
        process.kill()
        family.end()
        assert family.members() == []
        with pytest.raises(FileNotFoundError):
            shared_memory.SharedMemory(name)


def test_g8_those_who_ignore_signals_end_too() -> None:
    """And stopped processes."""
    code = "child = subprocess.Popen(['sh', '-c', \"trap '' TERM INT HUP; kill -STOP $$; sleep 600\"])\nprint(child.pid, end='')"
    with root(code) as (process, (child,)):
        family = Descendants.of(process.pid)
        process.send_signal(signal.SIGSTOP)
        family.end()
        assert Process.seen(child) is None
        assert process.wait(DEADLINE_S) == -signal.SIGKILL
