"""Files that are either old or new, never half-written: write a temporary file, fsync it, rename it, fsync the folder."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO

TEMPORARY_MARK = ".tmp-"
_PRIVATE_FILE = 0o600
_PRIVATE_FOLDER = 0o700
_CALL_BYTES = 256 << 10
"""The bytes of one system call, about 1 ms of processor time. Many kernels give the core to no other process in the middle of a
call: a worker waited 130 ms while another process of its core read 32 MiB at once."""


def keep_private() -> None:
    """Make all files that this process creates from now on private to its user, whatever its umask was: those of libraries (a
    database, its journal) too. For Roadworthy's own processes, never for a user's process."""
    os.umask(0o077)


def create_private(path: Path) -> BinaryIO:
    """Open the new file `path` for writing, with mode 0600.

    Raises:
        FileExistsError: the file exists.
    """
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE_FILE), "wb")


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace the content of `path` in one step: a reader sees the old bytes or the new ones. `mode` holds from the first
    byte."""
    temporary = temporary_beside(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), mode)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    fsync_folder(path.parent)


def write_long(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data`, however long, without keeping others from the core.

    Raises:
        OSError: a part was not written.
    """
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left[:_CALL_BYTES]) :]


def read_long(path: Path) -> bytes:
    """Read a file, however long, without keeping others from the core.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        return read_at_most(file, sys.maxsize)


def read_at_most(file: BinaryIO | RawIOBase, most_bytes: int) -> bytes:
    """Read on to the end of a file, or that many bytes, without keeping others from the core.

    Raises:
        OSError: it cannot be read.
    """
    blocks = []
    while block := file.read(min(_CALL_BYTES, most_bytes)):
        blocks.append(block)
        most_bytes -= len(block)
    return b"".join(blocks)


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
    """Delete unfinished writes in `folder` (not below it); return how many were deleted. Call only at start."""
    swept = 0
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name.startswith(TEMPORARY_MARK):
            remove_tree(entry)
            swept += 1
    return swept


def remove_tree(path: Path) -> None:
    """Delete a file, or a folder with its whole content; links are deleted, not followed."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for entry in path.iterdir():
        remove_tree(entry)
    path.rmdir()


def private_folder(path: Path) -> Path:
    """Create `path` and its missing parents with mode 0700 under any umask; return it."""
    for folder in reversed((path, *path.parents)):
        folder.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)
    return path
