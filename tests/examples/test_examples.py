"""Each example runs as it stands, as a user would run it: in an empty folder, with warnings as errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import DEADLINE_S

FOLDER = Path(__file__).resolve().parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
COMMAND = str(Path(sys.executable).with_name("roadworthy"))
NEEDS_SERVER = "`roadworthy up -d`"


def execute(command: list[str], folder: Path, home: Path) -> str:
    """Run a command in `folder` with `home` as Roadworthy's home folder; its output."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ROADWORTHY_")}
    result = subprocess.run(
        command,
        cwd=folder,
        env={**clean, "ROADWORTHY_HOME": str(home)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=4 * DEADLINE_S,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home folder of a running installation on free ports."""
    folder = tmp_path_factory.mktemp("e")
    ports = ["--port", "0", "--control-port", "0", "--metrics-port", "0"]
    execute([COMMAND, "up", "-d", *ports, "--workers", "1"], folder, folder / "home")
    yield folder / "home"
    execute([COMMAND, "stop"], folder, folder / "home")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(example: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """With an installation when it says that it needs one, else without."""
    needs = NEEDS_SERVER in (example.read_text())
    folder = request.getfixturevalue("home") if needs else tmp_path / "home"
    assert execute([sys.executable, "-W", "error", str(example)], tmp_path, folder)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_in_notebook_form(example: Path) -> None:
    """Titled cells, beginning with one that holds the imports."""
    titles = re.findall(r"^# %% .+$", example.read_text(), flags=re.MULTILINE)
    assert len(titles) >= 3
    assert len(re.findall(r"^# %%", example.read_text(), flags=re.MULTILINE)) == len(titles)


def test_the_table_of_examples_is_complete() -> None:
    """Each example is in the README, which says whether it needs an installation."""
    rows = re.findall(r"^\| \[(\w+)\.py\]\(\1\.py\) \|.*\| (.*)\|$", (FOLDER / "README.md").read_text(), flags=re.MULTILINE)
    assert {name for name, _ in rows} == {path.stem for path in EXAMPLES}
    for name, needs in rows:
        assert (NEEDS_SERVER in (FOLDER / f"{name}.py").read_text()) == (NEEDS_SERVER in needs), name
