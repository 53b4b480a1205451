"""Opens packages, packed or not, and converts between the two forms. Everything is checked before a byte is written.

A packed package is a zip of stored members in a fixed order with fixed times: equal packages are equal files.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from roadworthy.foundation.errors import PackageInvalid
from roadworthy.foundation.files import fsync_folder, remove_tree, temporary_beside
from roadworthy.package import attestations
from roadworthy.package.files import Files, FolderFiles, blocks, check_member, damaged, unsafe_member, verify_files
from roadworthy.package.manifest import MANIFEST, MAX_MANIFEST_BYTES, Manifest, read_manifest
from roadworthy.package.natures import check_natures
from roadworthy.package.package import Package

SUFFIX = ".rw"
MAX_PACKAGE_BYTES = 16 << 30
MAX_MEMBERS = 20_000
_EPOCH = (1980, 1, 1, 0, 0, 0)


def open_package(path: Path) -> Package:
    """Open a .rw file or an unpacked folder, verify every byte, and check the manifest's statements against the files.
    Nothing in the package is imported or executed.

    Raises:
        PackageInvalid: "not-a-package", "package-damaged", "unsafe-name", "unsafe-member", "manifest-invalid",
            "package-format-newer", "attestation-invalid".
    """
    if not path.exists():
        raise PackageInvalid("no such file or folder", code="not-a-package", hint="check the path of the package")
    files: Files = FolderFiles(path) if path.is_dir() else _ZipFiles(path)
    sizes = files.sizes()
    if MANIFEST not in sizes or sizes[MANIFEST] > MAX_MANIFEST_BYTES:
        raise _not_a_package()
    with files.open(MANIFEST) as handle:
        manifest = read_manifest(handle.read())
    said = _check_listing(manifest, sizes)
    verify_files(files, manifest.files)
    statements = {}
    for member in said:
        with files.open(member) as handle:
            kind = member.removeprefix(f"{attestations.FOLDER}/").removesuffix(".json")
            statements[kind] = attestations.read_attestation(handle.read(), manifest.digest)
    package = Package(path, manifest, statements, files)
    check_natures(package)
    return package


def open_profile(handle: BinaryIO) -> Mapping[str, Any]:
    """The training profile of a packed package that was verified before: only this member is read, and it is hashed again.

    Raises:
        PackageInvalid: as `open_package`.
    """
    files = _ZipFiles(handle)
    with files.open(MANIFEST) as member:
        manifest = read_manifest(member.read(MAX_MANIFEST_BYTES))
    return Package(Path(), manifest, {}, files).profile


def _check_listing(manifest: Manifest, sizes: Mapping[str, int]) -> list[str]:
    """Check that every file is the manifest, listed there with its size, or an attestation; return the attestations."""
    listed = {entry.path: entry.size_bytes for entry in manifest.files}
    for path, size in listed.items():
        if sizes.get(path) != size:
            raise damaged(path)
    rest = [path for path in sizes if path not in listed and path != MANIFEST]
    prefix = f"{attestations.FOLDER}/"
    for path in rest:
        plain = path.startswith(prefix) and path.endswith(".json") and path.count("/") == 1
        if not plain or sizes[path] > attestations.MAX_BYTES:
            raise unsafe_member(f"the package holds the file {path}, which its manifest does not list")
    if len(rest) > attestations.MAX_NUMBER:
        raise _not_a_package()
    return rest


class _ZipFiles:
    """The members of a packed file."""

    def __init__(self, path: Path | BinaryIO) -> None:
        try:
            self._archive = zipfile.ZipFile(path)
            self._size = path.stat().st_size if isinstance(path, Path) else path.seek(0, os.SEEK_END)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise _not_a_package() from error

    def sizes(self) -> dict[str, int]:
        """As in Files: only stored, plain, unencrypted members, each name once, within the total size limit."""
        members = self._archive.infolist()
        sizes: dict[str, int] = {}
        folded: set[str] = set()
        for member in members:
            name = check_member(member.filename)
            kind = stat.S_IFMT(member.external_attr >> 16)
            plain = member.compress_type == zipfile.ZIP_STORED and not member.flag_bits  # nothing encrypted or patched
            if not plain or kind not in (0, stat.S_IFREG) or member.file_size != member.compress_size:
                raise unsafe_member(f"{name} is a link, a special file or compressed; a package holds stored files only")
            if name.casefold() in folded:
                raise unsafe_member(f"the package holds the name {name} twice")
            folded.add(name.casefold())
            sizes[name] = member.file_size
        if len(members) > MAX_MEMBERS or sum(sizes.values()) > min(MAX_PACKAGE_BYTES, self._size):
            raise _not_a_package()
        return sizes

    def open(self, path: str) -> BinaryIO:
        """As in Files."""
        try:
            return cast(BinaryIO, _Member(self._archive, path))
        except (zipfile.BadZipFile, OSError, KeyError) as error:
            raise damaged(path) from error


class _Member:
    """An open member. A bad checksum raises PackageInvalid instead of the zip library's own exception."""

    def __init__(self, archive: zipfile.ZipFile, path: str) -> None:
        self._handle = archive.open(path)
        self._path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._handle.close()

    def read(self, size: int = -1) -> bytes:
        """As a binary file's."""
        try:
            return self._handle.read(size)
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise damaged(self._path) from error

    def close(self) -> None:
        """As a binary file's."""
        self._handle.close()


def _not_a_package() -> PackageInvalid:
    return PackageInvalid(
        "not a Roadworthy package", code="not-a-package", hint="give a .rw file or a folder that `roadworthy pack` made"
    )


def unpack(path: Path, folder: Path) -> Package:
    """Unpack the package at `path` into `folder`, completely or not at all; an equal package that is already there stays.

    Raises:
        PackageInvalid: as open_package, before anything is written; "package-damaged" when `folder` holds another package.
    """
    package = open_package(path)
    if folder.exists():
        return _same(package, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = temporary_beside(folder)
    try:
        for member in package.files.sizes():
            _copy(package.files, member, beside / member)
        for below, _, _ in os.walk(beside, topdown=False):
            fsync_folder(Path(below))
        _same(package, beside)  # checks the bytes on disk, not those in memory
        _rename(beside, folder)
    finally:
        if beside.exists():
            remove_tree(beside)
    fsync_folder(folder.parent)
    return _same(package, folder)


def _same(package: Package, folder: Path) -> Package:
    found = open_package(folder)
    if found.digest != package.digest:
        raise damaged(MANIFEST)
    return found


def _copy(files: Files, member: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with files.open(member) as source, target.open("wb") as handle:
        for block in blocks(source):
            handle.write(block)
        handle.flush()
        os.fsync(handle.fileno())


def _rename(beside: Path, folder: Path) -> None:
    try:
        beside.rename(folder)
    except OSError:
        if not folder.is_dir():  # otherwise another process unpacked the same package first
            raise


def pack_file(folder: Path, path: Path) -> Package:
    """Write the unpacked package in `folder` to the file `path`, completely or not at all, replacing an existing file."""
    package = open_package(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = temporary_beside(path)
    try:
        with beside.open("wb") as handle:
            _write_members(package, handle)
            handle.flush()
            os.fsync(handle.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    fsync_folder(path.parent)
    return open_package(path)


def _write_members(package: Package, handle: BinaryIO) -> None:
    with zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED) as archive:
        for member in sorted(package.files.sizes(), key=lambda name: (name != MANIFEST, name)):
            info = zipfile.ZipInfo(member, _EPOCH)
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            with package.files.open(member) as source, archive.open(info, "w", force_zip64=True) as target:
                for block in blocks(source):
                    target.write(block)
