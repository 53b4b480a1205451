"""The previous release next to today's: taken out of git into a folder of its own, with an interpreter that finds it first."""

from __future__ import annotations

import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

COMMIT = "51361afb8017966da5e526f19558b5cfc1d1f747"
"""The last commit before the rooms and the words of the code changed. A later release replaces it here."""
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of the previous release. It and all processes that it starts run the code of COMMIT, with the libraries of
    today's environment.

    Needs a clone with history: a shallow one lacks COMMIT, and these tests fail there.
    """
    folder = tmp_path_factory.mktemp("older")
    archive = subprocess.run(["git", "archive", COMMIT, "src"], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    subprocess.run(["tar", "-x"], cwd=folder, input=archive, check=True)
    venv.create(folder / "env", symlinks=True)
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    # Python reads no .pth files in the second folder, so the one that makes today's checkout importable does not count.
    (site / "older.pth").write_text(f"{folder / 'src'}\n{sysconfig.get_path('purelib')}\n")
    python = folder / "env" / "bin" / "python"
    found = subprocess.run(
        [python, "-I", "-c", "import roadworthy; print(roadworthy.__file__)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    assert found == str(folder / "src" / "roadworthy" / "__init__.py")
    return python
