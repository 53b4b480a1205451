"""The sources contain no built files: wheels, archives, libraries, bytecode. Git ignores the output of builds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

BUILT = (".whl", ".egg", ".tar.gz", ".so", ".dylib", ".pyd", ".pyc", ".pyo", ".o", ".a")


def built_files(root: Path) -> list[str]:
    """Built files that git tracks, or that it neither tracks nor ignores."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return sorted(name for name in set(result.stdout.split("\0")) if name.endswith(BUILT) and (root / name).exists())


def _git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, capture_output=True, check=True)


def test_no_built_file_lies_among_the_sources(root: Path) -> None:
    """Neither tracked nor untracked ones; this needs a checkout."""
    if shutil.which("git") and (root / ".git").exists():
        assert built_files(root) == []


def test_built_files_are_found(tmp_path: Path) -> None:
    """Forcibly added and not yet added files are found; ignored and removed ones are not."""
    if not shutil.which("git"):
        return
    _git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("*.whl\n")
    for name in ("forced.whl", "ignored.whl", "removed.egg", "new.so", "deep/old.tar.gz", "source.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    _git(tmp_path, "add", "-f", "forced.whl", "removed.egg", "deep/old.tar.gz", "source.py")
    (tmp_path / "removed.egg").unlink()
    assert built_files(tmp_path) == ["deep/old.tar.gz", "forced.whl", "new.so"]
