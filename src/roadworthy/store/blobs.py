"""Bytes by name: packages and record files. They lie in a folder, or in a store of a plug-in."""

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
from roadworthy.foundation.plugins import BLOBS, plugins

_NAME = re.compile(r"[a-z0-9]+(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,199}){1,3}", re.ASCII)


class BlobStore(Protocol):
    """Storage of blobs. A name is lower-case folders and one file name; a written blob never changes."""

    def put(self, name: str, source: Path) -> None:
        """Store the bytes of `source` under `name`, whole or not at all; an existing blob of that name stays. No process writes
        to `source` any longer; the caller may delete it at any time."""
        ...

    def open(self, name: str) -> BinaryIO:
        """The blob's bytes. Raises NotFound."""
        ...

    def exists(self, name: str) -> bool:
        """Whether the blob exists."""
        ...

    def delete(self, name: str) -> None:
        """Delete the blob, if it exists."""
        ...

    def incoming(self) -> Path:
        """A name for a file that is being received, on the same disk; if it is left, the next start deletes it."""
        ...


class BlobPlugin(Protocol):
    """Opens stores of one kind. Named by an entry point of the group `roadworthy.blobs`."""

    @property
    def name(self) -> str:
        """The name of its entry point, and the scheme of the addresses that it opens."""
        ...

    @property
    def interface(self) -> int:
        """The version of this interface that it was written for: 1."""
        ...

    def open_store(self, url: str, folder: Path) -> BlobStore:
        """The store at `url`, which is "name:" and what the plug-in makes of the rest. `folder` is private to this control plane:
        what is received lies there first. Several control planes may open one store at a time, each with a folder of its own.

        Raises:
            StoreError: it cannot be opened.
        """
        ...


def open_blobs(url: str | None, folder: Path) -> BlobStore:
    """The store at `url`, whose scheme names the plug-in; None keeps the blobs in `folder`.

    Raises:
        StoreError: "unknown-blob-store", or the store cannot be opened.
    """
    if url is None:
        return FolderBlobs(folder)
    scheme = url.partition(":")[0]
    known = plugins(BLOBS)
    if scheme not in known:
        raise StoreError(
            f"control.blob_url names a store of the kind {scheme!r:.60}, and no plug-in here opens one",
            code="unknown-blob-store",
            hint=f"known here: {', '.join(known)}; `roadworthy plugin list` shows plug-ins that were not loaded",
        )
    try:
        store: BlobStore = known[scheme].open_store(url, folder)
    except StoreError:
        raise
    except Exception as error:  # noqa: BLE001 - a plug-in may raise anything, and its text may repeat the address, which is secret
        raise StoreError(
            f"the blob store of the kind {scheme!r} cannot be opened ({type(error).__name__})",
            code="blob-store-unavailable",
            hint="check the setting control.blob_url and whether the store can be reached",
        ) from None
    return store


class FolderBlobs:
    """Blobs in a folder: one file each, written to a temporary name, synced and renamed."""

    name = "folder"
    interface = 1

    @classmethod
    def open_store(cls, url: str, folder: Path) -> FolderBlobs:
        """As in BlobPlugin: folder:/path keeps them in that folder."""
        path = url.partition(":")[2]
        return cls(Path(path) if path else folder)

    def __init__(self, root: Path) -> None:
        """Create `root` with mode 0700, deny strangers access to an existing one, and delete leftovers of interrupted writes."""
        self._root = private_folder(root)
        self._incoming = private_folder(root / "incoming")
        mode = stat.S_IMODE(root.stat().st_mode)
        if mode & stat.S_IRWXO:
            with contextlib.suppress(PermissionError):  # another user's folder, whose mode is that user's choice
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
            raise StoreError("not a valid blob name", code="invalid-blob-name")
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
                staged.hardlink_to(source)  # `incoming` is on the same disk, so nothing is written twice
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
            raise NotFound("the blob is missing from the store", code="blob-missing", hint="push the package again") from error

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
    """The blob name of a package."""
    return f"packages/{digest.removeprefix('sha256:')}"
