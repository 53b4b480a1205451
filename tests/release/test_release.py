"""`make release`: its wheel runs in an empty environment, and its notes come from the changelog."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from roadworthy.version import __version__
from tests.waiting import DEADLINE_S

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "release.py"
CHANGELOG = "# Changelog\n\n## Unreleased\n\n- new\n\n## 1.0.1 (2026-01-02)\n\n- mended\n\n## 1.0.0\n\n"


@pytest.fixture(scope="module")
def release() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("release", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_notes_come_from_the_section_of_the_version(release: ModuleType) -> None:
    """Or from Unreleased, which the notes then say."""
    assert release.section(CHANGELOG, "1.0.1") == "- mended"
    unreleased = release.section(CHANGELOG, "1.1.0")
    assert unreleased.startswith("**Not released yet")
    assert unreleased.endswith("- new")


def test_a_release_without_notes_is_refused(release: ModuleType) -> None:
    """Neither a section of the version nor one of what is unreleased."""
    with pytest.raises(release.ReleaseError, match=r"no text under '## 2\.0\.0'"):
        release.section("# Changelog\n\n## 1.0.0\n\n", "2.0.0")


def test_a_failed_command_is_told_with_its_output(release: ModuleType) -> None:
    """So that the reason is seen."""
    with pytest.raises(release.ReleaseError, match="no such thing"):
        release.run(sys.executable, "-c", "import sys; sys.exit('no such thing')")


def test_the_release_builds_archives_that_install_and_run(tmp_path: Path) -> None:
    """Both archives, their checksums and the notes lie in the folder; the script itself installs and runs the wheel."""
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=4 * DEADLINE_S, check=False)
    assert result.returncode == 0, result.stderr
    names = {f"roadworthy-{__version__}.tar.gz", f"roadworthy-{__version__}-py3-none-any.whl"}
    assert {path.name for path in tmp_path.iterdir()} - {".gitignore"} == {*names, "SHA256SUMS", "RELEASE.md"}
    sums = dict(line.split()[::-1] for line in (tmp_path / "SHA256SUMS").read_text().splitlines())
    assert sums == {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in names}
    assert __version__ in (tmp_path / "RELEASE.md").read_text()
