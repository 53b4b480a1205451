"""Importing Roadworthy and describing a package stay light: they import no framework, database or server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import DEADLINE_S

HEAVY = ("sklearn", "scipy", "pandas", "polars", "onnx", "onnxruntime", "skl2onnx", "torch", "joblib")
SERVERS = ("fastapi", "starlette", "sqlalchemy", "alembic", "uvicorn")


def imported(code: str, *arguments: str) -> set[str]:
    """Top-level names of all modules in a new Python after running `code`."""
    probe = f"{code}\nimport sys\nprint('\\nmodules', *{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run(
        [sys.executable, "-c", probe, *arguments], capture_output=True, text=True, timeout=4 * DEADLINE_S, check=False
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.rpartition("modules ")[2].split())


def test_importing_roadworthy_is_light() -> None:
    """`import roadworthy` imports no framework, server or database, not even numpy or Arrow."""
    assert imported("import roadworthy") & {*HEAVY, *SERVERS, "numpy", "pyarrow", "cloudpickle"} == set()


def test_describing_a_package_is_light(tree_package: Path) -> None:
    """Opening a package and reading its description and golden examples imports no heavy library."""
    code = """
import sys
from pathlib import Path
from roadworthy.package.archive import open_package
package = open_package(Path(sys.argv[1]))
package.digest, package.name, package.manifest, package.signature, package.runtimes, package.card, package.attestations
assert package.carries_code
assert package.golden()[0].rows > 0
"""
    assert imported(code, str(tree_package)) & {*HEAVY, *SERVERS} == set()


def test_the_command_line_starts_light() -> None:
    """The command line imports a framework only for a command that needs one."""
    assert imported("import roadworthy.cli.main") & {*HEAVY, "sqlalchemy", "alembic"} == set()


@pytest.mark.parametrize("library", ["pandas", "sklearn"])
def test_a_planted_heavy_import_is_found(library: str) -> None:
    """The probe detects an imported library."""
    assert library in imported(f"import {library}, roadworthy")


@pytest.fixture(scope="module")
def tree_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed scikit-learn model that carries code."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.tree import DecisionTreeClassifier

    import roadworthy as rw

    data = load_breast_cancer(as_frame=True)
    model = DecisionTreeClassifier(max_depth=3, random_state=0).fit(data.data, data.target)
    package = rw.pack(
        model, name="cells", inputs=data.data, labels=data.target, out=tmp_path_factory.mktemp("dist"), compile=False
    )
    assert package.path is not None
    return package.path
