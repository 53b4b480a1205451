"""The private folder of a runner, in which its model may write."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from roadworthy.foundation.descendants import is_running


def private_place(address: Path) -> Path:
    """Create an empty folder for this process next to the address, change to it, and delete leftovers of earlier runners."""
    sweep(address)
    place = address.with_name(f"{address.name}.{os.getpid()}.cwd")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    os.chdir(place)
    return place


def settled_place(address: Path) -> Path:
    """The private folder that the launcher has created and changed to; also delete leftovers of earlier runners."""
    sweep(address)
    return Path.cwd()


def leave_place(place: Path) -> None:
    """Delete the folder with everything that the model wrote into it."""
    os.chdir("/")
    shutil.rmtree(place, ignore_errors=True)


def sweep(address: Path) -> None:
    """Delete sockets, state files and folders of killed runners of this address, and everything that their models put next to
    them: the folder belongs to these runners alone."""
    for path in address.parent.iterdir():
        pid = path.name.removeprefix(f"{address.name}.").partition(".")[0]
        if path.name in (address.name, f"{address.name}.state") or (pid.isdigit() and is_running(int(pid))):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
