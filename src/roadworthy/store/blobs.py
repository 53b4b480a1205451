"""Bytes by name: packages and record files. A folder now; an object store has the same five verbs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from roadworthy.foundation.errors import NotFound, StoreError
from roadworthy.foundation.files import fsync_folder, private_folder, sweep_temporary, temporary_beside

_NAME = re.compile(r"[a-z0-9]+(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,199}){1,3}", re.ASCII)


class BlobStore(Protocol):
    """Where blobs are kept. Names are lower-case folders and one file name; a blob once written is never changed."""

    def put(self, name: str, source: Path) -> None:
        """Keep the bytes of `source` under `name`, whole or not at all; a blob of that name that is there already stays. Nobody
        writes to `source` any more; the caller deletes it when it likes."""
        ...

    def open(self, name: str) -> BinaryIO:
        """The blob's bytes. Raises NotFound."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is one."""
        ...

    def delete(self, name: str) -> None:
        """Forget it; nothing happens when it is not there."""
        ...

    def incoming(self) -> Path:
        """A name for a file that is being received, on the same disk; it is swept at the next start if it stays."""
        ...


class FolderBlobs:
    """Blobs in a folder: one file each, written beside, synced and renamed."""

    def __init__(self, root: Path) -> None:
        """Creates `root` with mode 0700, closes one that is there to strangers, and sweeps what interrupted writes left."""
        self._root = private_folder(root)
        self._incoming = private_folder(root / "incoming")
        mode = stat.S_IMODE(root.stat().st_mode)
        if mode & stat.S_IRWXO:
            with contextlib.suppress(PermissionError):  # another user's folder, who shares it as he likes
                root.chmod(mode & ~stat.S_IRWXO)
        for leftover in self._incoming.iterdir():
            leftover.unlink()
        for folder in self._folders(root):
            sweep_temporary(folder)

    def _folders(self, folder: Path) -> Iterator[Path]:
        yield folder
        for below in folder.iterdir():
            if below.is_dir() and below != self._incoming:
                yield from self._folders(below)

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise StoreError("that cannot name a blob", code="invalid-blob-name")
        return self._root / name

    def put(self, name: str, source: Path) -> None:
        """As in BlobStore."""
        target = self._path(name)
        if target.exists():
            return
        private_folder(target.parent)
        staged = temporary_beside(target)
        try:
            try:
                staged.hardlink_to(source)  # `incoming` is on the same disk: nothing is written twice
            except OSError:
                shutil.copyfile(source, staged)
            descriptor = os.open(staged, os.O_RDONLY)
            try:
                os.fchmod(descriptor, 0o600)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)
        fsync_folder(target.parent)

    def open(self, name: str) -> BinaryIO:
        """As in BlobStore."""
        try:
            return self._path(name).open("rb")
        except FileNotFoundError as error:
            raise NotFound(
                "the bytes are not in the store", code="blob-missing", hint="push the package again"
            ) from error

    def exists(self, name: str) -> bool:
        """As in BlobStore."""
        return self._path(name).is_file()

    def delete(self, name: str) -> None:
        """As in BlobStore."""
        self._path(name).unlink(missing_ok=True)

    def incoming(self) -> Path:
        """As in BlobStore."""
        return temporary_beside(self._incoming / "upload")


def package_blob(digest: str) -> str:
    """The name under which a package is kept."""
    return f"packages/{digest.removeprefix('sha256:')}"
