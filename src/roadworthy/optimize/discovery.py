"""Finds the candidate files by looking. Adding a way to convert is adding a file to `candidates/`."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

import roadworthy.optimize.candidates
from roadworthy.optimize.candidates.candidate import Candidate


@cache
def candidates() -> tuple[Candidate, ...]:
    """Every candidate, by name. The files are imported, the libraries that they use are not."""
    found: list[Candidate] = []
    for module in pkgutil.iter_modules(roadworthy.optimize.candidates.__path__):
        file = importlib.import_module(f"roadworthy.optimize.candidates.{module.name}")
        found.extend(getattr(file, "CANDIDATES", ()))
    return tuple(sorted(found, key=lambda candidate: candidate.name))
