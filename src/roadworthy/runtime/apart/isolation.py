"""What a model in a runner may do to its process without harm to others: a folder of its own, its children gone when it goes.
`process.py` calls."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_REAP_S = 2.0


def private_place(address: Path) -> Path:
    """Make an empty folder for this process beside the address, go there, and sweep what dead runners of the address left."""
    sweep(address)
    place = address.with_name(f"{address.name}.{os.getpid()}.cwd")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    os.chdir(place)
    return place


def settled_place(address: Path) -> Path:
    """The same where the launcher has made the folder and gone there."""
    sweep(address)
    return Path.cwd()


def leave_place(place: Path) -> None:
    """Remove the folder and whatever the model wrote into it."""
    os.chdir("/")
    shutil.rmtree(place, ignore_errors=True)


def sweep(address: Path) -> None:
    """Remove the sockets, state files and folders of runners of this address that were killed, and whatever a model of theirs has
    put beside them: the folder is theirs alone."""
    for path in address.parent.iterdir():
        pid = path.name.removeprefix(f"{address.name}.").partition(".")[0]
        if path.name in (address.name, f"{address.name}.state") or (pid.isdigit() and _is_alive(int(pid))):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def end_children() -> int:
    """Kill and reap all that the model started; how many there were."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans of killed children come here
    ended = 0
    until = time.monotonic() + _REAP_S
    while time.monotonic() < until:
        found = _descendants()
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        ended += _reap()
        if not found:
            return ended
        time.sleep(0.005)
    return ended


def _reap() -> int:
    count = 0
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            count += 1
    return count


def _descendants() -> list[int]:
    """Children of this process, and the other members of its group when it leads one."""
    me = os.getpid()
    group = me if os.getpgrp() == me else -1
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(entry.parent.name)
            _, parent, its_group = entry.read_text().rpartition(")")[2].split()[:3]
            if pid != me and (int(parent) == me or int(its_group) == group):
                found.append(pid)
    return found


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
