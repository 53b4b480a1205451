"""`make coverage` judges each room by itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "room_coverage.py"


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("room_coverage", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def file(lines: int, of_lines: int, branches: int, of_branches: int) -> dict[str, Any]:
    """What the report says of a file."""
    return {
        "summary": {
            "covered_lines": lines,
            "num_statements": of_lines,
            "covered_branches": branches,
            "num_branches": of_branches,
        }
    }


def test_statements_and_branches_of_a_room_count_together(coverage: ModuleType) -> None:
    """Files are summed; a room without files has nothing covered."""
    report = {
        "files": {
            "src/roadworthy/serving/split.py": file(8, 10, 1, 4),
            "src/roadworthy/serving/cache/shared.py": file(5, 5, 1, 1),
            "src/roadworthy/package/golden.py": file(9, 9, 1, 1),
        }
    }
    assert coverage.shares(report) == {"serving": 0.75, "rollout": 0.0, "statistics": 0.0, "package": 1.0}
