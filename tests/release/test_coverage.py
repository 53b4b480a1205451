"""`make coverage` judges each room by itself."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
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


def test_each_room_is_judged_by_its_branches(coverage: ModuleType) -> None:
    """Files are summed. Lines do not make up for branches, and a room without files has nothing covered."""
    report = {
        "files": {
            "src/roadworthy/serving/split.py": file(10, 10, 1, 4),
            "src/roadworthy/serving/cache/shared.py": file(5, 10, 2, 2),
            "src/roadworthy/package/card.py": file(9, 10, 0, 0),
        }
    }
    rooms, files = coverage.shares(report)
    assert {room: (share.of_branches, share.of_lines) for room, share in rooms.items()} == {
        "serving": (0.5, 0.75),
        "rollout": (0.0, 0.0),
        "statistics": (0.0, 0.0),
        "package": (0.9, 0.9),
    }
    assert files["serving/split.py"].of_branches == 0.25


@pytest.mark.parametrize(("covered", "status"), [(17, 1), (18, 0)])
def test_too_few_branches_fail(
    coverage: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    covered: int,
    status: int,
) -> None:
    """Below nine of ten branches in one room, the command fails and names the room."""
    files = {f"src/roadworthy/{room}/one.py": file(10, 10, 20, 20) for room in coverage.ROOMS}
    files["src/roadworthy/rollout/one.py"] = file(10, 10, covered, 20)
    report = tmp_path / "report"

    def run(*_: Any, **__: Any) -> SimpleNamespace:
        report.write_text(json.dumps({"files": files}))
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(coverage, "REPORT", report)
    monkeypatch.setattr(coverage.subprocess, "run", run)
    assert coverage.main([]) == status
    printed = capsys.readouterr()
    assert f"missed: {20 - covered} branches, 0 lines" in printed.out
    assert ("in: rollout" in printed.err) == bool(status)
