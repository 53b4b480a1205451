"""Fixtures of the architecture tests: the real source tree, and a way to plant a violation in a small one of its own.

Each rule is a function from a source folder to a list of faults. Each test asks it of the real tree and expects none; its
negative control asks it of a planted tree and expects the fault, so that no rule goes quietly green.
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
    """Write files (path → text) below a fresh folder named roadworthy and return that folder."""

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
