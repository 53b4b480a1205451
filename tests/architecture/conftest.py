"""Fixtures of the architecture tests: the real source tree, and small trees with planted violations.

Each rule is a function from a source folder to a list of faults. Its test expects no faults in the real tree; its negative
control expects the fault in a planted tree, so that a rule cannot silently stop working.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Plant = Callable[[dict[str, str]], Path]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def source() -> Path:
    """The real package's folder."""
    return ROOT / "src" / "roadworthy"


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """Write files (path → text) below a new folder named roadworthy, and return that folder."""

    def _plant(files: dict[str, str]) -> Path:
        folder = tmp_path / "roadworthy"
        for name, text in {"__init__.py": "", **files}.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            for parent in path.relative_to(tmp_path).parents:
                if parent.name:
                    (tmp_path / parent / "__init__.py").touch()
        return folder

    return _plant
