"""Finds the candidate files. To add a conversion, add a file to `candidates/`."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

import roadworthy.optimize.candidates
from roadworthy.optimize.candidates.candidate import Candidate


@cache
def candidates() -> tuple[Candidate, ...]:
    """Every candidate, sorted by name. Imports the candidate files, but not the libraries that they use."""
    found: list[Candidate] = []
    for module in pkgutil.iter_modules(roadworthy.optimize.candidates.__path__):
        file = importlib.import_module(f"roadworthy.optimize.candidates.{module.name}")
        found.extend(getattr(file, "CANDIDATES", ()))
    return tuple(sorted(found, key=lambda candidate: candidate.name))
