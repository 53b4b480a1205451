"""The private folder of a runner, in which its model may write. `process.py` calls."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


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


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
