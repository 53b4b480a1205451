"""Packages as one file: opening without unpacking, unpacking in one step, packing.

The command line, the control plane and agents come in here. A `.rw` file is a zip whose members are stored, not compressed,
sorted and undated, so that equal files give equal bytes. Nothing is imported or executed, and what an attacker could have put
into the zip is refused before anything is written.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Self, cast

from roadworthy.foundation.canonical import digest_bytes
from roadworthy.foundation.errors import Conflict, PackageInvalid
from roadworthy.foundation.files import fsync_folder, remove_tree, temporary_beside
from roadworthy.package import attestations as said
from roadworthy.package.files import Files, FolderFiles, blocks, check_member, damaged, hash_blocks, verify_files
from roadworthy.package.manifest import MANIFEST, MAX_MANIFEST_BYTES, Manifest, read_manifest
from roadworthy.package.package import Package

SUFFIX = ".rw"
_UNDATED = (1980, 1, 1, 0, 0, 0)
_ENCRYPTED = 0x1


class ZipFiles:
    """The files of a packed package. The zip is opened for each read, so that no descriptor stays open."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def sizes(self) -> dict[str, int]:
        """As in Files; anything but plain stored files with harmless names, each once, is refused."""
        try:
            with zipfile.ZipFile(self._path) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
            raise not_a_package() from error
        found: dict[str, int] = {}
        for member in members:
            _check_plain(member)
            found[member.filename] = member.file_size
        if len({name.casefold() for name in found}) != len(members):
            raise _unsafe("the package holds two files of one name")
        if sum(found.values()) > self._path.stat().st_size:
            raise _unsafe("the package holds more than its size allows")
        return found

    def open(self, path: str) -> BinaryIO:
        """As in Files."""
        return cast(BinaryIO, _Member(self._path, path))


class _Member:
    """One member opened for reading, together with the zip that it keeps open."""

    def __init__(self, archive: Path, name: str) -> None:
        try:
            self._archive = zipfile.ZipFile(archive)
            self._handle = self._archive.open(name)
        except (zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, ValueError) as error:
            raise damaged(name) from error
        self._name = name

    def read(self, size: int = -1) -> bytes:
        """Like any file's; a broken member is a damaged package."""
        try:
            return self._handle.read(size)
        except (zipfile.BadZipFile, EOFError) as error:
            raise damaged(self._name) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()
        self._archive.close()


def open_package(path: Path) -> Package:
    """Describe the package at `path`, a folder or a packed file, and check every byte of it against its manifest.

    Raises:
        PackageInvalid: "not-a-package", "unsafe-name", "unsafe-member", "manifest-invalid", "package-format-newer",
            "package-damaged", "package-incomplete", "attestation-invalid" or "signature-invalid".
    """
    if path.is_dir():
        files: Files = FolderFiles(path)
        folder: Path | None = path.absolute()
    elif path.is_file():
        files, folder = ZipFiles(path.absolute()), None
    else:
        raise not_a_package()
    sizes = files.sizes()
    data = _read_bounded(files, sizes, MANIFEST, MAX_MANIFEST_BYTES)
    manifest = read_manifest(data)
    statements = _check_members(sizes, manifest)
    verify_files(files, manifest.files)
    digest = digest_bytes(data)
    beside = {
        name: said.decode_attestation(digest, _read_bounded(files, sizes, path, said.MAX_BYTES))
        for name, path in sorted(statements.items())
    }
    return Package(digest, manifest, beside, files, folder, sum(sizes.values()))


def unpack(path: Path, folder: Path) -> Package:
    """Put the package at `path` into `folder`, which appears whole or not at all, and describe it there.

    A folder that already holds this package is left as it is; one that holds a damaged package is replaced. What an
    interrupted call leaves behind lies beside `folder` and is removed by `foundation.files.sweep_temporary`.

    Raises:
        PackageInvalid: as `open_package`.
        Conflict: code "folder-in-use": `folder` holds something else.
    """
    package = open_package(path)
    if folder.exists() and _holds(folder, package.digest):
        return open_package(folder)
    beside = temporary_beside(folder)
    try:
        _copy_files(package, beside)
        fsync_folder(beside)
        _swap(beside, folder)
    except BaseException:
        if beside.exists():
            remove_tree(beside)
        raise
    fsync_folder(folder.parent)
    return open_package(folder)


