"""Replays the packages that tests pack in processes that have already imported scikit-learn, whose import takes most of the time
of packing a small model. Tests of packing, and of the effects of a model's code on its process, are excluded."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from roadworthy.package import replay
from tests.warm import WarmProcess, nursery

COLD = (
    "tests/package/test_pack.py",
    "tests/package/test_proof.py",
    *(f"tests/faults/test_{case}_" for case in ("d16", "g4", "g5", "g8")),
)
MODULES = (
    "roadworthy.package.replay",
    "roadworthy.frameworks.scikit_learn",
    "pandas",
    *(f"sklearn.{part}" for part in ("compose", "ensemble", "linear_model", "pipeline", "preprocessing")),
)

_patch = pytest.MonkeyPatch()


class _Subprocess:
    """Python's module in the form that `replay` uses."""

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)

    def Popen(  # noqa: N802  Python's name
        self, command: Sequence[str], **options: Any
    ) -> WarmProcess | subprocess.Popen[bytes]:
        """Start a warm process if the running test allows it and it replays a package made by this process."""
        environment: Mapping[str, str] | None = options["env"]
        test = os.environ.get("PYTEST_CURRENT_TEST", "")
        if list(command[:3]) != [sys.executable, "-I", "-c"] or environment is not None or test.startswith(COLD):
            return subprocess.Popen(command, **options)
        with Path(os.devnull).open("wb") as nothing:
            to = nothing.fileno()
            return nursery(*MODULES, flags=("-I",)).start(command[2:], stdout=to, stderr=to, cwd=options["cwd"], session=True)


def pytest_sessionstart() -> None:
    """Applies to every test. It is not a fixture, since every test would then count as starting processes (tests/tiers.py)."""
    _patch.setattr(replay, "subprocess", _Subprocess())


def pytest_sessionfinish() -> None:
    """Restore the module."""
    _patch.undo()
