"""Blobs: whole or not at all, whatever happens in between."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from roadworthy.foundation.errors import NotFound, StoreError
from roadworthy.store.blobs import FolderBlobs, package_blob

_KILLED_PUT = """
import os, signal, sys
from pathlib import Path
from roadworthy.foundation import files
from roadworthy.store import blobs
step, root, source = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
def die(*a, **k): os.kill(os.getpid(), signal.SIGKILL)
store = blobs.FolderBlobs(root)
def refuse(*a): raise OSError
def half(r, w): w.write_bytes(r.read_bytes()[:10]); die()
if step == "link": Path.hardlink_to = die
if step in ("copy", "copy-fsync"): Path.hardlink_to = refuse
if step == "copy": blobs.shutil.copyfile = half
step = step.removeprefix("copy-")
if step == "fsync": blobs.os.fsync = die
if step == "rename": Path.replace = die
if step == "fsync-folder": blobs.fsync_folder = die
store.put("packages/" + "a" * 64, source)
"""


def test_put_and_open(tmp_path: Path) -> None:
    """The stored bytes come back, and a second put of the name changes nothing."""
    store = FolderBlobs(tmp_path / "blobs")
    for content in (b"first", b"second"):
        source = store.incoming()
        source.write_bytes(content)
        store.put("packages/abc", source)
        source.unlink()
    with store.open("packages/abc") as handle:
        assert handle.read() == b"first"
    assert store.exists("packages/abc")
    store.delete("packages/abc")
    store.delete("packages/abc")
    with pytest.raises(NotFound):
        store.open("packages/abc")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "packages", "packages/..", "packages//a", "a/b/c/d/e", "packages/.a"])
def test_names_are_checked(tmp_path: Path, name: str) -> None:
    """F9: a blob's name never leaves the folder."""
    with pytest.raises(StoreError):
        FolderBlobs(tmp_path).open(name)


@pytest.mark.parametrize("step", ["link", "copy", "copy-fsync", "fsync", "rename", "fsync-folder"])
def test_d9_killed_between_steps_shows_old_or_new_never_half(tmp_path: Path, step: str) -> None:
    """D9: kill -9 at each step of a write; afterwards the blob is absent or whole, and leftovers are swept at start."""
    root, source = tmp_path / "blobs", tmp_path / "source"
    source.write_bytes(b"x" * 100_000)
    done = subprocess.run([sys.executable, "-c", _KILLED_PUT, step, str(root), str(source)], check=False)
    assert done.returncode == -9
    store = FolderBlobs(root)
    name = package_blob("sha256:" + "a" * 64)
    if store.exists(name):
        with store.open(name) as handle:
            assert handle.read() == source.read_bytes()
    assert (step == "fsync-folder") == store.exists(name)
    assert list((root / "packages").glob(".tmp-*")) == []
    store.put(name, source)
    assert store.exists(name)
