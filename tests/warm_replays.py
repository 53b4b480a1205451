"""Packages that tests pack are replayed in processes that have imported scikit-learn already: importing it is most of what
packing a small model takes, and packing is not what most tests test. Those that test it, and those of what a model's code can do
to its process, are left alone."""

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

COLD = ("tests/package/", *(f"tests/faults/test_{case}_" for case in ("d16", "g4", "g5", "g8")))
MODULES = (
    "roadworthy.package.replay",
    "roadworthy.frameworks.scikit_learn",
    "pandas",
    *(f"sklearn.{part}" for part in ("compose", "ensemble", "linear_model", "pipeline", "preprocessing")),
)

_patch = pytest.MonkeyPatch()


class _Subprocess:
    """Python's module as `replay` sees it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)

    def Popen(  # noqa: N802  Python's name
        self, command: Sequence[str], **options: Any
    ) -> WarmProcess | subprocess.Popen[bytes]:
        """Warm, when the test that runs allows it and it is a replay of a package that this process has made."""
        environment: Mapping[str, str] | None = options["env"]
        test = os.environ.get("PYTEST_CURRENT_TEST", "")
        if list(command[:3]) != [sys.executable, "-I", "-c"] or environment is not None or test.startswith(COLD):
            return subprocess.Popen(command, **options)
        with Path(os.devnull).open("wb") as nothing:
            to = nothing.fileno()
            return nursery(*MODULES, isolated=True).start(
                command[2:], stdout=to, stderr=to, cwd=options["cwd"], session=True
            )


def pytest_sessionstart() -> None:
    """In every test. No fixture: each test would be taken for one that starts processes (tests/tiers.py)."""
    _patch.setattr(replay, "subprocess", _Subprocess())


def pytest_sessionfinish() -> None:
    """As it was."""
    _patch.undo()
