"""Files are old or new, never half-written; leftovers of interrupted writes are found and deleted."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from roadworthy.foundation import files
from roadworthy.foundation.files import (
    private_folder,
    read_at_most,
    read_long,
    remove_tree,
    sweep_temporary,
    temporary_beside,
    write_atomic,
    write_long,
)


def test_a_write_replaces_the_whole_and_sets_the_mode(tmp_path: Path) -> None:
    """The new bytes have the requested mode, and no other file is left."""
    path = tmp_path / "f"
    path.write_bytes(b"old and longer")
    write_atomic(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_bytes_and_no_rest(tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that refuses to flush or to rename costs the new bytes, never the old ones."""
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((files.os, "fsync") if step == "fsync" else (Path, "replace")), refuse)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_sweep_takes_unfinished_writes_only(tmp_path: Path) -> None:
    """Temporary files and folders are deleted, at this level only; finished files stay."""
    temporary_beside(tmp_path / "a").write_bytes(b"half")
    (temporary_beside(tmp_path / "b") / "inner").mkdir(parents=True)
    (tmp_path / "whole").mkdir()
    kept = temporary_beside(tmp_path / "whole" / "x")
    kept.write_bytes(b"")
    assert sweep_temporary(tmp_path) == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "whole"]
    assert kept.exists()
    assert sweep_temporary(tmp_path / "missing") == 0


def test_links_are_removed_not_followed(tmp_path: Path) -> None:
    """Deleting a tree does not touch the targets of its links."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"x")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "folder").symlink_to(outside)
    (tree / "file").symlink_to(outside / "kept")
    remove_tree(tree)
    assert not tree.exists()
    assert (outside / "kept").read_bytes() == b"x"


def test_private_folders_are_private(tmp_path: Path) -> None:
    """Mode 0700 under any umask, and no error when it exists."""
    before = os.umask(0o000)
    try:
        folder = private_folder(tmp_path / "above" / "p")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "above").stat().st_mode) == 0o700
    assert stat.S_IMODE(private_folder(folder).stat().st_mode) == 0o700


@pytest.mark.parametrize("size", [0, 1, 262_144, 1_000_000])
def test_long_files_are_written_and_read_in_short_calls(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No call has more than 256 KiB, and the bytes are the same, also where the system takes fewer than it was given."""
    data, calls = bytes(range(256)) * (size // 256) + bytes(size % 256), []
    write = os.write

    def write_half(descriptor: int, block: memoryview) -> int:
        calls.append(len(block))
        return write(descriptor, block[: -(-len(block) // 2)])

    monkeypatch.setattr(os, "write", write_half)
    path = tmp_path / "long"
    with path.open("wb", buffering=0) as file:
        write_long(file.fileno(), data)
    assert max(calls, default=0) <= 262_144
    assert read_long(path) == data
    with path.open("rb") as file:
        assert read_at_most(file, 300_000) == data[:300_000]