def pack_file(folder: Path, path: Path) -> Path:
    """Write the unpacked package in `folder` as the one file `path`, which appears whole or not at all; return `path`.

    Raises:
        PackageInvalid: `folder` does not hold a whole package.
    """
    package = open_package(folder)
    sizes = package.files.sizes()
    ordered = [MANIFEST, *sorted(name for name in sizes if name != MANIFEST)]
    beside = temporary_beside(path)
    try:
        with beside.open("xb") as handle:
            with zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED) as archive:
                for name in ordered:
                    _store(archive, package.files, name, sizes[name])
            handle.flush()
            os.fsync(handle.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)
    return path


def not_a_package() -> PackageInvalid:
    """The error for a path where no package is."""
    return PackageInvalid(
        "that is not a package",
        code="not-a-package",
        hint="give a .rw file that `roadworthy pack` wrote, or the folder that one was unpacked to",
    )


def _check_plain(member: zipfile.ZipInfo) -> None:
    check_member(member.orig_filename)  # as it stands in the zip; zipfile cuts `filename` at a NUL
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG) or member.is_dir():
        raise _unsafe("the package holds a link or a special file")
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise _unsafe("the package is compressed, which packages never are")
    if member.flag_bits & _ENCRYPTED:
        raise _unsafe("the package holds an encrypted file")


def _check_members(sizes: Mapping[str, int], manifest: Manifest) -> dict[str, str]:
    """Compare names and sizes with the manifest; return the paths of the attestations by name."""
    sealed = {entry.path: entry.size_bytes for entry in manifest.files}
    missing = sorted(sealed.keys() - sizes.keys())
    if missing:
        raise PackageInvalid(
            f"{missing[0]} is missing from the package",
            code="package-incomplete",
            hint="fetch it again, or pack the model again",
            facts={"files": missing[:20]},
        )
    statements: dict[str, str] = {}
    for path, size in sizes.items():
        name = said.attestation_name(path)
        if path == MANIFEST:
            continue
        if path in sealed:
            if sealed[path] != size:
                raise damaged(path)
        elif name is not None:
            statements[name] = path
        else:
            raise _unsafe("the package holds a file that its manifest does not name")
    if len(statements) > said.MAX_COUNT:
        raise _unsafe("too many statements lie beside the package")
    return statements


def _read_bounded(files: Files, sizes: Mapping[str, int], path: str, limit: int) -> bytes:
    if path not in sizes:
        raise not_a_package()
    if sizes[path] > limit:
        raise _unsafe(f"{path} is too long")
    with files.open(path) as handle:
        return handle.read(limit)


def _holds(folder: Path, digest: str) -> bool:
    """Whether `folder` holds exactly that package; False when what it holds is damaged."""
    try:
        held = open_package(folder).digest
    except PackageInvalid:
        if (folder / MANIFEST).exists():
            return False
        held = ""
    if held != digest:
        raise Conflict(
            "that folder holds something else", code="folder-in-use", hint="name another folder, or remove it"
        )
    return True


def _swap(beside: Path, folder: Path) -> None:
    """Let `beside` take the place of `folder`, which may be missing or damaged."""
    damaged_one = temporary_beside(folder)
    if folder.exists():
        folder.rename(damaged_one)
    beside.rename(folder)
    if damaged_one.exists():
        remove_tree(damaged_one)


def _copy_files(package: Package, target: Path) -> None:
    digests = {entry.path: entry.sha256 for entry in package.manifest.files}
    folders = {target}
    target.mkdir(mode=0o755)
    for path in package.files.sizes():
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        folders.update(parent for parent in place.parents if target in parent.parents)
        with package.files.open(path) as source, place.open("xb") as sink:
            found = hash_blocks(_written(blocks(source), sink))
            sink.flush()
            os.fsync(sink.fileno())
        if found != digests.get(path, found) or (path == MANIFEST and found != package.digest):
            raise damaged(path)
    for folder in sorted(folders, reverse=True):
        fsync_folder(folder)


def _written(pieces: Iterator[bytes], sink: BinaryIO) -> Iterator[bytes]:
    for piece in pieces:
        sink.write(piece)
        yield piece


def _store(archive: zipfile.ZipFile, files: Files, name: str, size: int) -> None:
    member = zipfile.ZipInfo(name, _UNDATED)
    member.external_attr = (stat.S_IFREG | 0o644) << 16
    member.create_system = 3
    member.file_size = size
    with files.open(name) as source, archive.open(member, "w") as sink:
        for piece in blocks(source):
            sink.write(piece)


def _unsafe(message: str) -> PackageInvalid:
    return PackageInvalid(
        message, code="unsafe-member", hint="do not use this package; ask whoever sent it where it came from"
    )
