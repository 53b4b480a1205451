"""Each example runs as it stands, as a user would run it: in an empty folder, with warnings as errors; only what it imports was
imported before."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine import FREE_PORTS, run_command
from tests.waiting import DEADLINE_S
from tests.warm import nursery
from tests.warm_replays import MODULES

FOLDER = Path(__file__).resolve().parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
NEEDS_SERVER = "`roadworthy up -d`"


def variables(home: Path) -> dict[str, str]:
    """Those of a process with `home` as Roadworthy's home folder."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ROADWORTHY_")}
    return {**clean, "ROADWORTHY_HOME": str(home)}


def printed(result: subprocess.CompletedProcess[str]) -> str:
    """The output of what must succeed."""
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home folder of a running installation on free ports."""
    folder = tmp_path_factory.mktemp("e")
    environment = variables(folder / "home")
    printed(run_command(["up", "-d", *FREE_PORTS], cwd=folder, env=environment))
    yield folder / "home"
    printed(run_command(["stop"], cwd=folder, env=environment))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(example: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """With an installation when it says that it needs one, else without."""
    needs = NEEDS_SERVER in (example.read_text())
    folder = request.getfixturevalue("home") if needs else tmp_path / "home"
    warm = nursery("roadworthy", *MODULES, flags=("-W", "error"))
    assert printed(warm.run([example], cwd=tmp_path, env=variables(folder), timeout=4 * DEADLINE_S))


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
