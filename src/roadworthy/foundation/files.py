"""Files that are either old or new, never half: write beside, fsync, rename, fsync the folder."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import BinaryIO

TEMPORARY_MARK = ".tmp-"
_PRIVATE_FILE = 0o600
_PRIVATE_FOLDER = 0o700


def keep_private() -> None:
    """Let whatever this process writes from now on be its own user's only, under any umask that it was started with: files that
    libraries make (a database, its journal) as well as ours. For processes that are Roadworthy's own, never for a user's."""
    os.umask(0o077)


def create_private(path: Path) -> BinaryIO:
    """Open the new file `path` for writing, with mode 0600.

    Raises:
        FileExistsError: there is one.
    """
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE_FILE), "wb")


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `data` in one step; a reader sees the old bytes or the new ones. `mode` is set before any byte lands."""
    beside = temporary_beside(path)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), mode)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
        raise
    fsync_folder(path.parent)


def temporary_beside(path: Path) -> Path:
    """A name in the same folder that `sweep_temporary` recognises as an unfinished write."""
    return path.with_name(f"{TEMPORARY_MARK}{secrets.token_hex(6)}-{path.name}")


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_temporary(folder: Path) -> int:
    """Delete what interrupted writes left in `folder` (not below it); return how many names went. Call only at start."""
    swept = 0
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name.startswith(TEMPORARY_MARK):
            remove_tree(entry)
            swept += 1
    return swept


def remove_tree(path: Path) -> None:
    """Delete a file or a folder with all below it; links are removed, not followed."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for entry in path.iterdir():
        remove_tree(entry)
    path.rmdir()


def private_folder(path: Path) -> Path:
    """Create `path`, and what is missing above it, with mode 0700 under any umask; return it."""
    for folder in reversed((path, *path.parents)):
        folder.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)
    return path
