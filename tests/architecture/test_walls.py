"""Walls between packages: the import contracts of pyproject.toml hold, and no modules import each other in a cycle."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grimp
import pytest

from tests.waiting import DEADLINE_S

Plant = Callable[[dict[str, str]], Path]


def walls(root: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter over `root`, a folder that holds pyproject.toml and src/roadworthy."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    return subprocess.run(
        command,
        cwd=root,
        env={"PYTHONPATH": str(root / "src"), "COLUMNS": "250"},
        capture_output=True,
        text=True,
        timeout=4 * DEADLINE_S,
        check=False,
    )


def cycles(source: Path) -> list[str]:
    """Groups of modules that import each other, at module level, inside functions, or for type checkers only."""
    sys.path.insert(0, str(source.parent))
    try:
        graph = grimp.build_graph(source.name, cache_dir=None, exclude_type_checking_imports=False)
    finally:
        sys.path.remove(str(source.parent))
    reaches = {module: graph.find_downstream_modules(module) for module in graph.modules}
    return sorted(
        " <-> ".join(sorted({module, other}))
        for module in graph.modules
        for other in reaches[module]
        if module < other and module in reaches[other]
    )


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """A copy of the repository's sources and contracts that a test may change."""
    shutil.copytree(root / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_walls_stand(root: Path) -> None:
    """Every import contract is kept."""
    result = walls(root)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("schema/planted.py", "import roadworthy.package", "The data side imports downwards only"),
        ("registry/planted.py", "import roadworthy.access", "and its subjects are unaware of each other"),
        ("gateway/planted.py", "import roadworthy.store", "The data side never imports the control side"),
        ("control/planted.py", "import roadworthy.gateway", "The control side never imports the data side"),
        (
            "supervisor/plan.py",
            "import roadworthy.schema",
            "The supervisor knows the ground floor only",
        ),
        ("frameworks/planted.py", "import roadworthy.frameworks.onnx", "Frameworks are unaware of each other"),
        (
            "gateway/planted.py",
            "import sqlalchemy",
            "Only the store, the subjects and the control plane know the database",
        ),
        ("registry/planted.py", "import fastapi", "Only the control plane knows FastAPI"),
        ("foundation/planted.py", "import numpy", "The ground floor needs the standard library only"),
    ],
)
def test_a_planted_breach_is_named(copy: Path, file: str, line: str, contract: str) -> None:
    """An import through a wall breaks exactly the contract for that wall."""
    path = copy / "src" / "roadworthy" / file
    path.write_text((path.read_text() if path.exists() else "") + f"\n{line}\n")
    result = walls(copy)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{contract} BROKEN" in " ".join(result.stdout.split()), result.stdout


def test_nothing_imports_in_a_circle(source: Path) -> None:
    """No module reaches itself through its imports."""
    assert cycles(source) == []


def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    """Three modules in a cycle are found, even if one import is inside a function."""
    ring = tmp_path / "ringed"
    ring.mkdir()
    (ring / "__init__.py").touch()
    (ring / "a.py").write_text("import ringed.b\n")
    (ring / "b.py").write_text("import ringed.c\n")
    (ring / "c.py").write_text("def late():\n    import ringed.a\n")
    assert cycles(ring) == ["ringed.a <-> ringed.b", "ringed.a <-> ringed.c", "ringed.b <-> ringed.c"]
