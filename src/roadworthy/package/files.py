"""The files of a package on disk: permitted names, hashes, and reading by name.

`pack.py` uses it to describe a folder, `archive.py` to check one. Only names that are clearly harmless are accepted.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Protocol

from roadworthy.foundation.canonical import digest_file
from roadworthy.foundation.documents import Bounds, Key
from roadworthy.foundation.errors import PackageInvalid
from roadworthy.foundation.references import check_digest

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+.-]{0,119}", re.ASCII)
_MAX_PATH_CHARACTERS = 400
_MAX_DEPTH = 24
_CHUNK_BYTES = 1 << 20
DO_NOT_USE = "do not use this package; ask its sender where it came from"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the package: path with forward slashes, `sha256:…` of its bytes, and its size in bytes."""

    path: Annotated[str, check_member]
    sha256: Annotated[str, check_digest]
    size_bytes: Annotated[int, Key("size"), Bounds(0)]


class Files(Protocol):
    """The source of a package's files: a folder or a packed file."""

    def sizes(self) -> Mapping[str, int]:
        """Size of every file in bytes, by path. Raises PackageInvalid for a refused name or kind of file."""
        ...

    def open(self, path: str) -> BinaryIO:
        """Open one file that `sizes` lists."""
        ...


def check_member(path: str) -> str:
    """Return `path` if it is permitted in a package: relative, forward slashes, parts of A-Z a-z 0-9 _ + . - that begin
    with a letter, digit or underscore.

    Raises:
        PackageInvalid: code "unsafe-name".
    """
    parts = path.split("/")
    harmless = len(path) <= _MAX_PATH_CHARACTERS and len(parts) <= _MAX_DEPTH
    if not harmless or not all(_PART.fullmatch(part) and not part.endswith(".") for part in parts):
        raise PackageInvalid(
            f"the package holds a file whose name is not permitted: {path[:100]!a}", code="unsafe-name", hint=DO_NOT_USE
        )
    return path


class FolderFiles:
    """The files of an unpacked package."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sizes(self) -> dict[str, int]:
        """As in Files; links and special files are refused."""
        return dict(sorted(self._walk(self._folder, "")))

    def open(self, path: str) -> BinaryIO:
        """As in Files."""
        try:
            return (self._folder / path).open("rb")
        except FileNotFoundError as error:
            raise damaged(path) from error

    def _walk(self, folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = check_member(prefix + entry.name)
                if entry.is_dir(follow_symlinks=False):
                    yield from self._walk(folder / entry.name, f"{path}/")
                elif entry.is_file(follow_symlinks=False):
                    yield path, entry.stat(follow_symlinks=False).st_size
                else:
                    raise unsafe_member(f"{path} is a link or a special file; a package holds plain files only")


def describe_files(folder: Path) -> tuple[FileEntry, ...]:
    """An entry for every file below `folder`, sorted by path.

    Raises:
        PackageInvalid: a name or a kind of file that is not permitted in a package.
    """
    sizes = FolderFiles(folder).sizes()
    return tuple(FileEntry(path, digest_file(folder / path), size) for path, size in sorted(sizes.items()))


def verify_files(files: Files, entries: Iterable[FileEntry]) -> None:
    """Hash the bytes of every entry.

    Raises:
        PackageInvalid: code "package-damaged" when a file's bytes differ from those that the manifest describes.
    """
    for entry in entries:
        with files.open(entry.path) as handle:
            if hash_blocks(blocks(handle)) != entry.sha256:
                raise damaged(entry.path)


def blocks(handle: BinaryIO) -> Iterator[bytes]:
    """The rest of a file, in pieces that fit in memory."""
    while block := handle.read(_CHUNK_BYTES):
        yield block


def hash_blocks(pieces: Iterable[bytes]) -> str:
    """`sha256:…` of the concatenated pieces."""
    hasher = hashlib.sha256()
    for piece in pieces:
        hasher.update(piece)
    return f"sha256:{hasher.hexdigest()}"


def unsafe_member(problem: str) -> PackageInvalid:
    """The error for a file that may be meant to do harm."""
    return PackageInvalid(problem, code="unsafe-member", hint=DO_NOT_USE)


def damaged(path: str) -> PackageInvalid:
    """The error for a file whose bytes differ from the sealed ones."""
    return PackageInvalid(
        f"{path} is missing, or differs from the file that was packed",
        code="package-damaged",
        hint="the package was damaged or changed after packing: fetch it again, or pack the model again",
        facts={"file": path},
    )
